"""The way of a row: from `log` through the writer's thread to a real gRPC server on loopback."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from runlease.exceptions import (
    CoordinatorUnavailable,
    RunleaseError,
)
from runlease.spool.writing import Spool
from runlease.v1 import metrics_pb2 as pb
from runlease.writer import LogWriter, WriterSettings

from tests.support.logserver import LogServer
from tests.support.spools import header
from tests.support.wait import until
from tests.support.writers import FAST, LONG, log_steps, steps_of


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
    until(lambda: steps_of(server.log) == [0])


def test_rows_that_came_while_the_bell_was_off_are_seen(make: Callable[..., LogWriter], server: LogServer) -> None:
    # Given the moment between the thread's last look at the queue and its sleep
    writer = make(start=False)
    writer._alarm = sys.maxsize
    log_steps(writer, 0)
    # when it goes to sleep, it looks again.
    writer.start()
    until(lambda: steps_of(server.log) == [0])


def test_a_full_batch_and_a_commit_do_not_wait_for_the_interval(
    make: Callable[..., LogWriter], server: LogServer
) -> None:
    writer = make(WriterSettings(drain_interval_s=3600.0, batch_points=4))
    log_steps(writer, *range(9))
    until(lambda: len(server.log.rows) == 8)
    assert writer.commit(8, "/c/8", {}).wait(LONG)
    assert steps_of(server.log) == list(range(9))


def test_an_idle_writer_neither_connects_nor_wakes(make: Callable[..., LogWriter], server: LogServer) -> None:
    ticks: list[float] = []

    def clock() -> float:
        ticks.append(time.monotonic())
        return ticks[-1]

    writer = make(clock=clock)
    before = len(ticks)
    time.sleep(10 * FAST.drain_interval_s)  # nothing is to happen meanwhile
    assert len(ticks) == before
    assert not server.openings
    assert writer.close(LONG)


def test_a_writer_that_stays_connected_needs_no_thread_for_what_is_logged_last(
    make: Callable[..., LogWriter], server: LogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a writer whose connection broke while nothing was logged
    writer = make(dataclasses.replace(FAST, stays_connected=True))
    until(lambda: writer.stats().connected)
    server.stop()
    until(lambda: not writer.stats().connected)

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
    until(lambda: bool(told))
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
