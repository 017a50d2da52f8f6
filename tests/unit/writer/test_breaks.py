"""What a writer does when streams are cut, the coordinator falls silent or throttles, and logs go back."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable

import pytest
from runlease.v1 import metrics_pb2 as pb
from runlease.writer import LogWriter, WriterSettings

from tests.support.logserver import Fate, LogServer
from tests.support.wait import until
from tests.support.writers import FAST, LONG, fates, log_steps, steps_of


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
