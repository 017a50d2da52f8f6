"""Processes that wait for one run: served in order, though waiters, holders and coordinators are killed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import runlease
from runlease.holder import this_process
from runlease_coordinator.store.keys import run_keys

from tests.support.cli import bootstrap
from tests.support.coordinator import CoordinatorProcess
from tests.support.proxy import TO_CLIENT, Proxy
from tests.support.puppet import Puppet, Refused
from tests.support.redis import RedisServer
from tests.support.wait import until

StartCoordinator = Callable[..., CoordinatorProcess]
StartPuppet = Callable[..., Puppet]

PROCESSES = 50
KILLED_WAITING = (3, 17, 18, 30, 49)
KILLED_HOLDING = (0, 10, 11, 25, 48)
WORKER = """
import os, signal, sys
import runlease
project, number, journal, hangs = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
run = runlease.init(project=project, id="r", resume="allow", wait=600, ttl=5)
out = os.open(journal, os.O_WRONLY | os.O_APPEND)
os.write(out, f"start {number} {run.fence}\\n".encode())
if hangs == "hangs":
    signal.pause()
os.write(out, f"end {number} {run.fence}\\n".encode())
run.finish()
"""


@pytest.fixture
def store(redis_binary: str) -> Iterator[RedisServer]:
    server = RedisServer("appendonly yes", "appendfsync always", binary=redis_binary)
    yield server
    server.close()


@pytest.fixture
def two(store: RedisServer, start_coordinator: StartCoordinator) -> list[CoordinatorProcess]:
    """Two coordinators on one store."""
    bootstrap(store.url)
    return [start_coordinator("--store", store.url, "--lock-delay", "1") for _ in range(2)]


def places(store: RedisServer, project: str) -> int:
    answer = store.command("ZCARD", run_keys(project, "r").wait)
    return int(answer.removeprefix(b":"))


def calls_of(store: RedisServer, project: str) -> set[bytes]:
    """Which calls keep the places alive; each coordinator numbers its own behind a word of its own."""
    lines = store.command("HVALS", run_keys(project, "r").waitx).split(b"\r\n")
    return {line.split()[1] for line in lines if b" " in line}


def coordinators_of(store: RedisServer, project: str) -> set[bytes]:
    return {call.partition(b".")[0] for call in calls_of(store, project)}


def start_worker(of: CoordinatorProcess, project: str, number: int, journal: Path) -> subprocess.Popen[str]:
    hangs = "hangs" if number in KILLED_HOLDING else "ends"
    command = [sys.executable, "-c", WORKER, project, str(number), str(journal), hangs]
    env = of.env | {"RUNLEASE_SILENT": "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)


def go(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin
    worker.stdin.write("go\n")
    worker.stdin.flush()


def entries(journal: Path) -> list[tuple[str, int, int]]:
    lines = [line.split() for line in journal.read_text().splitlines()]
    return [(kind, int(number), int(fence)) for kind, number, fence in lines]


def hold_until_killed(journal: Path, workers: list[subprocess.Popen[str]]) -> None:
    """Kill those that shall die as holders, each as soon as it holds."""
    for number in KILLED_HOLDING:
        until(lambda number=number: f"start {number} " in journal.read_text(), timeout_s=120)
        fence = next(fence for kind, n, fence in entries(journal) if (kind, n) == ("start", number))
        with journal.open("a") as out:
            out.write(f"killed {number} {fence}\n")
        workers[number].kill()


@pytest.mark.timeout(300)
def test_fifty_get_it_one_after_the_other_in_order_of_arrival(
    two: list[CoordinatorProcess], store: RedisServer, project: str, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    journal.touch()
    first = runlease.init(project=project, id="r", coordinator=two[0].address)
    workers = [start_worker(two[number % 2], project, number, journal) for number in range(PROCESSES)]
    try:
        for worker in workers:
            assert worker.stdout
            assert worker.stdout.readline() == "ready\n"
        for number, worker in enumerate(workers):
            go(worker)
            until(lambda number=number: places(store, project) == number + 1, every_s=0.01)
        for number in KILLED_WAITING:
            workers[number].kill()
        until(lambda: places(store, project) == PROCESSES - len(KILLED_WAITING))
        assert entries(journal) == []
        first.finish()
        hold_until_killed(journal, workers)
        alive = [n for n in range(PROCESSES) if n not in KILLED_WAITING + KILLED_HOLDING]
        assert [workers[number].wait(timeout=120) for number in alive] == [0] * len(alive)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                assert pipe
                pipe.close()

    told = entries(journal)
    holders = [number for kind, number, _ in told if kind == "start"]
    assert holders == [number for number in range(PROCESSES) if number not in KILLED_WAITING]
    # Never two at a time: each start is followed by its own end.
    ends = {number: "killed" if number in KILLED_HOLDING else "end" for number in holders}
    assert [(kind, number) for kind, number, _ in told] == [
        line for number in holders for line in (("start", number), (ends[number], number))
    ]
    fences = [fence for kind, _, fence in told if kind == "start"]
    assert fences == sorted(set(fences))
    assert fences[0] > first.fence
    with runlease.Client(two[0].address) as client:
        # The last holder was killed, too, and nobody came after it.
        until(lambda: client.get_run(project, "r").attempts[-1].outcome != "running")
        attempts = client.get_run(project, "r").attempts
    assert [attempt.fence for attempt in attempts] == [first.fence, *fences]
    outcomes = dict(zip(holders, (attempt.outcome for attempt in attempts[1:]), strict=True))
    assert [number for number in holders if outcomes[number] == "crashed"] == list(KILLED_HOLDING)
    assert set(outcomes.values()) == {"crashed", "finished"}
    assert places(store, project) == 0


def wait_for(puppet: Puppet, project: str, **more: object) -> None:
    puppet.send("init", project=project, id="r", resume="must", wait=120, **more)


def test_a_waiter_whose_coordinator_is_killed_keeps_its_place_at_the_other(
    two: list[CoordinatorProcess], store: RedisServer, start_puppet: StartPuppet, project: str
) -> None:
    both = f"{two[0].address},{two[1].address}"
    held = runlease.init(project=project, id="r", coordinator=two[1].address)
    first, second = start_puppet(two[0]), start_puppet(two[1])
    wait_for(first, project, coordinator=both)
    until(lambda: places(store, project) == 1)
    wait_for(second, project)
    until(lambda: places(store, project) == 2)
    assert len(coordinators_of(store, project)) == 2  # gRPC takes the first address that answers
    two[0].kill()
    until(lambda: len(coordinators_of(store, project)) == 1)
    assert places(store, project) == 2
    held.finish()
    fences = [held.fence, first.answer()["fence"]]
    assert places(store, project) == 1
    first.call("finish")
    fences.append(second.answer()["fence"])
    assert fences == sorted(set(fences))
    second.call("finish")


def test_waiters_keep_their_places_over_a_restart(
    start_coordinator: StartCoordinator, start_puppet: StartPuppet, project: str
) -> None:
    coordinator = start_coordinator("--lock-delay", "1")
    holder, first, second = (start_puppet(coordinator) for _ in range(3))
    fences = [holder.call("init", project=project, id="r")["fence"]]
    for puppet, place in ((first, 1), (second, 2)):
        wait_for(puppet, project)
        until(lambda puppet=puppet, place=place: f"place {place}" in puppet.stderr)
    coordinator.kill()
    coordinator.start()
    assert holder.call("finish")
    for puppet in (first, second):
        fences.append(puppet.answer()["fence"])
        assert puppet.call("finish")
    assert fences == sorted(set(fences))


def test_a_stopped_waiter_delays_others_and_does_not_block_them(
    two: list[CoordinatorProcess],
    store: RedisServer,
    start_puppet: StartPuppet,
    project: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given a head that does not answer any more: its connection lives, so its turn comes, and passes."""
    # Who waits for a holder on another machine calls for 20 s at a time, but for a first look; beside it, for 2 s. Then
    # its turn could come between two calls, or its call could time out in its sleep, and it would begin anew.
    elsewhere = replace(this_process(), boot_id="another machine")
    monkeypatch.setattr("runlease.client.this_process", lambda: elsewhere)
    first, second = (start_puppet(two[0]) for _ in range(2))
    with runlease.Client(two[0].address) as client:
        held = client.acquire(project, "r", nonce="1", ttl_s=60)
        wait_for(first, project, ttl=5)
        until(lambda: places(store, project) == 1)
        (look,) = calls_of(store, project)
        wait_for(second, project, ttl=5)
        until(lambda: places(store, project) == 2)
        until(lambda: look not in calls_of(store, project), every_s=0.01)
        first.stop()
        assert client.release(project, "r", held.fence) == "finished"
    assert second.answer()["previous_state"] == "crashed"
    first.resume()
    assert second.call("finish")
    with pytest.raises(Refused) as caught:  # it was granted the lease in its sleep, and must not believe it
        first.answer()
    assert caught.value.kind == "LeaseLost"


def test_who_gives_up_gives_its_place_up_too(two: list[CoordinatorProcess], store: RedisServer, project: str) -> None:
    """Given that no answer comes before the wait is over, when one does, then those behind it need not wait for it."""
    proxy = Proxy(two[0].address)
    with runlease.Client(two[0].address) as client, ThreadPoolExecutor(1) as executor:
        client.acquire(project, "r", nonce="1", resume="allow")
        began = time.monotonic()
        waiter = executor.submit(
            runlease.init, project=project, id="r", resume="allow", wait=3, coordinator=proxy.address
        )
        until(lambda: places(store, project) == 1)
        proxy.stall(TO_CLIENT)
        until(lambda: time.monotonic() > began + 3.5)
        proxy.flow(TO_CLIENT)
        assert isinstance(waiter.exception(30), runlease.LeaseHeld)
    assert places(store, project) == 0
    proxy.close()
