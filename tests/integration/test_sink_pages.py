"""The loop of sinks, with a target in memory that forgets what it was not told to keep."""

from __future__ import annotations

import contextlib
import itertools
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import runlease
from runlease.records import RunRecord
from runlease.sinks import Follower, TargetError, feed
from runlease.sinks.target import Memo, Row

from tests.integration.test_sync import Spool, points
from tests.support.cli import RUNLEASE
from tests.support.coordinator import CoordinatorProcess
from tests.support.trackers import in_tensorboard
from tests.support.wait import until


class Memory:
    """A target, and its only run; what is written becomes its own at the flush, where it may fail."""

    identity = "memory"

    def __init__(self, fails: Iterable[int] = ()) -> None:
        self.kept: list[tuple[str, int, float]] = []
        self.flushes = 0
        self.starts: list[int] = []
        self.ends: list[str] = []
        self.fails = set(fails)
        self._written: list[tuple[str, int, float]] = []

    def open(self, record: RunRecord, name: str, memo: Memo) -> Memory:
        assert memo == ({"flushes": self.flushes} if self.flushes else {})
        self._written = []
        return self

    def restart(self, step: int, time_s: float) -> None:
        self.starts.append(step)
        self.kept = [point for point in self.kept if point[1] < step]

    def write(self, rows: Iterable[Row]) -> None:
        self._written += [(key, row.step, value) for row in rows for key, value in row.values.items()]

    def flush(self) -> Memo:
        if self.flushes + 1 in self.fails:
            self.fails.remove(self.flushes + 1)
            raise TargetError("away")
        self.flushes += 1
        self.kept += self._written
        self._written = []
        return {"flushes": self.flushes}

    def end(self, record: RunRecord) -> None:
        self.ends.append(record.state)

    def close(self) -> None:
        pass


@pytest.fixture
def client(coordinator: CoordinatorProcess) -> Iterator[runlease.Client]:
    with runlease.Client(coordinator.address) as client:
        yield client


@pytest.fixture
def follower(client: runlease.Client, project: str, tmp_path: Path) -> Callable[..., Follower]:
    def make(target: Any, stop: threading.Event | None = None) -> Follower:
        return Follower(
            client,
            target,
            project,
            None,
            sink="memory",
            folder=tmp_path,
            writer="main",
            stop=stop or threading.Event(),
            tell=lambda message: None,
        )

    return make


def shown(client: runlease.Client, project: str, id: str) -> Counter[tuple[str, int, float]]:
    return Counter((point.key, point.step, point.value) for point in client.history(project, id).rows())


def test_pages_go_on_where_a_sink_died(
    client: runlease.Client,
    coordinator: CoordinatorProcess,
    follower: Callable[..., Follower],
    project: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given pages of 7 points, and a target that fails at every second flush...
    monkeypatch.setattr(feed, "PAGE_POINTS", 7)
    target = Memory(fails=range(2, 40, 2))
    start = {"project": project, "id": "r", "resume": "allow", "coordinator": coordinator.address}
    for attempt, (first, last) in enumerate([(0, 30), (20, 40)]):
        with runlease.init(**start) as run:
            run.rewind(first)
            for step in range(first, last):
                run.log({"loss": attempt + step / 100, "acc": -step}, step=step)
        # ...when a new sink goes on each time, then no page is missing or doubled.
        failures = 0
        while True:
            try:
                follower(target).once()
                break
            except TargetError:
                failures += 1
        assert failures >= 3
        assert Counter(target.kept) == shown(client, project, "r")
    assert set(target.starts) == {20}  # told again where the page behind it failed
    assert target.ends == ["finished", "finished"]


@pytest.mark.parametrize("seed", range(6))
def test_any_course_of_a_training_arrives_as_it_is_shown(
    client: runlease.Client,
    coordinator: CoordinatorProcess,
    follower: Callable[..., Follower],
    project: str,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    # Given attempts and rewinds to random steps, when sinks die at random flushes in between, then what a target that
    # hides has at the end is what is visible.
    random = Random(seed)
    monkeypatch.setattr(feed, "PAGE_POINTS", random.choice([3, 10, 1000]))
    target = Memory(fails=random.sample(range(1, 200), 60))
    value = itertools.count()

    def pass_by() -> None:
        with contextlib.suppress(TargetError):
            follower(target).once()

    for _ in range(5):
        with runlease.init(project=project, id="r", resume="allow", coordinator=coordinator.address) as run:
            for _ in range(random.randint(0, 3)):
                run.rewind(random.randint(0, run.step))
                for step in range(run.step, run.step + random.randint(0, 12)):
                    run.log({"loss": next(value), **({"acc": 1} if step % 3 else {})}, step=step)
                if random.random() < 0.5:
                    assert run.flush(30)
                    pass_by()
        pass_by()
    target.fails.clear()
    follower(target).once()
    assert Counter(target.kept) == shown(client, project, "r")


def test_late_points_of_an_older_attempt_hide_nothing_of_a_newer_one(
    client: runlease.Client,
    coordinator: CoordinatorProcess,
    follower: Callable[..., Follower],
    project: str,
    tmp_path: Path,
) -> None:
    # Given attempt 1, all of whose points are still in a spool, and attempt 2, which a sink has sent...
    spool = Spool(tmp_path / "spools", coordinator, project)
    target = Memory()
    first = spool.acquire()
    client.release(project, "r", first.fence, "crashed")
    spool.session(points(*range(8)), grant=first, outcome="crashed")
    with runlease.init(project=project, id="r", resume="must", resume_step=5, coordinator=coordinator.address) as run:
        for step in range(5, 10):
            run.log({"loss": 2.0}, step=step)
    follower(target).once()
    assert sorted(step for _, step, _ in target.kept) == list(range(5, 10))
    # ...when the spool is delivered, then the target gets what is visible of it, and keeps the rest.
    spool.sync()
    spool.client.close()
    follower(target).once()
    assert Counter(target.kept) == shown(client, project, "r")
    assert len(target.kept) == 10
    assert target.starts == []


def test_a_sink_survives_its_coordinator(
    start_coordinator: Callable[..., CoordinatorProcess], project: str, tmp_path: Path
) -> None:
    coordinator = start_coordinator()
    with runlease.init(project=project, id="a", coordinator=coordinator.address) as run:
        run.log({"loss": 0.5})
    sink = subprocess.Popen(
        [*RUNLEASE, "sink", "tensorboard", project, "--logdir", str(tmp_path / "tb"), "--every", "0.1"],
        env=coordinator.env | {"RUNLEASE_DIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert sink.stderr
        sink.stderr.readline()
        until(lambda: (tmp_path / "tb" / project / "a").exists())
        # Given a coordinator that is killed, when it is there again, then the sink goes on; it told of it once.
        coordinator.kill()
        assert "trying again until it answers" in sink.stderr.readline()
        coordinator.start()
        with runlease.init(project=project, id="b", coordinator=coordinator.address) as run:
            run.log({"loss": 0.25})
        until(lambda: bool(list((tmp_path / "sinks").glob("*/*/*/b.json"))))
        sink.send_signal(signal.SIGTERM)
        assert sink.stderr.read() == "runlease: sent 2 points\n"
        assert sink.wait(30) == 0
    finally:
        sink.kill()
        sink.wait()
        if sink.stderr:
            sink.stderr.close()
    assert [point.value for point in in_tensorboard(tmp_path / "tb" / project / "b")] == [0.25]
