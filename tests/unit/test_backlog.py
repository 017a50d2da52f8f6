"""What finds no room in memory: it goes to disk and comes back in order, or is dropped and declared."""

from __future__ import annotations

import logging
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runlease.buffer import Buffer, Flush, Item, Mark, WriterSettings
from runlease.durable import Durable
from runlease.exceptions import RunleaseError
from runlease.kept import OBJECT_BYTES, Cut, Kept
from runlease.spool import files as spool_files
from runlease.spool.writing import Spool
from runlease.v1 import metrics_pb2 as pb

from tests.support.logserver import WriterLog
from tests.support.spools import a_row, header, rows_in, the_session

#: A tenth of what is logged below finds room in it.
TIGHT = {"buffer_bytes": 4000, "batch_points": 10}


def put(buffer: Buffer, *items: Item) -> None:
    buffer.take_in(deque(items))


def rows(first: int, last: int) -> list[Item]:
    return [a_row(step) for step in range(first, last)]


def drain(buffer: Buffer, log: WriterLog) -> None:
    """Open, send and acknowledge until nothing is left."""
    buffer.opened(log.seq, log.segment, log.written)
    while not buffer.empty:
        requests = list(iter(buffer.next_request, None))
        assert requests, "nothing may be sent, yet something waits"
        for request in requests:
            answer = log.take(pb.Entry.FromString(request.entry.SerializeToString()))
            assert answer.HasField("ack")
            buffer.acknowledge(answer.ack.seq)


def sums_up(buffer: Buffer) -> bool:
    buffered = buffer.logged - buffer.acknowledged - buffer.spooled - buffer.dropped - buffer.rejected - buffer.lost
    return buffered >= 0 and (not buffer.empty or buffered == 0)


def steps(log: WriterLog) -> list[int]:
    return [row[0] for row in log.rows]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path, header())


def test_what_overflows_comes_back_in_order_and_leaves_nothing_behind(spool: Spool, tmp_path: Path) -> None:
    buffer, log = Buffer(WriterSettings(**TIGHT), spool), WriterLog()
    for first in range(0, 1000, 50):
        put(buffer, *rows(first, first + 50))
        assert buffer.backlog.bytes <= TIGHT["buffer_bytes"]
    put(buffer, Mark(pb.Commit(step=999, uri="/c"), Durable()), Mark(pb.Rewind(step=990)), *rows(990, 1000))
    assert buffer.spooled > 800
    assert (buffer.dropped, buffer.lost) == (0, 0)
    drain(buffer, log)
    assert steps(log) == [*range(1000), *range(990, 1000)]
    assert [entry.seq for entry in log.entries] == list(range(1, log.seq + 1))
    assert (buffer.acknowledged, buffer.spooled) == (1010, 0)
    assert not list(spool.path.glob("entries-*"))
    buffer.fail(RunleaseError("over"))
    spool.end(delivered=True)
    assert not any((tmp_path / "spool").rglob("*"))


def test_beyond_the_disk_too_the_oldest_drop_and_are_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_files, "ENTRIES_BYTES", 2000)
    spool = Spool(tmp_path, header(), max_bytes=10_000)
    buffer, log = Buffer(WriterSettings(**TIGHT), spool), WriterLog()
    durable = Durable()
    put(buffer, Mark(pb.Commit(step=0, uri="/c"), durable))
    for first in range(0, 3000, 50):
        put(buffer, *rows(first, first + 50))
    put(buffer, Mark(pb.Rewind(step=7)), *rows(7, 9))
    assert 0 < buffer.dropped < 3000
    assert sum(path.stat().st_size for path in spool.path.glob("entries-*")) < 12_000
    drain(buffer, log)
    arrived = steps(log)
    assert arrived[:-2] == list(range(3000 - len(arrived) + 2, 3000))
    assert arrived[-2:] == [7, 8]
    lost = [entry.lost for entry in log.entries if entry.HasField("lost")]
    assert sum(entry.points for entry in lost) == buffer.dropped == 3002 - len(arrived)
    assert len(lost) == 1  # neighbours are declared together
    assert durable.done
    assert sums_up(buffer)


