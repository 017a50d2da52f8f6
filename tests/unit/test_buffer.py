"""The buffer against a log that decides as the coordinator does."""

from __future__ import annotations

from typing import Any

import pytest
from runlease.buffer import Buffer, Flush, SessionTaken, WriterSettings
from runlease.durable import Durable
from runlease.exceptions import RunleaseError
from runlease.v1 import metrics_pb2 as pb

from tests.support.buffers import KEYS, REFUSAL, commit, deliver_all, put, requests, rewind, row
from tests.support.logserver import WriterLog, rows_of


def opened_buffer(**bounds: Any) -> Buffer:
    buffer = Buffer(WriterSettings(**bounds))
    buffer.opened(0, 0, False)
    return buffer


# Batches.


def test_rows_of_the_same_keys_make_series_without_row_numbers() -> None:
    buffer = opened_buffer()
    put(buffer, row(3, "loss", "acc"), row(4, "loss", "acc"))
    (entry,) = requests(buffer)
    assert list(entry.points.steps) == [3, 4]
    assert list(entry.points.times) == [1e9 + 3, 1e9 + 4]
    assert [(s.key, list(s.rows), list(s.values)) for s in entry.points.series] == [
        ("loss", [], [0.5, 0.5]),
        ("acc", [], [1.5, 1.5]),
    ]


def test_only_keys_that_are_missing_somewhere_name_their_rows() -> None:
    buffer = opened_buffer()
    put(buffer, row(0, "loss"), row(1, "loss", "val"), row(2, "loss"))
    (entry,) = requests(buffer)
    assert {s.key: list(s.rows) for s in entry.points.series} == {"loss": [], "val": [1]}
    assert rows_of(entry.points) == [row(0, "loss"), row(1, "loss", "val"), row(2, "loss")]


def test_a_batch_is_bounded_in_points_and_bytes() -> None:
    buffer = opened_buffer(batch_points=10)
    put(buffer, *(row(i, *KEYS) for i in range(7)))
    assert [len(entry.points.steps) for entry in requests(buffer)] == [3, 3, 1]

    buffer = opened_buffer(batch_bytes=2000)
    put(buffer, *(row(i, *(f"{'k' * 200}{i}{j}" for j in range(3))) for i in range(5)))
    sizes = [entry.ByteSize() for entry in requests(buffer)]
    assert len(sizes) == 2 + 1
    assert max(sizes) <= 2000


def test_a_very_wide_row_is_split_and_stays_below_a_message_of_4_mib() -> None:
    wide = row(7, *(f"{i:05}{'ü' * 251}" for i in range(5000)))
    buffer = opened_buffer()
    put(buffer, wide)
    log = WriterLog()
    for entry in requests(buffer):
        assert entry.ByteSize() < 1_200_000
        log.take(entry)
    pieces = log.rows
    assert {(step, time_s) for step, time_s, _, _ in pieces} == {wide[:2]}
    assert tuple(key for piece in pieces for key in piece[2]) == wide[2]
    assert tuple(value for piece in pieces for value in piece[3]) == wide[3]


def test_a_mark_closes_the_batch_before_it() -> None:
    buffer = opened_buffer()
    put(buffer, row(0, "a"), commit(0), row(1, "a"), row(2, "a"), commit(2), commit(2), row(3, "a"))
    kinds = [(entry.WhichOneof("payload"), len(entry.points.steps)) for entry in requests(buffer)]
    assert kinds == [("points", 1), ("commit", 0), ("points", 2), ("commit", 0), ("commit", 0), ("points", 1)]


# Rate limits.


def test_points_before_a_commit_say_that_it_waits() -> None:
    buffer = opened_buffer(batch_points=2)
    put(buffer, *(row(i, "a") for i in range(3)), rewind(1), row(1, "a"), commit(1), row(2, "a"))
    first, second = requests(buffer)
    assert (first.barrier, second.barrier) == (True, True)
    buffer.acknowledge(2)
    requests(buffer)
    buffer.acknowledge(3)
    points, mark, last = requests(buffer)
    assert (points.barrier, mark.WhichOneof("payload"), mark.barrier, last.barrier) == (True, "commit", False, False)


def test_a_commit_makes_barriers_of_entries_that_were_sent_without() -> None:
    buffer = opened_buffer()
    put(buffer, row(0, "a"))
    (entry,) = requests(buffer)
    assert not entry.barrier
    buffer.throttled()
    assert not buffer.commit_waits
    put(buffer, commit(0))
    assert buffer.commit_waits
    (again,) = requests(buffer)
    assert (again.seq, again.barrier) == (1, True)


def test_after_a_throttle_the_window_opens_entry_by_entry_and_rows_fill_batches() -> None:
    buffer = opened_buffer(batch_points=4)
    for step in range(3):
        put(buffer, row(step, "a"))
        assert len(requests(buffer)) == 1
    buffer.throttled()
    put(buffer, *(row(step, "a") for step in range(3, 23)))
    log, sent = WriterLog(), []
    while entries := requests(buffer):
        sent.append([len(entry.points.steps) for entry in entries])
        for entry in entries:
            log.take(entry)
        buffer.acknowledge(entries[-1].seq)
    assert sent == [[1], [1, 1], [4, 4, 4, 4], [4]]
    assert [step for step, *_ in log.rows] == list(range(23))


