"""What a writer does with an entry that is refused, and when it is told that the log is not its own any more."""

from __future__ import annotations

import logging
from collections.abc import Callable

import grpc
import pytest
from runlease.exceptions import (
    InvalidArgument,
    PermissionDenied,
    RunDeleted,
    RunleaseError,
    StaleFence,
)
from runlease.writer import LogWriter, WriterSettings

from tests.support.logserver import LogServer
from tests.support.wait import until
from tests.support.writers import FAST, LONG, fates, log_steps, steps_of


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
    until(lambda: len(told) == 1)
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
    until(lambda: bool(told))
    assert isinstance(told[0], StaleFence)
    assert told[0].reason == "SESSION_TAKEN"


def test_a_closed_channel_ends_the_writer(server: LogServer) -> None:
    told: list[RunleaseError] = []
    channel = grpc.insecure_channel(server.address)
    writer = LogWriter(channel, "p", "r", 7, settings=FAST, on_stale=told.append)
    channel.close()
    log_steps(writer, 0)
    assert not writer.flush(LONG)
    until(lambda: bool(told))
    assert writer.stats().lost == 1
