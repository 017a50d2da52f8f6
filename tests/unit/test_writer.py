"""The writer against a real gRPC server on loopback that stores, cuts, refuses and falls silent as a test says."""

from __future__ import annotations

import dataclasses
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from runlease.channel import close_channel
from runlease.exceptions import (
    CoordinatorUnavailable,
    InvalidArgument,
    PermissionDenied,
    RunDeleted,
    RunleaseError,
    StaleFence,
)
from runlease.spool.writing import Spool
from runlease.v1 import metrics_pb2 as pb
from runlease.writer import LogWriter, WriterSettings

from tests.support.logserver import Fate, LogServer, WriterLog
from tests.support.spools import header, rows_in, the_session
from tests.support.wait import until

FAST = WriterSettings(
    drain_interval_s=0.02, backoff_min_s=0.01, backoff_max_s=0.05, silence_s=5.0, stays_connected=False
)
#: Bound of waits that end long before when all is well, in seconds.
LONG = 20.0


@pytest.fixture
def server() -> Iterator[LogServer]:
    server = LogServer().start()
    yield server
    server.stop()


@pytest.fixture
def make(server: LogServer) -> Iterator[Callable[..., LogWriter]]:
    """Make writers on the server; no thread of theirs may outlive the test."""
    channels: list[grpc.Channel] = []
    writers: list[LogWriter] = []

    def make(settings: WriterSettings = FAST, **arguments: object) -> LogWriter:
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]
        channels.append(grpc.insecure_channel(server.address, options=options))
        writer = LogWriter(channels[-1], "p", "r", 7, settings=settings, **arguments)  # type: ignore[arg-type]
        writers.append(writer)
        return writer

    yield make
    for writer in writers:
        writer.abandon()
    wait_until(lambda: not own_threads(), "its threads end")
    for channel in channels:
        close_channel(channel)


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("runlease-")]


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LONG
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        threading.Event().wait(0.005)


def log_steps(writer: LogWriter, *steps: int) -> None:
    for step in steps:
        writer.log(step, 1e9 + step, ("loss",), (step / 4,))


def steps_of(log: WriterLog) -> list[int]:
    return [row[0] for row in log.rows]


def fates(*first: Fate) -> Callable[[pb.Entry], Fate]:
    """One fate each for the entries that come first, then acknowledge."""
    rest = iter(first)
    return lambda entry: next(rest, "ack")


# The way of a row.


def test_rows_commits_and_rewinds_arrive_in_order(make: Callable[..., LogWriter], server: LogServer) -> None:
    writer = make()
    log_steps(writer, 0, 1)
    durable = writer.commit(1, "/c/1", {"note": '"x"'})
    writer.rewind(1)
    log_steps(writer, 1)
    assert writer.flush(LONG)
    assert [what[:3] for what in server.log.story] == [
        (0, "row", 0),
        (0, "row", 1),
        (0, "commit", 1),
        (1, "rewind", 1),
        (1, "row", 1),
    ]
    assert durable.wait(0)
    assert server.log.entries[1].commit == pb.Commit(step=1, uri="/c/1", metadata={"note": '"x"'})
    assert server.log.rows[1] == (1, 1e9 + 1, ("loss",), (0.25,))


def test_a_stream_opens_with_the_writers_place_and_the_credentials(
    make: Callable[..., LogWriter], server: LogServer
) -> None:
    writer = make(writer="rank3", metadata=(("authorization", "Bearer t"),))
    log_steps(writer, 0)
    assert writer.flush(LONG)
    (opening,) = server.openings
    assert (opening.run.project, opening.run.id, opening.fence, opening.writer) == ("p", "r", 7, "rank3")
    assert len(opening.session) == 32
    assert server.metadata[0]["authorization"] == "Bearer t"


def test_what_is_logged_arrives_without_a_flush(make: Callable[..., LogWriter], server: LogServer) -> None:
    log_steps(make(), 0)
    wait_until(lambda: steps_of(server.log) == [0], "the row has come")


def test_rows_that_came_while_the_bell_was_off_are_seen(make: Callable[..., LogWriter], server: LogServer) -> None:
    # Given the moment between the thread's last look at the queue and its sleep
    writer = make(start=False)
    writer._alarm = sys.maxsize
    log_steps(writer, 0)
    # when it goes to sleep, it looks again.
    writer.start()
    wait_until(lambda: steps_of(server.log) == [0], "the row has come")


