"""What a writer keeps where: memory has a bound, a spool takes the rest, and a SIGKILL leaves it there."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from runlease.exceptions import (
    RunleaseError,
    StaleFence,
)
from runlease.spool.writing import Spool
from runlease.v1 import metrics_pb2 as pb
from runlease.writer import LogWriter, WriterSettings

from tests.support.logserver import LogServer
from tests.support.spools import header, rows_in, the_session
from tests.support.wait import until
from tests.support.writers import LONG, fates, log_steps, steps_of


def test_always_takes_a_lock_and_still_gives_one_order_to_many_threads(
    make: Callable[..., LogWriter], server: LogServer, tmp_path: Path
) -> None:
    # Given a coordinator that goes away in the middle
    writer = make(spool=Spool(tmp_path, header(), always=True))
    threads = [
        threading.Thread(target=log_steps, args=(writer, *range(i * 10_000, i * 10_000 + 1000))) for i in range(4)
    ]
    for thread in threads[:2]:
        thread.start()
    for thread in threads[:2]:
        thread.join()
    assert writer.flush(LONG)
    server.stop()
    for thread in threads[2:]:
        thread.start()
    for thread in threads[2:]:
        thread.join()
    before = [row[0] for row in rows_in(the_session(tmp_path), after=len(server.log.entries))]
    assert not writer.close(0.3)
    assert writer.leave() is not None
    stats = writer.stats()
    assert (stats.acknowledged, stats.spooled, stats.lost, stats.logged) == (2000, 2000, 0, 4000)
    session = the_session(tmp_path)
    assert not session.locked
    after = [row[0] for row in rows_in(session, after=session.delivered(server.log.seq))]
    assert before == after  # journal and queue had one order
    assert sorted(after) == [*range(20_000, 21_000), *range(30_000, 31_000)]


def test_what_a_stale_writer_leaves_is_free_for_a_sync_at_once(
    make: Callable[..., LogWriter], server: LogServer, tmp_path: Path
) -> None:
    told: list[RunleaseError] = []
    writer = make(spool=Spool(tmp_path, header()), on_stale=told.append)
    log_steps(writer, 0)
    assert writer.flush(LONG)
    server.refusal, server.fate = grpc.StatusCode.ABORTED, fates("cut")
    log_steps(writer, 1)
    durable = writer.commit(1, "/c", {})
    with pytest.raises(StaleFence):
        durable.wait(LONG)
    until(lambda: bool(told))
    session = the_session(tmp_path)
    assert not session.locked
    assert [entry.WhichOneof("payload") for _, entry in session.entries()] == ["points", "commit"]
    assert (writer.stats().spooled, writer.stats().lost) == (1, 0)
    assert writer.leave() == session.path


def test_a_session_that_is_taken_over_goes_behind_the_other_one(
    make: Callable[..., LogWriter], server: LogServer, tmp_path: Path
) -> None:
    writer = make(spool=Spool(tmp_path, header()))
    log_steps(writer, 0)
    assert writer.flush(LONG)
    with server._lock:
        server.log.seq += 5
    server.fate = fates("cut")
    log_steps(writer, 1)
    until(lambda: writer.leave() is not None)
    session = the_session(tmp_path)
    place = session.delivered(server.log.seq)
    assert [row[0] for row in rows_in(session, after=place)] == [1]
    assert session.base == server.log.seq - place


def test_what_the_coordinator_was_not_told_is_kept_for_a_sync(
    make: Callable[..., LogWriter], server: LogServer, tmp_path: Path
) -> None:
    writer = make(spool=Spool(tmp_path, header()))
    log_steps(writer, 0)
    assert writer.close(LONG)
    assert not list((tmp_path / "spool").rglob("session"))  # all is delivered, but then the release fails
    assert writer.keep(changes={"notes": "late", "summary": {"best": "1"}})
    assert writer.keep(outcome="failed")
    assert writer.leave() is not None
    session = the_session(tmp_path)
    assert (session.outcome, session.base, session.points) == ("failed", 0, 0)
    assert (session.updates[0].notes, dict(session.updates[0].summary)) == ("late", {"best": "1"})


def test_beyond_the_memory_bound_the_oldest_rows_drop(
    make: Callable[..., LogWriter], server: LogServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.stop()
    writer = make(WriterSettings(drain_interval_s=0.01, backoff_min_s=0.01, buffer_bytes=100_000))
    with caplog.at_level(logging.WARNING, "runlease"):
        log_steps(writer, *range(5000))
        durable = writer.commit(4999, "/c", {})
        until(lambda: writer.stats().dropped > 0)
    server.start()
    assert durable.wait(LONG)
    stats = writer.stats()
    assert stats.logged == 5000 == stats.acknowledged + stats.dropped
    assert steps_of(server.log) == list(range(stats.dropped, 5000))
    assert any("memory" in record.getMessage() for record in caplog.records)


JOURNALED = """
import sys, time
from pathlib import Path
import grpc
from runlease.spool.writing import Spool
from runlease.v1 import runs_pb2, spool_pb2
from runlease.writer import LogWriter, WriterSettings

