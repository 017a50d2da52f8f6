"""The buffer under any history of calls, breaks and refusals: each item arrives once, in order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from runlease.buffer import Buffer, Flush, Item, Mark, WriterSettings
from runlease.durable import Durable
from runlease.v1 import metrics_pb2 as pb

from tests.support.buffers import KEYS, commit, deliver_all, hear, put, rewind, row
from tests.support.logserver import WriterLog


@dataclass
class Wire:
    """A stream between a buffer and a log: entries under way, answers under way."""

    buffer: Buffer
    log: WriterLog
    entries: deque[pb.Entry] = field(default_factory=deque)
    answers: deque[pb.AppendResponse] = field(default_factory=deque)
    connected: bool = False

    def send(self, count: int) -> None:
        if not self.connected:
            return
        for _ in range(count):
            request = self.buffer.next_request()
            if request is None:
                return
            self.entries.append(pb.Entry.FromString(request.entry.SerializeToString()))

    def arrive(self, count: int, *, refuse: bool = False) -> None:
        for _ in range(min(count, len(self.entries))):
            entry = self.entries.popleft()
            # Rewinds of a checked client are never malformed.
            self.answers.append(self.log.take(entry, refuse=refuse and not entry.HasField("rewind")))

    def answer(self, count: int) -> None:
        for _ in range(min(count, len(self.answers))):
            hear(self.buffer, self.answers.popleft())

    def cut(self, arriving: int) -> None:
        """Break: some of what is under way still arrives, no answer does."""
        self.arrive(arriving)
        self.entries.clear()
        self.answers.clear()
        self.buffer.disconnected()
        self.connected = False

    def open(self) -> None:
        if not self.connected:
            assert self.buffer.opened(self.log.seq, self.log.segment, self.log.written) == (0, 0)
            self.connected = True


def story_of(items: list[Item]) -> list[tuple[Any, ...]]:
    """The reference: every item in order, segments counted as the proto says."""
    segment, written, story = 0, False, []
    for item in items:
        if isinstance(item, tuple):
            written = True
            story.append((segment, "row", *item))
        elif isinstance(item, Mark) and isinstance(item.payload, pb.Rewind):
            segment += written
            story.append((segment, "rewind", item.payload.step))
        elif isinstance(item, Mark):
            written = True
            story.append((segment, "commit", item.payload.step))
    return story


small = st.integers(0, 4)
logged = st.one_of(
    st.tuples(st.just("row"), small, st.sets(st.sampled_from(KEYS), min_size=1)),
    st.tuples(st.just("row"), small, st.just({"loss"})),
    st.tuples(st.just("commit"), small),
    st.tuples(st.just("rewind"), small),
    st.tuples(st.just("flush")),
)
done = st.one_of(st.tuples(st.sampled_from(["send", "arrive", "answer", "cut"]), small), st.tuples(st.just("open")))
bounds = st.builds(
    WriterSettings,
    batch_points=st.sampled_from([1, 3, 10_000]),
    batch_bytes=st.sampled_from([100, 1 << 18]),
    window_entries=st.sampled_from([1, 2, 64]),
)


def item_of(action: tuple[Any, ...]) -> Item | None:
    match action:
        case ("row", step, keys):
            # In one order of keys, as they come back from columns in the order of their first row.
            return row(step, *sorted(keys), value=step / 3)
        case ("commit", step):
            return commit(step)
        case ("rewind", step):
            return rewind(step)
        case ("flush",):
            return Flush(Durable())
    return None


def run(wire: Wire, actions: list[tuple[Any, ...]]) -> list[Item]:
    items: list[Item] = []
    for action in actions:
        if (item := item_of(action)) is not None:
            items.append(item)
            put(wire.buffer, item)
            continue
        name, *arguments = action
        if name == "refuse":
            wire.arrive(*arguments, refuse=True)
        else:
            getattr(wire, name)(*arguments)
    return items


def by_key(story: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows as mappings: the order of keys within a row is not kept."""
    return [(*what[:4], dict(zip(what[4], what[5], strict=True))) if what[1] == "row" else what for what in story]


@given(st.lists(st.one_of(logged, done), max_size=60), bounds)
@settings(max_examples=300, deadline=None)
def test_any_history_with_any_breaks_arrives_once_and_in_order(
    actions: list[tuple[Any, ...]], limits: WriterSettings
) -> None:
    wire = Wire(Buffer(limits), WriterLog())
    items = run(wire, actions)
    wire.cut(0)
    deliver_all(wire.buffer, wire.log)
    assert by_key(wire.log.story) == by_key(story_of(items))
    assert [entry.seq for entry in wire.log.entries] == list(range(1, wire.log.seq + 1))
    points = sum(len(item[3]) for item in items if isinstance(item, tuple))
    assert wire.buffer.acknowledged == wire.buffer.logged == points
    assert wire.buffer._bytes == wire.buffer.backlog.bytes == 0
    for item in items:
        if isinstance(item, Flush):
            assert item.durable.done
            assert item.complete
        elif isinstance(item, Mark) and item.durable is not None:
            assert item.durable.done
            assert item.durable.error is None


refusals = st.tuples(st.just("refuse"), small)


@given(
    st.lists(st.one_of(logged, logged, done, refusals), max_size=60),
    bounds,
    st.sampled_from([1500, 3000, 1 << 26]),
)
@settings(max_examples=300, deadline=None)
def test_refusals_and_drops_leave_gaps_in_the_points_only(
    actions: list[tuple[Any, ...]], limits: WriterSettings, memory: int
) -> None:
    limits = WriterSettings(
        batch_points=limits.batch_points,
        batch_bytes=limits.batch_bytes,
        window_entries=limits.window_entries,
        buffer_bytes=memory,
    )
    wire = Wire(Buffer(limits), WriterLog())
    items = run(wire, actions)
    wire.cut(0)
    deliver_all(wire.buffer, wire.log)
    buffer, log = wire.buffer, wire.log
    # What arrived is a subsequence of what was logged, and every rewind is there.
    rest = iter(what[1:] for what in by_key(story_of(items)))
    assert all(any(what[1:] == other for other in rest) for what in by_key(log.story))
    rewinds = [item for item in items if isinstance(item, Mark) and isinstance(item.payload, pb.Rewind)]
    assert sum(what[1] == "rewind" for what in log.story) == len(rewinds)
    # The books balance. An entry refused just before a break counts as acknowledged: its seq is used up.
    stored = sum(len(what[5]) for what in log.story if what[1] == "row")
    assert buffer.logged == buffer.acknowledged + buffer.dropped + buffer.rejected
    assert buffer.acknowledged >= stored
    assert buffer._bytes == buffer.backlog.bytes == 0
    assert all(item.durable.done for item in items if isinstance(item, Flush))
