"""`runlease sync` against real coordinators: spools of killed processes and of offline ones, delivered once."""

from __future__ import annotations

import contextlib
import json
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import runlease
from runlease.channel import open_channel
from runlease.client import run_ref
from runlease.spool import Session, find_sessions
from runlease.spool.files import SpoolFiles
from runlease.spool.records import frame_entry
from runlease.sync import Result, Synchronizer
from runlease.v1 import leases_pb2, leases_pb2_grpc, metrics_pb2, runs_pb2, spool_pb2

from tests.support.coordinator import CoordinatorProcess
from tests.support.terminal import Terminal
from tests.support.wait import until

LONG = 60.0
_CREATED = iter(range(1_700_000_000, 1_800_000_000))


class Spool:
    """Spools as processes leave them, below one RUNLEASE_DIR."""

    def __init__(self, directory: Path, coordinator: CoordinatorProcess, project: str) -> None:
        self.directory, self.coordinator, self.project = directory, coordinator, project
        self.client = runlease.Client(coordinator.address)

    def session(
        self, *entries: metrics_pb2.Entry, grant: Any = None, run: str = "r", base: int | None = None, **more: Any
    ) -> Path:
        """Leave a session: of a grant, or (None) an offline segment."""
        header = spool_pb2.SpoolHeader(
            run=run_ref(self.project, run), writer="main", session=secrets.token_hex(16), created=next(_CREATED)
        )
        if grant is not None:
            header.fence, header.attempt = grant.fence, grant.attempt
        else:
            request = leases_pb2.AcquireRequest(
                run=header.run,
                mode=more.get("mode", "RESUME_MODE_ALLOW"),
                resume_step=more.get("resume_step"),
                ttl_ms=more.get("ttl_ms", 0),
                auto_keys=more.get("auto_keys", ()),
                auto_search="auto_keys" in more,
            )
            header.acquire.CopyFrom(request)
        files = SpoolFiles(self.directory, header)
        for place, entry in enumerate(entries, 1):
            if entry.WhichOneof("payload") is None:  # a batch that is gone
                continue
            files.append(frame_entry(entry, place, sum(len(s.values) for s in entry.points.series)))
        if base is not None:
            files.note(spool_pb2.SpoolRecord(base=spool_pb2.SpoolBase(seq=base)))
        for name, value in more.get("summary", {}).items():
            update = runs_pb2.UpdateRunRequest(run=header.run, summary={name: json.dumps(value)})
            files.note(spool_pb2.SpoolRecord(update=update))
        if "outcome" in more:
            files.note(spool_pb2.SpoolRecord(outcome=f"RUN_STATE_{more['outcome'].upper()}"))
        if more.get("lives"):
            self.alive = files
        else:
            files.close()
        return files.path

    def acquire(self, run: str = "r", **more: Any) -> Any:
        return self.client.acquire(self.project, run, nonce=secrets.token_hex(8), resume="allow", **more)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "runlease", "sync", str(self.directory), *arguments]

    def sync(self, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        """Run `runlease sync` to its end; returns what it says of each session."""
        done = subprocess.run(
            self.command("-o", "json", *arguments),
            env=self.coordinator.env,
            capture_output=True,
            text=True,
            timeout=LONG,
            check=False,
        )
        assert done.returncode == code, done.stderr
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    def shown(self, run: str = "r", **more: Any) -> list[tuple[int, float, int]]:
        found = self.client.history(self.project, run, **more)
        return [
            (int(step), float(value), int(attempt))
            for one in found.series
            for step, value, attempt in zip(one.steps, one.values, one.attempts, strict=True)
        ]

    def run(self, run: str = "r") -> Any:
        return self.client.get_run(self.project, run)


@pytest.fixture
def spool(tmp_path: Path, coordinator: CoordinatorProcess, project: str) -> Spool:
    return Spool(tmp_path / "spools", coordinator, project)


def points(*steps: int, value: float = 1.0) -> metrics_pb2.Entry:
    series = metrics_pb2.Series(key="loss", values=[value] * len(steps))
    return metrics_pb2.Entry(points=metrics_pb2.Points(steps=steps, times=[float(s) for s in steps], series=[series]))


def commit(step: int) -> metrics_pb2.Entry:
    return metrics_pb2.Entry(commit=metrics_pb2.Commit(step=step, uri=f"file:///{step}"))


def rewind(step: int) -> metrics_pb2.Entry:
    return metrics_pb2.Entry(rewind=metrics_pb2.Rewind(step=step))


GONE = metrics_pb2.Entry()


def left(spool: Spool) -> list[Path]:
    return sorted(spool.directory.glob("spool/*/*/*/session"))


def test_an_ended_attempt_gets_what_it_could_not_deliver(spool: Spool) -> None:
    first = spool.acquire()
    spool.client.release(spool.project, "r", first.fence, "crashed")
    spool.session(points(0, 1, 2), commit(2), rewind(1), points(1), grant=first, outcome="preempted")
    # Given that the run went on meanwhile, and ended.
    second = spool.acquire(resume_step=2)
    spool.session(points(2, 3, value=2.0), grant=second, outcome="failed")
    with pytest.raises(runlease.LeaseHeld):
        spool.acquire()
    spool.client.release(spool.project, "r", second.fence, "finished")
    report = spool.sync()
    assert [(row["verdict"], row["attempt"], row["sent_points"]) for row in report] == [
        ("delivered", 1, 4),
        ("delivered", 2, 2),
    ]
    assert spool.shown() == [(0, 1.0, 1), (1, 1.0, 1), (2, 2.0, 2), (3, 2.0, 2)]
    run = spool.run()
    # What was released before keeps its outcome.
    assert [(a.outcome, a.points) for a in run.attempts] == [("crashed", 4), ("finished", 2)]
    assert (run.state, run.next_step, run.attempt) == ("finished", 4, 2)
    assert [(c.step, c.superseded) for c in run.checkpoints] == [(2, True)]
    assert not left(spool)
    assert spool.sync() == []


def test_the_outcome_of_a_process_that_could_not_tell_is_delivered(spool: Spool) -> None:
    grant = spool.acquire(ttl_s=5)
    spool.session(points(0), grant=grant, outcome="finished")
    # The lease expires, and its lock-delay passes, while the sync waits.
    spool.sync()
    assert (spool.run().state, spool.shown()) == ("finished", [(0, 1.0, 1)])


def test_offline_segments_become_attempts_in_order(spool: Spool) -> None:
    spool.session(points(0, 1), commit(1), outcome="crashed", resume_step=0, summary={"best": 1})
    spool.session(points(2, 3, value=2.0), outcome="finished", resume_step=2, summary={"best": 2})
    assert [row["attempt"] for row in spool.sync("--dry-run")] == [0, 0]
    report = spool.sync()
    assert [(row["verdict"], row["attempt"], row["offline"]) for row in report] == [
        ("delivered", 1, True),
        ("delivered", 2, True),
    ]
    assert spool.shown() == [(0, 1.0, 1), (1, 1.0, 1), (2, 2.0, 2), (3, 2.0, 2)]
    run = spool.run()
    assert [a.outcome for a in run.attempts] == ["crashed", "finished"]
    assert (run.state, run.summary) == ("finished", {"best": 2})
    assert not left(spool)


def test_gaps_are_named_and_recorded_as_lost(spool: Spool) -> None:
    grant = spool.acquire()
    spool.client.release(spool.project, "r", grant.fence, "crashed")
    path = spool.session(points(0), GONE, GONE, points(3), points(4), grant=grant)
    files = sorted(path.glob("entries-*"))
    data = bytearray(files[0].read_bytes())
    data[-1] ^= 1  # the last one is rotten
    files[0].write_bytes(data)
    (row,) = spool.sync()
    assert (row["verdict"], row["lost_entries"], row["points"]) == ("delivered", 2, 2)
    assert "torn or damaged" in row["notes"][0]
    assert [step for step, *_ in spool.shown()] == [0, 3]
    (lost,) = [event for event in spool.client.events(spool.project, "r") if event.kind == "points_lost"]
    assert (lost.attempt, lost.details["entries"]) == (1, "2")


def test_what_cannot_be_delivered_is_kept_and_named_and_the_others_go_on(spool: Spool) -> None:
    fences = {run: spool.acquire(run) for run in ("deleted", "held", "exists", "fine")}
    for run, grant in fences.items():
        if run != "held":
            spool.client.release(spool.project, run, grant.fence, "crashed")
    for run in ("deleted", "held", "fine"):
        spool.session(points(0), grant=fences[run], run=run)
    spool.client.delete_run(spool.project, "deleted", fences["deleted"].fence)
    spool.session(points(0), run="exists", mode="RESUME_MODE_NEVER")
    spool.session(points(1), run="exists", mode="RESUME_MODE_NEVER")
    alive = spool.session(points(0), run="alive", lives=True)
    broken = spool.session(points(0), run="broken")
    (broken / "session").write_bytes(b"nothing")
    report = {row["run"]: row for row in spool.sync("--wait", "0", code=1)}
    assert {run: row["verdict"] for run, row in report.items()} == {
        "deleted": "kept",
        "held": "kept",
        "exists": "kept",
        "alive": "live",
        "fine": "delivered",
    }
    assert "runlease undelete" in report["deleted"]["reason"]
    assert "--wait SECONDS" in report["held"]["reason"]
    assert "delivered first" in report["exists"]["reason"]
    assert len(left(spool)) == 6
    assert alive.exists()
    # When the reasons are gone, then the rest is delivered.
    spool.client.undelete_run(spool.project, "deleted")
    spool.client.release(spool.project, "held", fences["held"].fence, "crashed")
    spool.sync("--resume", "allow", code=1)  # that whose header is gone still is
    assert len(left(spool)) == 2
    assert [step for step, *_ in spool.shown("exists")] == [0, 1]


def test_without_a_coordinator_everything_is_kept(spool: Spool) -> None:
    spool.session(points(0))
    spool.session(points(0), run="other")
    env = spool.coordinator.env | {"RUNLEASE_COORDINATOR": "127.0.0.1:1"}
    done = subprocess.run(spool.command(), env=env, capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 5
    assert "runlease serve" in done.stdout
    assert len(left(spool)) == 2


@pytest.mark.parametrize("how", ["granted", "offline", "offline, expired"])
def test_killed_at_any_moment_it_goes_on(
    start_coordinator: Callable[..., CoordinatorProcess], tmp_path: Path, how: str
) -> None:
    coordinator = start_coordinator("--lock-delay", "1")
    spool, chance = Spool(tmp_path / "spools", coordinator, "killed"), random.Random(5)
    spool.client.set_limits("killed", run_points=20_000, burst_s=0.02)  # a pace that kills can hit
    grant = None
    if how == "granted":
        grant = spool.acquire()
        spool.client.release("killed", "r", grant.fence, "crashed")
    entries = [points(*range(100 * n, 100 * n + 100), value=float(n)) for n in range(300)]
    entries.insert(200, commit(19_999))
    spool.session(*entries, grant=grant, outcome="failed", ttl_ms=5000)

    def there() -> int:
        with contextlib.suppress(runlease.RunNotFound):
            return int(spool.run().points)
        return 0

    kills = 0
    for number in range(4):
        process = subprocess.Popen(
            spool.command(), env=coordinator.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        enough = there() + 100 * chance.randint(1, 60)
        until(lambda: there() >= enough or process.poll() is not None, every_s=0.01)  # noqa: B023 - called here
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if how == "offline, expired" and number == 1:
            until(lambda: spool.run().state == "crashed")
    assert kills == 4
    assert 0 < there() < 30_000
    spool.sync()
    shown = spool.shown()
    assert [step for step, *_ in shown] == list(range(30_000))
    assert all(value == step // 100 and attempt == 1 for step, value, attempt in shown)
    assert len(spool.shown(superseded=True)) == 30_000
    run = spool.run()
    assert (run.attempt, run.points, run.next_step) == (1, 30_000, 30_000)
    assert run.state == ("crashed" if how == "granted" else "failed")
    assert [(c.step, c.superseded) for c in run.checkpoints] == [(19_999, False)]
    assert not left(spool)


def test_a_second_sync_of_the_same_spool_changes_nothing(spool: Spool, tmp_path: Path) -> None:
    path = spool.session(points(0, 1), rewind(1), points(1, 2, value=2.0), outcome="failed")
    copy = {file.name: file.read_bytes() for file in path.iterdir()}
    spool.sync()
    before, run = spool.shown(superseded=True), spool.run()
    path.mkdir(parents=True)
    for name, data in copy.items():
        (path / name).write_bytes(data)
    spool.sync()
    after = spool.run()
    assert spool.shown(superseded=True) == before
    assert (after.attempts, after.points, after.state) == (run.attempts, run.points, "failed")
    assert not left(spool)


def test_a_sync_that_goes_on_stays_with_its_run_wherever_automatic_keys_lead(spool: Spool) -> None:
    # Given a segment whose key leads to a run, and a sync that is killed behind the release, which forgets the key.
    request = leases_pb2.AcquireRequest(
        run=run_ref(spool.project, "found"), mode="RESUME_MODE_AUTO", nonce="n", auto_keys=["auto:job"]
    )
    with open_channel(spool.coordinator.address) as channel:
        grant = leases_pb2_grpc.LeaseServiceStub(channel).Acquire(request, timeout=LONG).grant
    spool.client.release(spool.project, "found", grant.fence, "crashed")
    spool.session(points(0), run="new", auto_keys=["auto:job"], mode="RESUME_MODE_AUTO", outcome="finished")
    found = find_sessions(spool.directory).sessions
    with mock.patch.object(Session, "discard"), Synchronizer(spool.coordinator.address) as killed:
        killed.deliver([(session, Result.of(session)) for session in found])
    assert (spool.run("found").state, spool.run("found").attempt) == ("finished", 2)
    (row,) = spool.sync()
    assert (row["verdict"], row["attempt"]) == ("delivered", 2)
    assert spool.shown("found", superseded=True) == [(0, 1.0, 2)]
    with pytest.raises(runlease.RunNotFound):
        spool.run("new")


def test_throttling_is_waited_out(spool: Spool) -> None:
    spool.client.set_limits(spool.project, run_points=1000, burst_s=0)
    spool.session(*[points(*range(10 * n, 10 * n + 10)) for n in range(100)], outcome="finished")
    started = time.monotonic()
    (row,) = spool.sync()
    assert (row["verdict"], row["sent_points"]) == ("delivered", 1000)
    assert time.monotonic() - started > 0.9  # seconds' worth at the rate
    assert len(spool.shown()) == 1000


def test_people_are_told(spool: Spool) -> None:
    spool.session(points(0, 1), outcome="finished")
    command = spool.command()

    def tell(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more], env=spool.coordinator.env, capture_output=True, text=True, timeout=LONG, check=True
        )

    assert f"found     {spool.project}/r (offline), 2 points" in tell("--dry-run").stdout
    done = tell()
    assert f"delivered {spool.project}/r (attempt 1), 2 points" in done.stdout
    assert f"runlease: delivered: {spool.project}/r (attempt 1), 2 points" in done.stderr
    assert "nothing to deliver" in tell().stdout
    # At a terminal there is a bar, of points.
    spool.session(*[points(n) for n in range(50)], run="other")
    with Terminal(command, spool.coordinator.env | {"TERM": "xterm"}) as terminal:
        assert terminal.wait() == 0
        assert "50/50" in terminal.text
        assert f"delivered {spool.project}/other (attempt 1), 50 points" in terminal.text


LOGGER = """
import os, signal, sys, runlease
run = runlease.init(sys.argv[1], "r", resume="allow", ttl=5, spool="always", resume_step=0)
for step in range(int(sys.argv[2])):
    run.log({"loss": float(step)}, step=step)
    if step == 100:
        run.flush()
        print("flushed", flush=True)
        sys.stdin.readline()
    if step == 150:
        run.commit_checkpoint(150, uri="file:///150")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_logged_comes_back_after_the_run_went_on(
    start_coordinator: Callable[..., CoordinatorProcess], tmp_path: Path
) -> None:
    # Given a process that writes all to disk, loses its coordinator, logs on, and is killed.
    coordinator = start_coordinator("--lock-delay", "1")
    env = coordinator.env | {"RUNLEASE_DIR": str(tmp_path / "spools")}
    spool = Spool(tmp_path / "spools", coordinator, "gone-on")
    process = subprocess.Popen(
        [sys.executable, "-c", LOGGER, "gone-on", "1000"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == b"flushed\n"
    coordinator.kill()
    process.stdin.write(b"go on\n")
    process.stdin.close()
    assert process.wait(LONG) == -signal.SIGKILL
    process.stdout.close()
    coordinator.start()
    # When the run has been resumed at step 50, and has finished.
    with runlease.init(
        "gone-on", "r", resume="must", resume_step=50, coordinator=coordinator.address, wait=LONG
    ) as run:
        for step in range(50, 200):
            run.log({"loss": -1.0}, step=step)
    assert spool.run().state == "finished"
    before = spool.shown()
    (row,) = spool.sync()
    # Then all that it logged is there, below what came after; a second sync finds nothing.
    assert (row["verdict"], row["attempt"], row["lost_entries"]) == ("delivered", 1, 0)
    assert spool.shown() == before
    every = spool.shown(superseded=True)
    assert sorted(step for step, _, attempt in every if attempt == 1) == list(range(1000))
    assert all(value == step for step, value, attempt in every if attempt == 1)
    record = spool.run()
    assert (record.state, record.attempt, record.points, record.next_step) == ("finished", 2, 1150, 200)
    assert [(c.step, c.attempt, c.superseded) for c in record.checkpoints] == [(150, 1, True)]
    assert spool.sync() == []


def test_an_acquire_above_the_limit_waits_and_tries_again(coordinator: CoordinatorProcess, project: str) -> None:
    client = runlease.Client(coordinator.address)
    client.set_limits(project, acquires=1)

    def acquire_many() -> None:
        for number in range(100):
            client.acquire(project, f"r{number}", nonce=f"n{number}", resume="allow")

    with pytest.raises(runlease.Throttled) as caught:
        acquire_many()
    assert 0 < caught.value.retry_after_s <= 1.5
    assert "runlease limits" in str(caught.value)
    with runlease.init(project, "mine", coordinator=coordinator.address) as run:
        assert run.attempt == 1