run = runs_pb2.RunRef(project="p", id="r")
header = spool_pb2.SpoolHeader(run=run, session="s", created=1e9, fence=7, attempt=1, writer="main")
settings = WriterSettings(drain_interval_s=0.005, batch_points=40, backoff_min_s=0.01, backoff_max_s=0.02)
spool = Spool(Path(sys.argv[2]), header, always=True)
writer = LogWriter(grpc.insecure_channel(sys.argv[1]), "p", "r", 7, settings=settings, spool=spool, session="s")
step = 0
while True:
    writer.log(step, 1e9 + step, ("loss",), (step / 4,))
    if step % 97 == 0:
        writer.commit(step, "/c", {})
    if step % 301 == 300:
        writer.rewind(step)
    step += 1
    if step % 50 == 47 and float(sys.argv[3]):
        time.sleep(float(sys.argv[3]))  # all is acknowledged; what follows is in the journal only
    if step % 50 == 0:
        print(step, flush=True)
"""


@pytest.mark.parametrize("pause_s", [0.0, 0.03])
@pytest.mark.parametrize("seed", range(4))
def test_after_a_sigkill_at_any_moment_all_that_was_logged_comes_back_once(
    server: LogServer, tmp_path: Path, seed: int, pause_s: float
) -> None:
    chance = random.Random(seed)
    # Given a connection that breaks now and then, with or without the entry stored
    server.fate = lambda entry: chance.choices(["ack", "mute", "cut", "cut-after"], [60, 5, 1, 1])[0]
    with subprocess.Popen(
        [sys.executable, "-c", JOURNALED, server.address, str(tmp_path), str(pause_s)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 20 if pause_s else 200)):
            logged = int(process.stdout.readline())
        process.kill()
        logged = max([logged, *map(int, process.stdout.read().split("\n")[:-1])])
    until(lambda: server.idle)
    # when the rest is read from its spool
    session, log = the_session(tmp_path), server.log
    for place, spooled in session.entries(after=session.delivered(log.seq)):
        entry = pb.Entry.FromString(spooled.SerializeToString())
        entry.seq = (session.base or 0) + place
        entry.segment = log.segment + (log.written and entry.HasField("rewind"))
        assert log.take(entry).HasField("ack")
    # then every row is there, once and in order, with the commits and rewinds between them.
    last = log.rows[-1][0]
    assert last + 1 >= logged
    story = [(what[1], what[2]) for what in log.story]
    expected: list[tuple[str, int]] = []
    for step in range(last + 1):
        expected.append(("row", step))
        expected += [("commit", step)] if step % 97 == 0 else []
        expected += [("rewind", step)] if step % 301 == 300 else []
    assert story in (expected, expected[:-1], expected[:-2])  # the last call may have been killed before it wrote
    assert session.damages == []
