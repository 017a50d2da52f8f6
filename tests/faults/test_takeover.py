"""Processes under one lease take the log over from each other, dead or alive, while the coordinator is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
import runlease

from tests.support.coordinator import CoordinatorProcess
from tests.support.wait import until


class Child:
    """A process of `tests.faults.child`, and what it told so far."""

    def __init__(self, coordinator: CoordinatorProcess, project: str, fence: int, number: int) -> None:
        wish = {"address": coordinator.address, "project": project, "fence": fence, "number": number}
        self.number = number
        self.told: dict[str, object] = {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.child", json.dumps(wish)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=coordinator.env,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.told |= json.loads(line)

    @property
    def acknowledged(self) -> int:
        return int(self.told.get("acknowledged", 0))

    @property
    def start(self) -> int:
        return int(self.told["start"])

    def end(self) -> None:
        """Wait for its end, and for the last that it told."""
        assert self.process.wait(60) is not None
        self._reader.join()

    def close(self) -> None:
        self.process.kill()
        self.end()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream
            stream.close()


@pytest.mark.parametrize("fault", ["none", "coordinator", "store"])
def test_successors_under_one_fence(fault: str, start_coordinator: Callable[..., CoordinatorProcess]) -> None:
    coordinator = start_coordinator()
    children: list[Child] = []
    with runlease.Client(coordinator.address, timeout_s=60) as client:
        fence = client.acquire("p", "r", nonce="n", resume="never", ttl_s=60).fence
        try:
            # Given four processes, one after the other: the second finds its predecessor dead, the others alive
            for number in range(4):
                children.append(Child(coordinator, "p", fence, number))
                until(lambda: children[-1].acknowledged > 200 or "reason" in children[-1].told)
                assert "reason" not in children[-1].told, [child.told for child in children]
                if number == 0:
                    children[0].process.kill()
                if fault == "coordinator":
                    coordinator.kill()
                    coordinator.start()
                elif fault == "store":
                    coordinator.kill_store()
            before = children[-1].acknowledged
            until(lambda: children[-1].acknowledged > before + 200)
            last = children[-1].process
            assert last.stdin
            last.stdin.close()
            for child in children:
                child.end()
        finally:
            for child in children:
                child.close()
        everything = list(client.history("p", "r", superseded=True).rows())
        visible = list(client.history("p", "r").rows())
        run = client.get_run("p", "r")

    # Then those that were alive were told, and the last one delivered all
    assert [child.told["reason"] for child in children[1:]] == ["SESSION_TAKEN", "SESSION_TAKEN", ""]
    assert children[-1].told["delivered"]
    assert children[-1].acknowledged == children[-1].told["logged"]
    # Nothing is doubled, and all that was acknowledged is there: a process logs each of its steps once, in order
    by_child = [[row.step for row in everything if row.value == row.step + child.number / 8] for child in children]
    assert sum(map(len, by_child)) == len(everything) == run.points
    for child, steps in zip(children, by_child, strict=True):
        assert steps == list(range(child.start, child.start + len(steps)))
        assert len(steps) >= child.acknowledged
    # And the run shows one line, of each process from where it took over
    starts = [child.start for child in children] + [run.next_step]
    assert [(row.step, row.value) for row in visible] == [
        (step, step + child.number / 8)
        for child, stop in zip(children, starts[1:], strict=True)
        for step in range(child.start, stop)
    ]
