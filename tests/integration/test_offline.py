"""Runs without a coordinator: all that they do is in the spool, in order, and the next segment goes on behind it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import runlease
from runlease import exits
from runlease.exceptions import CoordinatorUnavailable, InvalidArgument, LeaseHeld, LeaseLost, RunExists, RunleaseError
from runlease.spool import Session, find_sessions
from runlease.sync.report import Result
from runlease.sync.runs import Synchronizer
from runlease.v1 import leases_pb2

from tests.support.coordinator import CoordinatorProcess
from tests.support.spools import rows_in
from tests.support.wait import until


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("RUNLEASE_DIR", str(tmp_path / "clients"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "clients"
    for run in exits.active():
        run.finish(timeout=5)
    until(lambda: not any(thread.name.startswith("runlease-") for thread in threading.enumerate()))


def start(**arguments: Any) -> runlease.Run:
    return runlease.init(**{"project": "p", "id": "r", "resume": "allow", "mode": "offline", **arguments})


def sessions(directory: Path) -> list[Session]:
    found = find_sessions(directory)
    assert not found.unreadable
    return found.sessions


def test_all_that_a_run_does_is_in_its_spool(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = start(id="r/1", config={"lr": 0.1}, notes="night", name="nightly", auto_key="job")
    assert (run.step, run.starting_step, run.attempt, run.fence, run.resumed, run.checkpoint) == (
        0,
        0,
        1,
        0,
        False,
        None,
    )
    assert run.lease.state.value == "held"
    for _ in range(10):
        run.log({"loss": 0.5, "acc": 1.0})
    run.commit_checkpoint(9, "/c/9", {"a": 1}, wait=True)
    run.rewind(5)
    run.log({"loss": 0.25})
    run.update(summary={"best": 0.25}, config={"lr": 0.2})
    assert run.flush(20)
    stats = run.stats()
    assert (stats.logged, stats.spooled, stats.acknowledged, stats.buffered, stats.lost) == (21, 21, 0, 0, 0)
    assert run.finish("preempted")
    with pytest.raises(LeaseLost):
        run.log({"loss": 1.0})

    (session,) = sessions(directory)
    assert session.path.parent == directory / "spool" / "p" / "r-1"
    assert (session.offline, session.base, session.outcome, session.locked) == (True, 0, "preempted", False)
    kinds = [(place, entry.WhichOneof("payload")) for place, entry in session.entries()]
    assert [place for place, _ in kinds] == list(range(1, len(kinds) + 1))
    assert [kind for _, kind in kinds if kind != "points"] == ["commit", "rewind"]
    assert [row[0] for row in rows_in(session)] == [*range(10), 5]
    (update,) = session.updates
    assert (dict(update.config), dict(update.summary), update.fence) == ({"lr": "0.2"}, {"best": "0.25"}, 0)
    assert (update.run.project, update.run.id) == ("p", "r/1")
    request = session.header.acquire
    assert (request.run.id, request.nonce, request.name, request.notes) == (
        "r/1",
        session.header.session,
        "nightly",
        "night",
    )
    assert (request.mode, request.resume_step, dict(request.config)) == (
        leases_pb2.RESUME_MODE_ALLOW,
        0,
        {"lr": "0.1"},
    )
    shown = capsys.readouterr().err.splitlines()
    assert f"offline: starting run r/1 (nightly), in {session.path.parent}; deliver it later: runlease sync" in shown[0]
    assert shown[-1] == f"runlease: 21 points of p/r/1 can be delivered later: runlease sync {session.path}"


def test_the_next_segment_goes_on_behind_the_last_checkpoint(directory: Path) -> None:
    with start(config={"a": 1, "b": 1}) as run:
        name = run.name
        for step in range(20):
            run.log({"loss": step})
            if step in (4, 9, 14):
                run.commit_checkpoint(step, f"/c/{step}")
        run.update(summary={"best": 1})
    # A segment that starts lower hides what is above, once it has written something.
    with start(resume_step=3):
        pass
    with start() as run:
        assert (run.starting_step, run.attempt, run.name, run.previous_state) == (15, 3, name, "finished")
        assert run.checkpoint is not None
        assert (run.checkpoint.step, run.checkpoint.uri) == (14, "/c/14")
        assert (dict(run.config), dict(run.summary)) == ({"a": 1, "b": 1}, {"best": 1})
        run.rewind(10)
        run.log({"loss": 10.0})
    with start(config={"b": 2}) as run:
        assert (run.starting_step, run.attempt) == (10, 4)
        assert run.checkpoint is not None
        assert run.checkpoint.step == 9
        assert dict(run.config) == {"a": 1, "b": 2}
        run.rewind(2)
        run.log({"loss": 2.0})
        run.log({"loss": 3.0})
    with start() as run:
        assert (run.starting_step, run.checkpoint) == (4, None)
    steps = [session.header.acquire.resume_step for session in sessions(directory)]
    assert steps == [session.header.starting_step for session in sessions(directory)] == [0, 3, 15, 10, 4]


@pytest.mark.parametrize("delivered", range(4))
def test_a_segment_that_was_delivered_is_remembered(directory: Path, delivered: int) -> None:
    with start(config={"a": 1}, auto_key="job") as run:
        for step in range(20):
            run.log({"loss": step})
            if step in (4, 9, 14):
                run.commit_checkpoint(step, f"/c/{step}", {"at": step})
        run.update(summary={"best": 1})
    with start(resume_step=12, config={"b": 2}) as run:
        run.log({"loss": 12.0})
    with start() as run:
        assert (run.starting_step, run.attempt) == (10, 3)
        run.log({"loss": 10.0}, step=11)
        run.finish("preempted")
    for session in sessions(directory)[:delivered]:
        session.discard()
    with start(resume_step=7) as run:
        assert (run.attempt, run.previous_state, run.resumed) == (4, "preempted", True)
        assert run.checkpoint is not None
        assert (run.checkpoint.step, run.checkpoint.uri, dict(run.checkpoint.metadata)) == (4, "/c/4", {"at": 4})
    with start() as run:
        assert (run.starting_step, run.checkpoint.step if run.checkpoint else None) == (10, 9)
        assert (dict(run.config), dict(run.summary)) == ({"a": 1, "b": 2}, {"best": 1})
    with pytest.raises(RunExists):
        start(resume="never")


def test_resume_step_wins_and_shows_the_checkpoint_below_it(directory: Path) -> None:
    with start() as run:
        for step in (3, 6):
            run.log({"a": 1.0}, step=step)
            run.commit_checkpoint(step, f"/c/{step}")
    with start(resume_step=5) as run:
        assert (run.step, run.checkpoint.step if run.checkpoint else None) == (5, 3)


def test_never_refuses_a_run_that_is_on_this_disk(directory: Path) -> None:
    start().finish()
    with pytest.raises(RunExists, match='resume="allow"'):
        start(resume="never")
    assert start(resume="must").finish()


def test_auto_finds_the_run_by_its_key_unless_it_is_finished(directory: Path) -> None:
    first = start(id=None, resume="auto", auto_key="job-7")
    first.finish("preempted")
    for session in sessions(directory):  # delivered meanwhile
        session.discard()
    second = start(id=None, resume="auto", auto_key="job-7")
    assert (second.id, second.resumed) == (first.id, True)
    second.finish()
    third = start(id=None, resume="auto", auto_key="job-7")
    assert third.id != first.id
    keys = [list(session.header.acquire.auto_keys) for session in sessions(directory)]
    assert len(keys) == 2
    assert keys[0] == keys[1] != []
    assert all(session.header.acquire.auto_search for session in sessions(directory))


def test_branches_need_the_coordinator(directory: Path) -> None:
    with pytest.raises(InvalidArgument, match="fork_from needs the coordinator"):
        start(id=None, resume=None, fork_from="other?_step=3")
    assert not directory.exists()


def test_a_spool_is_what_offline_means(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match="spool"):
        start(spool="never")
    directory.touch()
    with pytest.raises(RunleaseError, match="RUNLEASE_DIR"):
        start()


def test_online_or_offline_falls_back_with_a_warning(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    away: dict[str, Any] = {"coordinator": "127.0.0.1:1", "connect_timeout": 0.2}
    with pytest.raises(CoordinatorUnavailable):
        start(mode="online", **away)
    run = start(mode="online-or-offline", **away)
    run.log({"loss": 1.0})
    assert run.finish()
    assert "starts offline, without a lease" in caplog.text
    (session,) = sessions(directory)
    assert rows_in(session)[0][2:] == (("loss",), (1.0,))


NO_NETWORK = """
import socket, sys, time
import grpc