# Numbers and segments.


def test_nothing_is_numbered_before_the_coordinator_has_said_where_its_log_ends() -> None:
    buffer = Buffer(WriterSettings())
    put(buffer, row(0, "a"), commit(0))
    assert requests(buffer) == []
    buffer.opened(41, 3, True)
    assert [(entry.seq, entry.segment) for entry in requests(buffer)] == [(42, 3), (43, 3)]


@pytest.mark.parametrize(("written", "segment"), [(False, 5), (True, 6)])
def test_a_rewind_opens_a_segment_only_after_a_write(written: bool, segment: int) -> None:
    buffer = Buffer(WriterSettings())
    put(buffer, rewind(9), row(9, "a"))
    buffer.opened(0, 5, written)
    (first,) = requests(buffer)
    buffer.acknowledge(1)
    (second,) = requests(buffer)
    assert [first.segment, second.segment] == [segment, segment]


def test_a_refused_first_write_is_none_for_the_rewind_behind_it() -> None:
    log, buffer = WriterLog(), opened_buffer()
    put(buffer, row(0, "a"), rewind(5), row(5, "a"))
    (first,) = requests(buffer)  # the rewind waits: whether there was a write is not known yet
    assert not buffer.may_send  # so its owner sleeps
    log.take(first, refuse=True)
    assert buffer.reject(1, REFUSAL) == 1
    for seq in (2, 3):
        (entry,) = requests(buffer)
        log.take(entry)
        buffer.acknowledge(seq)
    assert log.story == [(0, "rewind", 5), (0, "row", *row(5, "a"))]
    assert (buffer.rejected, buffer.acknowledged, buffer.empty) == (1, 1, True)


# Window, breaks, refusals.


def test_the_window_bounds_what_is_in_flight() -> None:
    buffer = opened_buffer(batch_points=1, window_entries=3)
    put(buffer, *(row(i, "a") for i in range(5)))
    assert [entry.seq for entry in requests(buffer)] == [1, 2, 3]
    buffer.acknowledge(2)
    assert [entry.seq for entry in requests(buffer)] == [4, 5]


def test_the_window_in_bytes_lets_at_least_one_entry_through() -> None:
    buffer = opened_buffer(batch_points=1, window_bytes=1)
    put(buffer, row(0, "a"), row(1, "a"))
    assert [entry.seq for entry in requests(buffer)] == [1]
    buffer.acknowledge(1)
    assert [entry.seq for entry in requests(buffer)] == [2]


def test_after_a_break_what_is_not_in_the_log_is_sent_again() -> None:
    buffer = opened_buffer(batch_points=1)
    put(buffer, *(row(i, "a") for i in range(4)))
    before = {entry.seq: entry.SerializeToString(deterministic=True) for entry in requests(buffer)}
    buffer.acknowledge(1)
    buffer.disconnected()
    assert buffer.waiting
    assert buffer.opened(3, 0, True) == (0, 0)
    again = {entry.seq: entry.SerializeToString(deterministic=True) for entry in requests(buffer)}
    assert again == {4: before[4]}
    assert buffer.acknowledged == 3


def test_a_store_that_went_back_gets_again_what_is_kept() -> None:
    buffer = opened_buffer(batch_points=1, keep_s=5.0)
    put(buffer, *(row(i, "a") for i in range(5)))
    requests(buffer)
    for seq, now in ((1, 0.0), (2, 1.0), (3, 2.0), (4, 5.5)):  # by then the first is forgotten
        buffer.acknowledge(seq, now)
    assert buffer.opened(0, 0, False, 5.6) == (1, 1)
    sent = [(entry.seq, entry.WhichOneof("payload"), list(entry.points.steps)) for entry in requests(buffer)]
    assert sent == [(1, "lost", [])] + [(seq, "points", [seq - 1]) for seq in range(2, 6)]
    assert (buffer.acknowledged, buffer.lost) == (0, 1)
    buffer.acknowledge(5, 6.0)
    assert (buffer.acknowledged, buffer.lost, buffer.empty) == (4, 1, True)


def test_a_refused_entry_leaves_a_gap_without_points_in_what_is_sent_again() -> None:
    buffer = opened_buffer(batch_points=1)
    put(buffer, row(0, "a"), row(1, "a"), row(2, "a"))
    requests(buffer)
    buffer.acknowledge(1)
    buffer.reject(2, REFUSAL)
    buffer.acknowledge(3)
    assert buffer.opened(0, 0, False) == (1, 0)
    kinds = [(entry.seq, entry.WhichOneof("payload"), entry.lost.points) for entry in requests(buffer)]
    assert kinds == [(1, "points", 0), (2, "lost", 0), (3, "points", 0)]