def test_a_disk_that_takes_nothing_is_warned_of_once_and_memory_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "spool").touch()  # where the directory should be
    ticks = iter(range(10**6))
    buffer = Buffer(WriterSettings(**TIGHT), Spool(tmp_path, header(), clock=lambda: float(next(ticks) * 10)))
    with caplog.at_level(logging.WARNING, "runlease"):
        for first in range(0, 1000, 50):
            put(buffer, *rows(first, first + 50))
    assert (buffer.spooled, buffer.dropped > 500) == (0, True)
    assert sum("RUNLEASE_DIR" in record.getMessage() for record in caplog.records) == 1
    # Once there is room again, it is used.
    (tmp_path / "spool").unlink()
    put(buffer, *rows(1000, 1100))
    assert buffer.spooled > 50
    log = WriterLog()
    drain(buffer, log)
    assert steps(log) == list(range(buffer.dropped, 1100))
    assert sums_up(buffer)


def test_an_entry_that_is_gone_from_disk_is_lost_and_declared(spool: Spool) -> None:
    buffer, log = Buffer(WriterSettings(**TIGHT), spool), WriterLog()
    put(buffer, *rows(0, 500))
    spooled = buffer.spooled
    for path in spool.path.glob("entries-*"):
        path.write_bytes(b"")
    drain(buffer, log)
    assert buffer.lost == spooled > 100
    assert len(log.rows) == 500 - spooled
    assert sums_up(buffer)


def test_what_is_left_at_the_end_is_complete_on_disk(spool: Spool, tmp_path: Path) -> None:
    buffer = Buffer(WriterSettings(**TIGHT, window_entries=3), spool)
    flush, commit = Flush(Durable()), Durable()
    put(buffer, *rows(0, 300), Mark(pb.Commit(step=299, uri="/c"), commit), *rows(300, 307), flush)
    buffer.opened(4, 0, False)
    assert len(list(iter(buffer.next_request, None))) == 3
    buffer.acknowledge(5)
    buffer.fail(RunleaseError("over"))
    spool.end(delivered=False)
    spool.close()
    assert (buffer.acknowledged, buffer.spooled, buffer.lost, buffer.logged) == (10, 297, 0, 307)
    assert all(durable.error is not None for durable in (flush.durable, commit))
    session = the_session(tmp_path)
    assert (session.base, session.acknowledged) == (4, 1)
    assert [row[0] for row in rows_in(session, after=1)] == list(range(10, 307))
    assert [gap for gap in session.gaps if gap.last > 1] == []
    kinds = [entry.WhichOneof("payload") for _, entry in session.entries()]
    assert kinds[-2:] == ["commit", "points"]


def test_always_writes_every_entry_before_it_is_sent(tmp_path: Path) -> None:
    spool = Spool(tmp_path, header(), always=True)
    buffer = Buffer(WriterSettings(batch_points=10), spool)
    buffer.opened(0, 0, False)
    for row in rows(0, 25):
        spool.row(row)
        put(buffer, row)
    sent = [request.entry for request in iter(lambda: buffer.next_request(partial=False), None)]
    assert len(sent) == 2
    assert [row[0] for row in rows_in(the_session(tmp_path))] == list(range(25))  # five of them from the journal
    assert (buffer.spooled, buffer.logged) == (20, 25)
    buffer.acknowledge(2)
    assert buffer.spooled == 0
    # Once all entries are acknowledged the journal is not read from its beginning: the last one stays, and tells.
    session = the_session(tmp_path)
    assert [row[0] for row in rows_in(session, after=2)] == list(range(20, 25))
    assert session.last_place == 3
    put(buffer, *rows(25, 30))
    for row in rows(25, 30):
        spool.row(row)
    assert len(list(iter(buffer.next_request, None))) == 1
    assert len(list(spool.path.glob("entries-*"))) == 1
    assert [place for place, _ in the_session(tmp_path).entries()] == [3]


def test_what_arrived_before_it_was_dropped_is_not_declared_lost() -> None:
    buffer, log = Buffer(WriterSettings(**TIGHT)), WriterLog()
    buffer.opened(0, 0, False)
    put(buffer, *rows(0, 40))
    sent = [pb.Entry.FromString(request.entry.SerializeToString()) for request in iter(buffer.next_request, None)]
    for entry in sent[:2]:  # no answer comes back
        log.take(entry)
    buffer.disconnected()
    put(buffer, *rows(40, 400))
    assert buffer.dropped > 40
    buffer.opened(log.seq, log.segment, log.written)
    first = buffer.next_request()
    assert first is not None
    assert (first.entry.seq - first.entry.lost.entries, log.take(first.entry).HasField("ack")) == (2, True)
    buffer.acknowledge(log.seq)
    drain(buffer, log)
    assert steps(log)[:20] == list(range(20))
    assert sums_up(buffer)