def refuse(*arguments, **named):
    raise AssertionError("offline opens no connection")

socket.socket = grpc.insecure_channel = grpc.secure_channel = refuse
import runlease
run = runlease.init(project="p", id="r", resume="allow", mode="offline", spool=sys.argv[1])
for step in range(5000):
    run.log({"loss": step, "acc": -step})
print("logged", flush=True)
if sys.argv[2] == "wait":
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["overflow", "always"])
def test_a_process_without_network_leaves_all_of_it(directory: Path, how: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", NO_NETWORK, how, "go"], check=True, timeout=60)
    (session,) = sessions(directory)
    assert [row[0] for row in rows_in(session)] == list(range(5000))
    assert (session.outcome, session.damages, session.gaps) == ("finished", [], [])


def test_always_survives_a_sigkill_and_a_second_process_is_refused(directory: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", NO_NETWORK, "always", "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"logged\n"
        with pytest.raises(LeaseHeld, match="locked"):
            start()
        process.send_signal(signal.SIGKILL)
    (session,) = sessions(directory)
    assert [row[0] for row in rows_in(session)] == list(range(5000))
    run = start()
    assert (run.starting_step, run.previous_state) == (5000, "crashed")


def test_a_member_of_a_group_logs_nothing(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = start(group="g", holder=False, writer="rank1")
    run.log({"loss": 1.0})
    assert run.member
    assert run.finish()
    assert "only the holder of a group logs" in caplog.text
    assert not directory.exists()


def test_a_forked_child_leaves_the_spool_to_its_parent(directory: Path) -> None:
    run = start(spool="always")
    run.log({"loss": 0.0})
    child = os.fork()
    if child == 0:
        run.log({"loss": 99.0})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    run.log({"loss": 1.0})
    assert run.finish()
    (session,) = sessions(directory)
    assert [row[3] for row in rows_in(session)] == [(0.0,), (1.0,)]


def test_automatic_keys_lead_offline_segments_to_the_run_that_was_online(
    directory: Path, coordinator: CoordinatorProcess, project: str
) -> None:
    # Given a run of a job that was online first, and went on without a network
    where: dict[str, Any] = {"id": None, "project": project, "resume": "auto", "auto_key": "job-8"}
    with start(mode="online", coordinator=coordinator.address, **where) as online:
        for step in range(10):
            online.log({"loss": float(step)})
        online.finish("preempted")
    for segment, outcome in enumerate(("preempted", "finished")):
        run = start(resume_step=None if segment else 10, spool="always" if segment else None, **where)
        assert (run.step, run.id != online.id) == (10 * (segment + 1), True)
        for step in range(run.step, run.step + 10):
            run.log({"loss": float(step)})
        run.commit_checkpoint(run.step - 1, "/c")
        run.update(summary={"segment": segment}, config={"segment": segment}, notes=f"offline {segment}")
        assert run.finish(outcome)
    # when all of it is delivered
    with Synchronizer(coordinator.address) as synchronizer:
        found = [(session, Result.of(session)) for session in sessions(directory)]
        synchronizer.deliver(found)
    assert [result.attempt for _, result in found] == [2, 3]
    assert sessions(directory) == []
    # then it is one run, as if it had been online all the time.
    with runlease.Client(coordinator.address) as client:
        (record,) = client.list_runs(project)
        record = client.get_run(project, record.id)
        rows = client.history(project, online.id).rows()
        assert [(row.step, row.value, row.attempt) for row in rows] == [
            (step, float(step), step // 10 + 1) for step in range(30)
        ]
    assert (record.id, record.state, record.notes) == (online.id, "finished", "offline 1")
    assert (record.summary, record.config) == ({"segment": 1}, {"segment": 1})
    assert [attempt.outcome for attempt in record.attempts] == ["preempted", "preempted", "finished"]
