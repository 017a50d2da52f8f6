"""What trainers leave on disk: at the end without a coordinator, after a SIGKILL, on a disk that takes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import runlease
from runlease.spool import Session, find_sessions

from tests.support.coordinator import CoordinatorProcess
from tests.support.puppet import Puppet
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
    assert not [path for path in files_of(coordinator, project) if path.name.startswith("entries")]
    assert sum(path.stat().st_size for path in files_of(coordinator, project)) < 3 << 20  # one file of the journal, two
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