def test_a_full_batch_and_a_commit_do_not_wait_for_the_interval(
    make: Callable[..., LogWriter], server: LogServer
) -> None:
    writer = make(WriterSettings(drain_interval_s=3600.0, batch_points=4))
    log_steps(writer, *range(9))
    wait_until(lambda: len(server.log.rows) == 8, "two full batches have come")
    assert writer.commit(8, "/c/8", {}).wait(LONG)
    assert steps_of(server.log) == list(range(9))


def test_an_idle_writer_neither_connects_nor_wakes(make: Callable[..., LogWriter], server: LogServer) -> None:
    ticks: list[float] = []

    def clock() -> float:
        ticks.append(time.monotonic())
        return ticks[-1]

    writer = make(clock=clock)
    before = len(ticks)
    assert not threading.Event().wait(10 * FAST.drain_interval_s)
    assert len(ticks) == before
    assert not server.openings
    assert writer.close(LONG)


def test_a_writer_that_stays_connected_needs_no_thread_for_what_is_logged_last(
    make: Callable[..., LogWriter], server: LogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a writer whose connection broke while nothing was logged
    writer = make(dataclasses.replace(FAST, stays_connected=True))
    wait_until(lambda: writer.stats().connected, "it has connected")
    server.stop()
    wait_until(lambda: not writer.stats().connected, "it has noticed")

    # when its thread can start no other any more, then it needs none.
    refuse_threads(monkeypatch)
    log_steps(writer, 0)
    server.start()
    assert writer.flush(LONG)
    assert steps_of(server.log) == [0]


def test_a_writer_that_gets_no_threads_says_so(make: Callable[..., LogWriter], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[RunleaseError] = []
    writer = make(on_stale=told.append)
    refuse_threads(monkeypatch)
    log_steps(writer, 0)
    assert not writer.flush(LONG)
    wait_until(lambda: bool(told), "it has said so")
    assert isinstance(told[0], CoordinatorUnavailable)
    assert "can't create new thread" in str(told[0])
    assert writer.stats().lost == 1


def refuse_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the writer's thread start no other, as at the end of Python 3.12.0 to 3.12.2."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if threading.current_thread().name == "runlease-log":
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_a_new_writer_goes_on_where_the_log_of_its_fence_ends(
    make: Callable[..., LogWriter], server: LogServer
) -> None:
    # Given a writer of the same lease that ended after a write
    first = make()
    log_steps(first, 0, 1)
    assert first.close(LONG)
    # when another goes on with a rewind
    second = make()
    second.rewind(1)
    log_steps(second, 1)
    assert second.flush(LONG)
    # then numbers and segments go on as well (the log checks both), under a session of its own.
    assert [what[:3] for what in server.log.story][-2:] == [(1, "rewind", 1), (1, "row", 1)]
    assert len({opening.session for opening in server.openings}) == 2


def test_many_threads_log_at_once(make: Callable[..., LogWriter], server: LogServer) -> None:
    writer = make()

    def work(base: int) -> None:
        log_steps(writer, *range(base, base + 2000))

    threads = [threading.Thread(target=work, args=(i * 10_000,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.flush(LONG)
    steps = steps_of(server.log)
    assert sorted(steps) == [i * 10_000 + k for i in range(4) for k in range(2000)]
    for i in range(4):  # each thread's own order is kept
        mine = [step for step in steps if step // 10_000 == i]
        assert mine == sorted(mine)
    stats = writer.stats()
    assert (stats.logged, stats.acknowledged, stats.buffered) == (8000, 8000, 0)
    assert stats.connected


@pytest.mark.parametrize("always", [False, True])
def test_a_signal_handler_may_log_commit_and_flush(
    make: Callable[..., LogWriter], server: LogServer, tmp_path: Path, always: bool
) -> None:
    # As a trainer does that saves at SIGTERM, in the middle of its own calls to log.
    spool = Spool(tmp_path, header(), always=always)
    writer, flushed = make(spool=spool), []

    def save(number: int, frame: object) -> None:
        log_steps(writer, 1_000_000)
        writer.commit(1_000_000, "/c", {})
        flushed.append(writer.flush(LONG))

    previous = signal.signal(signal.SIGUSR1, save)
    try:
        sender = threading.Thread(target=lambda: [os.kill(os.getpid(), signal.SIGUSR1) for _ in range(3)])
        sender.start()
        step = 0
        while sender.is_alive() or not flushed:
            log_steps(writer, step)
            writer.stats()
            step += 1
        sender.join()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert writer.flush(LONG)
    assert all(flushed)
    assert [s for s in steps_of(server.log) if s < 1_000_000] == list(range(step))
    assert writer.close(LONG)
    assert writer.leave() is None
    assert not any((tmp_path / "spool").rglob("*"))


# Breaks.


@pytest.mark.parametrize("fate", ["cut", "cut-after"])
def test_a_cut_stream_loses_and_doubles_nothing(
    fate: Fate, make: Callable[..., LogWriter], server: LogServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.fate = fates("ack", fate, "ack", fate)
    writer = make(WriterSettings(drain_interval_s=0.01, batch_points=2, backoff_min_s=0.01))
    with caplog.at_level(logging.WARNING, "runlease"):
        log_steps(writer, *range(20))
        durable = writer.commit(19, "/c", {})
        assert writer.flush(LONG)
    assert durable.wait(0)
    assert steps_of(server.log) == list(range(20))
    assert len({opening.session for opening in server.openings}) == 1
    stats = writer.stats()
    assert (stats.acknowledged, stats.buffered, stats.lost) == (20, 0, 0)
    assert "cut, as the test says" in stats.last_error
    messages = [record.getMessage() for record in caplog.records]
    assert sum("wait in memory" in message for message in messages) == 2
    assert sum("are sent again" in message for message in messages) == 2


def test_a_coordinator_that_is_away_stops_nobody(
    make: Callable[..., LogWriter], server: LogServer, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make()
    log_steps(writer, 0)
    assert writer.flush(LONG)
    server.stop()
    with caplog.at_level(logging.WARNING, "runlease"):
        log_steps(writer, 1)
        durable = writer.commit(1, "/c", {})
        assert not writer.flush(0.3)
        stats = writer.stats()
        assert (stats.connected, stats.buffered, durable.done) == (False, 1, False)
        server.start()
        log_steps(writer, 2)
        assert writer.flush(LONG)
    assert durable.wait(0)
    assert steps_of(server.log) == [0, 1, 2]
    messages = [record.getMessage() for record in caplog.records]
    assert sum("wait in memory" in message for message in messages) == 1  # not one for every attempt
    assert sum("are sent again" in message for message in messages) == 1


def test_a_connection_that_falls_silent_is_replaced(make: Callable[..., LogWriter], server: LogServer) -> None:
    server.fate = fates("ack", "freeze")
    writer = make(WriterSettings(drain_interval_s=0.01, silence_s=0.2, backoff_min_s=0.01))
    log_steps(writer, 0)
    assert writer.flush(LONG)
    log_steps(writer, 1)
    assert writer.flush(LONG)
    assert steps_of(server.log) == [0, 1]
    assert len(server.openings) == 2
    assert "no answer" in writer.stats().last_error


def test_acknowledgements_that_got_lost_are_made_up_for_by_the_next_stream(
    make: Callable[..., LogWriter], server: LogServer
) -> None:
    server.fate = fates("mute", "mute", "cut")
    writer = make()
    commits = [writer.commit(step, "/c", {}) for step in range(3)]
    assert all(durable.wait(LONG) for durable in commits)
    assert [entry.commit.step for entry in server.log.entries] == [0, 1, 2]


def test_what_a_store_that_went_back_has_lost_is_sent_again_in_order(
    make: Callable[..., LogWriter], server: LogServer, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make()
    for step in range(4):
        log_steps(writer, step)
        assert writer.flush(LONG)
    writer.rewind(2)
    log_steps(writer, 2)
    assert writer.flush(LONG)
    before = server.log.story
    with server._lock:  # only the first entry is left
        server.log.seq, server.log.segment = 1, 0
        del server.log.entries[1:]
    with caplog.at_level(logging.WARNING, "runlease"):
        log_steps(writer, 3)
        assert writer.flush(LONG)
    assert server.log.story == [*before, (1, "row", 3, 1e9 + 3, ("loss",), (0.75,))]
    stats = writer.stats()
    assert (stats.acknowledged, stats.lost, stats.buffered) == (6, 0, 0)
    assert "4 points are sent again" in caplog.text


def test_what_is_not_kept_any_more_is_declared_lost(
    make: Callable[..., LogWriter], server: LogServer, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make(dataclasses.replace(FAST, keep_bytes=1000))  # about two entries
    for step in range(6):
        log_steps(writer, step)
        assert writer.flush(LONG)
        if step == 2:
            assert writer.commit(2, "/c/2", {}).wait(LONG)
    with server._lock:
        server.log.seq = 0
        server.log.entries.clear()
        server.log.written = False
    with caplog.at_level(logging.WARNING, "runlease"):
        log_steps(writer, 6)
        writer.flush(LONG)
    entries = [(entry.seq, entry.WhichOneof("payload")) for entry in server.log.entries]
    assert entries == [(3, "lost"), (4, "commit"), (5, "lost"), (6, "points"), (7, "points"), (8, "points")]
    assert [(entry.lost.entries, entry.lost.points) for entry in server.log.entries if entry.HasField("lost")] == [
        (3, 3),
        (1, 1),
    ]
    assert steps_of(server.log) == [4, 5, 6]
    stats = writer.stats()
    assert (stats.logged, stats.acknowledged, stats.lost, stats.buffered) == (7, 3, 4, 0)
    assert "4 points in 4 batches are not kept any more" in caplog.text


def test_a_throttled_entry_is_sent_again_after_the_delay(
    make: Callable[..., LogWriter], server: LogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    throttled: list[float] = []
    take = server.log.take

    def throttle(entry: pb.Entry, *, refuse: bool = False) -> pb.AppendResponse:
        if len(throttled) < 2:
            throttled.append(time.monotonic())
            return pb.AppendResponse(throttle=pb.Throttle(seq=entry.seq, retry_after_ms=50))
        return take(entry, refuse=refuse)

    monkeypatch.setattr(server.log, "take", throttle)
    writer = make()
    log_steps(writer, 0)
    assert writer.flush(LONG)
    assert steps_of(server.log) == [0]
    assert throttled[1] - throttled[0] >= 0.05
    assert len(server.openings) == 1  # on the same stream
    held_back = writer.stats().throttled_s
    assert held_back >= 0.1
    assert writer.stats().throttled_s == held_back  # it counts only while entries are held back


def test_a_commit_ends_the_wait_for_a_rate_limit(
    make: Callable[..., LogWriter],
    server: LogServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    take = server.log.take

    def throttle(entry: pb.Entry, *, refuse: bool = False) -> pb.AppendResponse:
        if entry.WhichOneof("payload") == "points" and not entry.barrier:
            return pb.AppendResponse(
                throttle=pb.Throttle(seq=entry.seq, retry_after_ms=3_600_000, limited="run/points", limit=7)
            )
        return take(entry, refuse=refuse)

    monkeypatch.setattr(server.log, "take", throttle)
    monkeypatch.setattr("runlease.sender._MAX_THROTTLE_S", 3600.0)
    writer = make()
    with caplog.at_level(logging.WARNING, "runlease"):
        log_steps(writer, 0)
        until(lambda: "above the limit of 7 points of the run a second" in caplog.text)
        log_steps(writer, 1)
        assert writer.commit(1, "/c/1", {}).wait(LONG)
    assert steps_of(server.log) == [0, 1]
    held_back = writer.stats().throttled_s
    assert held_back > 0
    log_steps(writer, 2)
    until(lambda: writer.stats().throttled_s > held_back)
    assert caplog.text.count("above the limit") == 1


# Refusals.


def test_a_refused_batch_is_counted_and_warned_of_once_a_field(
    make: Callable[..., LogWriter], server: LogServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.fate = fates("ack", "refuse", "refuse")
    writer = make(WriterSettings(drain_interval_s=0.01, batch_points=2))
    with caplog.at_level(logging.WARNING, "runlease"):
        log_steps(writer, *range(8))
        assert not writer.flush(LONG)  # not all of it is in the log
    stats = writer.stats()
    assert (stats.acknowledged, stats.rejected, stats.buffered) == (4, 4, 0)
    assert steps_of(server.log) == [0, 1, 6, 7]
    assert sum("refused" in record.getMessage() for record in caplog.records) == 1
    assert len(server.openings) == 1
    log_steps(writer, 9)
    assert writer.flush(LONG)


def test_a_refused_commit_tells_who_waits_for_it(make: Callable[..., LogWriter], server: LogServer) -> None:
    server.fate = fates("refuse")
    durable = make().commit(0, "/c", {})
    with pytest.raises(InvalidArgument):
        durable.wait(LONG)
    assert durable.done


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, {"a": "\ud800"}])
def test_a_commit_of_no_text_is_refused_at_the_call(metadata: dict[str, str], make: Callable[..., LogWriter]) -> None:
    with pytest.raises(InvalidArgument, match="text"):
        make().commit(0, "/c", metadata)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.ABORTED, StaleFence),
        (grpc.StatusCode.FAILED_PRECONDITION, RunleaseError),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidArgument),
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDenied),
        (grpc.StatusCode.NOT_FOUND, RunleaseError),
    ],
)
def test_a_stale_writer_is_told_once_and_counts_the_rest_as_lost(
    status: grpc.StatusCode, kind: type[RunleaseError], make: Callable[..., LogWriter], server: LogServer
) -> None:
    told: list[RunleaseError] = []
    writer = make(WriterSettings(drain_interval_s=3600.0, backoff_min_s=0.01), on_stale=told.append)
    log_steps(writer, 0)
    assert writer.flush(LONG)
    server.refusal = status
    server.fate = fates("cut")
    log_steps(writer, 1, 2)
    durable = writer.commit(2, "/c", {})
    with pytest.raises(kind):
        durable.wait(LONG)
    wait_until(lambda: len(told) == 1, "on_stale is called")
    assert isinstance(told[0], kind)
    # From here on everything is lost at once, and said so.
    log_steps(writer, 3)
    assert not writer.flush(LONG)
    with pytest.raises(kind):
        writer.commit(3, "/c", {}).wait(0)
    stats = writer.stats()
    assert (stats.logged, stats.acknowledged, stats.lost, stats.buffered) == (4, 1, 3, 0)
    assert not stats.connected
    assert not writer.close(LONG)
    assert len(told) == 1
    assert not isinstance(told[0], RunDeleted)  # that needs the coordinator's reason


def test_a_log_with_foreign_entries_is_another_processes(make: Callable[..., LogWriter], server: LogServer) -> None:
    told: list[RunleaseError] = []
    writer = make(on_stale=told.append)
    log_steps(writer, 0)
    assert writer.flush(LONG)
    with server._lock:
        server.log.seq += 5
    server.fate = fates("cut")
    log_steps(writer, 1)
    wait_until(lambda: bool(told), "on_stale is called")
    assert isinstance(told[0], StaleFence)
    assert told[0].reason == "SESSION_TAKEN"


def test_a_closed_channel_ends_the_writer(server: LogServer) -> None:
    told: list[RunleaseError] = []
    channel = grpc.insecure_channel(server.address)
    writer = LogWriter(channel, "p", "r", 7, settings=FAST, on_stale=told.append)
    channel.close()
    log_steps(writer, 0)
    assert not writer.flush(LONG)
    wait_until(lambda: bool(told), "on_stale is called")
    assert writer.stats().lost == 1


# Memory and disk.


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
    wait_until(lambda: bool(told), "on_stale is called")
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
    wait_until(lambda: writer.leave() is not None, "it has given up")
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
        wait_until(lambda: writer.stats().dropped > 0, "rows drop")
    server.start()
    assert durable.wait(LONG)
    stats = writer.stats()
    assert stats.logged == 5000 == stats.acknowledged + stats.dropped
    assert steps_of(server.log) == list(range(stats.dropped, 5000))
    assert any("memory" in record.getMessage() for record in caplog.records)


# The end.


def test_close_sends_the_rest_and_ends_stream_and_threads(make: Callable[..., LogWriter], server: LogServer) -> None:
    writer = make(WriterSettings(drain_interval_s=3600.0))
    log_steps(writer, 0, 1)
    assert writer.close(LONG)
    assert steps_of(server.log) == [0, 1]
    wait_until(lambda: not own_threads(), "its threads end")
    wait_until(lambda: server.clean_ends == 1, "the stream ends, not cancelled")
    assert writer.close(LONG)
    log_steps(writer, 2)
    assert (writer.stats().lost, writer.stats().acknowledged) == (1, 2)


@pytest.mark.parametrize("away", ["stopped", "frozen"])
def test_close_is_bounded_and_says_what_was_left(away: str, make: Callable[..., LogWriter], server: LogServer) -> None:
    if away == "stopped":
        server.stop()
    server.fate = lambda entry: "freeze"
    writer = make()
    log_steps(writer, 0)
    durable = writer.commit(0, "/c", {})
    assert not writer.close(0.2)
    with pytest.raises(RunleaseError, match="closed"):
        durable.wait(LONG)
    wait_until(lambda: not own_threads(), "its threads end")
    assert (writer.stats().lost, writer.stats().buffered) == (1, 0)


def test_abandon_stops_at_once_and_tells_those_who_wait(make: Callable[..., LogWriter], server: LogServer) -> None:
    server.fate = lambda entry: "mute"
    writer, error = make(), StaleFence("the lease is lost")
    log_steps(writer, 0)
    durable = writer.commit(0, "/c", {})
    assert server.came.wait(LONG)
    waiting = threading.Thread(target=writer.flush)
    waiting.start()
    writer.abandon(error)
    waiting.join(LONG)
    assert not waiting.is_alive()
    with pytest.raises(StaleFence):
        durable.wait(LONG)
    wait_until(lambda: not own_threads(), "its threads end")
    log_steps(writer, 1)
    assert writer.stats().lost == 2


def test_what_waits_for_the_thread_at_an_abandon_goes_to_the_disk(
    make: Callable[..., LogWriter], server: LogServer, tmp_path: Path
) -> None:
    server.fate = lambda entry: "mute"
    writer = make(spool=Spool(tmp_path, header()))
    log_steps(writer, *range(700))  # fewer than ring its bell
    writer.abandon(StaleFence("the lease is lost"))
    writer.leave()
    stats = writer.stats()
    assert (stats.spooled, stats.lost) == (700, 0)


FORK = """
import os, sys
import grpc
from runlease.writer import LogWriter

writer = LogWriter(grpc.insecure_channel(sys.argv[1]), "p", "r", 7)
writer.log(0, 1e9, ("loss",), (0.5,))
assert writer.flush(20)
child = os.fork()
if child == 0:
    writer.abandon()
    writer.log(1, 1e9, ("loss",), (0.5,))
    writer.commit(1, "/c", {})
    fine = not writer.flush(20) and not writer.close(20) and writer.stats().acknowledged == 1
    os._exit(7 if fine else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
writer.log(2, 1e9, ("loss",), (0.5,))
assert writer.close(20)
"""


def test_a_forked_childs_copy_does_nothing_and_the_parents_goes_on(server: LogServer) -> None:
    environment = os.environ | {"GRPC_ENABLE_FORK_SUPPORT": "0"}
    subprocess.run([sys.executable, "-c", FORK, server.address], check=True, timeout=60, env=environment)
    assert steps_of(server.log) == [0, 2]


def test_an_end_while_others_log_keeps_the_books(make: Callable[..., LogWriter], server: LogServer) -> None:
    writer, stop, pause = make(), threading.Event(), threading.Event()
    counted = 0

    def work() -> None:
        nonlocal counted
        while not stop.is_set():
            log_steps(writer, *range(counted, counted + 50))
            counted += 50
            pause.wait(0.001)

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: writer.stats().acknowledged > 0, "something is acknowledged")
    writer.close(LONG)
    wait_until(lambda: writer.stats().lost > 0, "something is logged after the end")
    stop.set()
    thread.join()
    stats = writer.stats()
    assert stats.logged == counted == stats.acknowledged + stats.lost
    # What was in flight at the end may have arrived, though nobody was told.
    arrived = steps_of(server.log)
    assert arrived == list(range(len(arrived)))
    assert stats.acknowledged <= len(arrived) <= stats.logged


# SIGKILL.

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
    server.fate = lambda entry: chance.choices(["ack", "mute", "cut", "cut-after"], [60, 5, 1, 1])[0]  # type: ignore[return-value]
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
    wait_until(lambda: server.idle, "what was under way has arrived")
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