items = st.lists(
    st.one_of(
        st.tuples(st.just("rows"), st.integers(1, 30)),
        st.just(("commit",)),
        st.just(("rewind",)),
        st.tuples(st.just("send"), st.integers(1, 5)),
        st.just(("cut",)),
        st.tuples(st.just("back"), st.integers(1, 6)),
    ),
    max_size=40,
)


@given(items, st.booleans(), st.booleans(), st.sampled_from([0, 2000, 1 << 20]))
@settings(max_examples=150, deadline=None)
def test_any_history_is_delivered_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[Any, ...]], disk: bool, always: bool, keep: int
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    spool = Spool(directory, header(), always=always) if disk else None
    bounds = WriterSettings(buffer_bytes=3000 if disk else 1 << 20, batch_points=7, keep_bytes=keep, window_entries=4)
    buffer, log, logged = Buffer(bounds, spool), WriterLog(), 0
    stories: list[tuple[Any, ...]] = []
    connected = False

    def log_item(item: Item) -> None:
        if spool is not None and always:
            spool.row(item) if isinstance(item, tuple) else spool.mark(item.payload)
        put(buffer, item)

    for action in actions:
        match action:
            case ("rows", count):
                for row in rows(logged, logged + count):
                    log_item(row)
                    stories.append(("row", row[0]))
                logged += count
            case ("commit",):
                log_item(Mark(pb.Commit(step=logged, uri="/c"), Durable()))
                stories.append(("commit", logged))
            case ("rewind",):
                log_item(Mark(pb.Rewind(step=logged)))
                stories.append(("rewind", logged))
            case ("send", count):
                if not connected:
                    buffer.opened(log.seq, log.segment, log.written)
                    connected = True
                for _ in range(count):
                    if (request := buffer.next_request()) is not None:
                        buffer.acknowledge(log.take(pb.Entry.FromString(request.entry.SerializeToString())).ack.seq)
            case ("cut",):
                buffer.disconnected()
                connected = False
            case ("back", count):
                back = max(0, len(log.entries) - count)
                log = replay(log.entries[:back])
                buffer.disconnected()
                connected = False
    drain(buffer, log)
    arrived = [what[1:3] for what in log.story]
    rest = iter(stories)
    assert all(any(what == other for other in rest) for what in arrived)
    assert len([what for what in stories if what[0] == "row"]) == len(log.rows) + buffer.lost
    assert [what for what in arrived if what[0] != "row"] == [what for what in stories if what[0] != "row"]
    assert (buffer.acknowledged, buffer.spooled, buffer.dropped) == (len(log.rows), 0, 0)
    if keep > 1 << 19:
        assert buffer.lost == 0
    buffer.fail(RunleaseError("over"))
    if spool is not None:
        spool.end(delivered=True)
        assert not any((directory / "spool").rglob("*"))


def replay(entries: list[pb.Entry]) -> WriterLog:
    log = WriterLog()
    for entry in entries:
        assert log.take(entry).HasField("ack")
    return log


# Kept.


def kept_cut(place: int, points: int = 2) -> Cut:
    return Cut(pb.AppendRequest(), "points", points, OBJECT_BYTES, (0, 0), place=place)


def test_points_of_what_is_long_forgotten_are_counted_all_the_same() -> None:
    kept = Kept(WriterSettings(keep_s=1.0))
    for place in range(1, 5001):
        kept.add(kept_cut(place), float(place))
    (lost, last) = kept.take_back(4001, 5000)
    assert (lost.kind, lost.place, lost.entries, lost.points) == ("lost", 4999, 999, 1998)
    assert last.place == 5000
    (lost,) = kept.take_back(1, 4000)
    assert (lost.place, lost.entries, lost.points) == (4000, 4000, 8000)


def test_the_memory_of_points_is_bounded() -> None:
    kept = Kept(WriterSettings(keep_s=0.0))
    for place in range(1, 100_001):
        kept.add(kept_cut(place), 0.0)
    assert len(kept._places) <= 8192
    (lost,) = kept.take_back(1, 100_000)
    assert (lost.entries, lost.points) == (100_000, 200_000)