def test_a_log_that_ends_before_this_session_began_gets_its_gap_declared() -> None:
    buffer = Buffer(WriterSettings(batch_points=1))
    buffer.opened(7, 2, True)
    put(buffer, row(0, "a"))
    requests(buffer)
    buffer.acknowledge(8)
    assert buffer.opened(4, 1, True) == (3, 0)
    lost, again = requests(buffer)
    assert (lost.seq, lost.lost, again.seq, list(again.points.steps)) == (7, pb.Lost(entries=3), 8, [0])


def test_a_log_that_holds_more_than_was_sent_is_another_writers() -> None:
    buffer = opened_buffer(batch_points=1)
    put(buffer, row(0, "a"), row(1, "a"))
    requests(buffer)
    with pytest.raises(SessionTaken):
        buffer.opened(3, 0, True)


def test_an_acknowledgement_beyond_what_was_sent_settles_no_more_than_that() -> None:
    buffer = opened_buffer()
    put(buffer, row(0, "a"), rewind(0), row(1, "a"))
    requests(buffer)
    buffer.acknowledge(99)
    assert [entry.seq for entry in requests(buffer)] == [2]


def test_refused_entries_settle_in_their_place() -> None:
    buffer = opened_buffer(batch_points=1)
    lost, flush = commit(1), Flush(Durable())
    assert lost.durable is not None
    put(buffer, row(0, "a"), lost, row(2, "a", "b"), row(3, "a"), flush)
    requests(buffer)
    assert buffer.reject(3, REFUSAL) == 2
    assert buffer.reject(3, REFUSAL) == 0  # the same answer twice counts once
    assert buffer.reject(2, REFUSAL) == 0
    assert lost.durable.error is REFUSAL
    assert not flush.durable.done
    buffer.acknowledge(4)
    assert flush.durable.done
    assert not flush.complete
    assert (buffer.acknowledged, buffer.rejected, buffer.empty) == (2, 2, True)


# Promises.


def test_a_commit_is_durable_once_acknowledged_and_fails_when_all_is_given_up() -> None:
    first, second = commit(0), commit(1)
    assert first.durable is not None
    assert second.durable is not None
    buffer = opened_buffer()
    put(buffer, row(0, "a"), first, second)
    requests(buffer)
    buffer.acknowledge(2)
    assert first.durable.wait(0)
    assert not second.durable.wait(0)
    error = RunleaseError("lost")
    buffer.fail(error)
    with pytest.raises(RunleaseError, match="lost"):
        second.durable.wait(0)


def test_a_flush_waits_for_what_was_logged_before_it_only() -> None:
    buffer = opened_buffer()
    early, late = Flush(Durable()), Flush(Durable())
    put(buffer, early)
    assert early.durable.done
    assert early.complete
    put(buffer, row(0, "a"), late, row(1, "a"))
    (entry,) = requests(buffer)
    assert not late.durable.done
    buffer.acknowledge(entry.seq)
    assert late.durable.done
    assert late.complete


def test_a_flush_whose_rows_are_dropped_is_not_settled_before_what_is_in_flight() -> None:
    # Given a row in flight and one that waits, both before the flush
    buffer = opened_buffer(window_entries=1, buffer_bytes=1200)
    put(buffer, row(0, "a"))
    requests(buffer)
    flush = Flush(Durable())
    put(buffer, row(1, "a"), flush)
    # when newer rows push the waiting one out
    put(buffer, *(row(i, "a") for i in range(2, 40)))
    assert buffer.dropped == 39
    buffer.acknowledge(1)
    assert not flush.durable.done
    # then the flush ends once the coordinator knows of it, and says that something is missing.
    (entry,) = requests(buffer)
    assert (entry.seq, entry.lost) == (2, pb.Lost(entries=1, points=39))
    buffer.acknowledge(2)
    assert flush.durable.done
    assert not flush.complete


def test_giving_up_counts_every_point_as_lost_and_fails_flushes() -> None:
    buffer = opened_buffer(batch_points=2, window_entries=1)
    flush = Flush(Durable())
    put(buffer, *(row(i, "a") for i in range(7)), flush)
    requests(buffer)
    buffer.fail(RunleaseError("over"))
    assert (buffer.lost, buffer.empty, buffer.logged) == (7, True, 7)
    assert flush.durable.error is not None


# The memory bound.


def test_the_oldest_rows_drop_and_marks_never_do() -> None:
    buffer = Buffer(WriterSettings(buffer_bytes=20_000))
    put(buffer, commit(0), *(row(i, "a") for i in range(500)), rewind(3), *(row(i, "a") for i in range(500)))
    assert 0 < buffer.dropped < 1000
    log = WriterLog()
    deliver_all(buffer, log)
    steps = [what[2] for what in log.story if what[1] != "row"]
    rows = [what[2] for what in log.story if what[1] == "row"]
    assert steps == [0, 3]
    assert rows == list(range(500 - len(rows), 500))  # the newest
    assert buffer.acknowledged == len(rows) == 1000 - buffer.dropped


def test_abandoned_flushes_do_not_pile_up() -> None:
    buffer = Buffer(WriterSettings())
    put(buffer, row(0, "a"))
    for _ in range(1000):
        flush = Flush(Durable())
        put(buffer, flush)
        flush.abandoned = True
    assert len(buffer._flushes) <= 1
