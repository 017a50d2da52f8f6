"""What trainers leave on disk: at the end without a coordinator, after a SIGKILL, on a disk that takes nothing."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import runlease
from runlease.spool import Session, find_sessions

from tests.support.coordinator import CoordinatorProcess
from tests.support.puppet import Puppet, Refused
from tests.support.spools import rows_in
from tests.support.wait import until

StartCoordinator = Callable[..., CoordinatorProcess]
StartPuppet = Callable[..., Puppet]


def spool_of(coordinator: CoordinatorProcess, project: str = "p") -> Session:
    found = find_sessions(coordinator.spools / "spool" / project)
    assert not found.unreadable
    (session,) = found.sessions
    return session


def files_of(coordinator: CoordinatorProcess, project: str) -> list[Path]:
    return list((coordinator.spools / "spool" / project).rglob("*"))


def test_an_exit_without_a_coordinator_leaves_everything_and_the_outcome(
    start_coordinator: StartCoordinator, start_puppet: StartPuppet
) -> None:
    coordinator = start_coordinator()
    trainer = start_puppet(coordinator)
    facts = trainer.call("init", project="p", id="r/1", resume="allow")
    trainer.call("train", start=0, stop=100)
    assert trainer.call("flush")
    coordinator.kill()
    trainer.call("train", start=100, stop=300)
    trainer.call("commit", step=299, wait=False)
    assert trainer.exit() == 0
    session = spool_of(coordinator)
    assert f"400 points of p/r/1 can be delivered later: runlease sync {session.path}" in trainer.stderr
    assert "until `runlease sync`" in trainer.stderr
    assert (session.header.fence, session.header.attempt, session.header.run.id) == (facts["fence"], 1, "r/1")
    assert (session.base, session.outcome, session.locked) == (0, "finished", False)
    assert [row[0] for row in rows_in(session, after=session.acknowledged)] == list(range(100, 300))
    assert [entry.WhichOneof("payload") for _, entry in session.entries()][-1] == "commit"
    # The next start of the run says that something waits.
    coordinator.start()
    successor = start_puppet(coordinator)
    successor.call("init", project="p", id="r/1", resume="allow", wait=60)
    successor.exit()
    assert f"an earlier session of p/r/1 left metrics in {session.path.parent}" in successor.stderr


def test_always_brings_back_every_row_that_was_logged_before_a_sigkill(
    start_coordinator: StartCoordinator, start_puppet: StartPuppet
) -> None:
    coordinator = start_coordinator()
    trainer = start_puppet(coordinator)
    trainer.call("init", project="p", id="r", resume="allow", spool="always")
    trainer.call("train", start=0, stop=500)
    assert trainer.call("flush")
    trainer.call("commit", step=499)
    trainer.call("rewind", step=400)
    # Its last rows, in the middle of an interval, have gone nowhere yet.
    logged = trainer.call("train", start=400, stop=1234)
    trainer.call("train_forever", start=1234, period_s=0.0005)
    session = spool_of(coordinator)
    assert session.locked
    time.sleep(0.2)  # any moment is as good as another
    trainer.kill()
    session = spool_of(coordinator)
    assert not session.locked
    assert session.outcome is None
    with runlease.Client(coordinator.address) as client:
        stored = {row.step for row in client.history("p", "r", keys=["loss"]).rows()}
    spooled = [row[0] for row in rows_in(session, after=session.acknowledged)]
    last = max(spooled)
    assert last >= logged
    assert stored | set(spooled) == set(range(last + 1))
    tail = [last]
    while len(tail) < len(spooled) and spooled[-len(tail) - 1] == tail[-1] - 1:
        tail.append(tail[-1] - 1)
    assert tail[-1] <= min(set(spooled) - stored)  # in order, whatever else was stored already
    assert session.damages == []


def test_always_leaves_nothing_when_all_is_delivered(
    coordinator: CoordinatorProcess, start_puppet: StartPuppet, project: str
) -> None:
    trainer = start_puppet(coordinator)
    trainer.call("init", project=project, id="r", spool="always")
    trainer.call("train", start=0, stop=20_000)
    assert trainer.call("flush")
    until(lambda: trainer.call("stats")["spooled"] == 0)
    # One file of the journal, or two, and the last entry, which says how far the journal is covered.
    assert len([path for path in files_of(coordinator, project) if path.name.startswith("entries")]) == 1
    assert sum(path.stat().st_size for path in files_of(coordinator, project)) < 3 << 20
    stats = trainer.call("stats")
    assert (stats["acknowledged"], stats["lost"], stats["dropped"]) == (40_000, 0, 0)
    assert trainer.call("finish")
    assert files_of(coordinator, project) == []
    with runlease.Client(coordinator.address) as client:
        assert len(client.history(project, "r")) == 40_000


def test_never_writes_nothing(start_coordinator: StartCoordinator, start_puppet: StartPuppet) -> None:
    coordinator = start_coordinator()
    trainer = start_puppet(coordinator, RUNLEASE_SPOOL="never")
    trainer.call("init", project="p", id="r")
    coordinator.kill()
    trainer.call("train", start=0, stop=10)
    assert trainer.exit() == 0
    assert not coordinator.spools.exists()
    assert "20 points of p/r were not delivered" in trainer.stderr


FULL_DISK = """
import resource, sys
import runlease
from runlease.writersettings import WriterSettings
defaults = WriterSettings.__init__.__kwdefaults__
defaults["buffer_bytes"], defaults["batch_points"] = 50_000, 100
run = runlease.init(project="p", id="r", spool=sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # as if the disk were full
print("ready", flush=True)
assert sys.stdin.readline()
for step in range(20_000):
    run.log({"loss": step})
print("logged", flush=True)
assert sys.stdin.readline()
assert run.flush(60)
run.lease.check()
stats = run.stats()
assert stats.logged == 20_000 == stats.acknowledged + stats.dropped, stats
assert stats.dropped > 1000, stats
assert run.finish()
"""


@pytest.mark.parametrize("how", ["overflow", "always"])
def test_a_full_disk_stops_no_training(start_coordinator: StartCoordinator, how: str) -> None:
    coordinator = start_coordinator()
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", FULL_DISK, how],
        env=coordinator.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "ready\n"
        coordinator.kill()
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "logged\n"
        coordinator.start()
        _, errors = process.communicate("go\n", timeout=60)
    assert process.returncode == 0, errors
    assert errors.count("set RUNLEASE_DIR to another directory") >= 1
    with runlease.Client(coordinator.address) as client:
        steps = [row.step for row in client.history("p", "r").rows()]
    assert steps[-1] == 19_999
    assert len(set(steps)) == len(steps) > 50


OVERFLOW = """
import sys
import runlease
from runlease.writersettings import WriterSettings
defaults = WriterSettings.__init__.__kwdefaults__
defaults["buffer_bytes"], defaults["batch_points"] = 50_000, 100
run = runlease.init(project="p", id="r")
print("ready", flush=True)
assert sys.stdin.readline()
for step in range(20_000):
    run.log({"loss": step})
    if step % 5000 == 4999:
        run.commit_checkpoint(step, f"/c/{step}")
    if step == 12_000:
        run.rewind(11_000)
        run.step = step + 1
print("logged", flush=True)
assert sys.stdin.readline()
assert run.stats().spooled > 10_000, run.stats()
assert run.flush(60)
stats = run.stats()
assert (stats.acknowledged, stats.spooled, stats.lost, stats.dropped) == (20_000, 0, 0, 0), stats
assert run.finish()
"""


def test_what_overflows_while_the_coordinator_is_away_arrives_once_and_in_order(
    start_coordinator: StartCoordinator,
) -> None:
    coordinator = start_coordinator()
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", OVERFLOW],
        env=coordinator.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "ready\n"
        coordinator.kill()
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "logged\n"
        coordinator.start()
        _, errors = process.communicate("go\n", timeout=60)
    assert process.returncode == 0, errors
    assert "they go to disk" in errors
    assert list(coordinator.spools.rglob("*")) == [coordinator.spools / "spool"]
    with runlease.Client(coordinator.address) as client:
        every = client.history("p", "r", superseded=True).rows()
        assert sorted(row.step for row in every) == list(range(20_000))
        shown = [row.step for row in client.history("p", "r").rows()]
        assert shown == [*range(11_000), *range(12_001, 20_000)]
        run = client.get_run("p", "r")
    assert [(point.step, point.superseded) for point in run.checkpoints] == [
        (4999, False),
        (9999, False),
        (14_999, False),
        (19_999, False),
    ]


def test_a_lost_lease_leaves_what_it_could_not_deliver(
    start_coordinator: StartCoordinator, start_puppet: StartPuppet
) -> None:
    coordinator = start_coordinator()
    trainer = start_puppet(coordinator)
    facts = trainer.call("init", project="p", id="r", resume="allow")
    trainer.call("train", start=0, stop=10)
    assert trainer.call("flush")
    with runlease.Client(coordinator.address) as client:
        client.break_lease("p", "r", facts["fence"], force=True, reason="the test says so")
    # A renewal may tell it before the log does; either way nothing more is taken in.
    with contextlib.suppress(Refused):
        trainer.call("train", start=10, stop=20)
    trainer.call("wait_lost", timeout=30)
    trainer.exit()
    session = spool_of(coordinator)
    assert (session.header.attempt, session.outcome) == (1, None)
    assert {row[0] for row in rows_in(session, after=session.acknowledged)} <= set(range(10, 20))
    assert rows_in(session)
    assert "can be delivered later: runlease sync" in trainer.stderr
