"""Random families of runs through the real scripts: forks, links, rewinds on both sides, deleted parents.

The reference keeps what each run shows and cuts it where a segment begins to count; it knows neither segments'
numbers nor entries, and a fork is a copy. Logs are archived at any moment.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from runlease_coordinator.domain.errors import BadBranch, InvalidField
from runlease_coordinator.domain.leases import Acquisition, Fork, Grant, ResumeMode
from runlease_coordinator.domain.metrics import Series, Writer
from runlease_coordinator.domain.runs import RunState
from runlease_coordinator.history.reads import Query
from runlease_coordinator.store.metrics import Appended

from tests.support.stores import HOLDER, TTL_US, LiveStore, commit_entry, points_entry, rewind_entry, writer_of

WRITERS = ("main", "rank1")
_numbers = itertools.count()
View = dict[str, dict[int, float]]


@dataclass
class Shown:
    """What one run shows: its own points over those that it inherited."""

    own: View = field(default_factory=lambda: {writer: {} for writer in WRITERS})
    inherited: View = field(default_factory=lambda: {writer: {} for writer in WRITERS})
    ever: set[float] = field(default_factory=set)
    #: By step and fence; those of its parents are in `adopted`.
    checkpoints: dict[tuple[int, int], str] = field(default_factory=dict)
    adopted: set[tuple[int, int]] = field(default_factory=set)
    next_step: int = 0
    parent: Shown | None = None

    def visible(self, writer: str) -> dict[int, float]:
        return self.inherited[writer] | self.own[writer]

    def cut(self, start: int, writers: tuple[str, ...], *, spares: int = -1) -> None:
        """A segment begins to count: what its writers showed from its start on is gone.

        Unless it was open at a link up to the step ``spares``: then only what is the run's own goes.
        """
        for view, writer in itertools.product((self.own, self.inherited), writers):
            if view is self.own or spares < 0:
                view[writer] = {step: value for step, value in view[writer].items() if step < start}
        if "main" in writers:
            kept = self.adopted if spares >= 0 else set()
            self.checkpoints = {at: uri for at, uri in self.checkpoints.items() if at[0] < start or at in kept}
            self.next_step = max(start, spares + 1)

    def inherit(self, parent: Shown, step: int) -> None:
        upto = {w: {s: v for s, v in parent.visible(w).items() if s <= step} for w in WRITERS}
        self.parent, self.inherited = parent, upto
        self.ever |= {value for view in upto.values() for value in view.values()}
        copied = {at: uri for at, uri in parent.checkpoints.items() if at[0] <= step}
        self.checkpoints |= copied
        self.adopted |= set(copied)
        self.next_step = max(self.next_step, step + 1)

    def ancestors(self) -> Iterator[Shown]:
        run: Shown | None = self
        while run is not None:
            yield run
            run = run.parent


STEPS = st.integers(0, 12)
OPS = st.one_of(
    st.tuples(st.just("log"), st.sampled_from(WRITERS), st.lists(STEPS, min_size=1, max_size=4)),
    st.tuples(st.just("rewind"), st.sampled_from(WRITERS), STEPS),
    st.tuples(st.just("commit"), st.just("main"), STEPS),
)
RUNS = st.integers(0, 3)  # of those that are there
HOW = st.sampled_from(["", "step", "from"])
MANY = st.lists(OPS, max_size=6)
ACTIONS = st.one_of(
    st.tuples(st.just("start"), RUNS, st.just(""), STEPS, MANY),
    st.tuples(st.just("attempt"), RUNS, HOW, STEPS, MANY),
    st.tuples(st.just("fork"), RUNS, st.just(""), STEPS, MANY),
    st.tuples(st.just("link"), RUNS, st.sampled_from(["", "open"]), STEPS, RUNS),
    st.tuples(st.just("delete"), RUNS, st.just(""), st.just(0), st.just(0)),
    st.tuples(st.just("archive"), RUNS, st.just(""), st.just(0), st.just(0)),
)
Op = tuple[str, str, int | list[int]]
Action = tuple[str, int, str, int, int | list[Op]]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveStore]:
    store = LiveStore()
    store.raw.config_set("appendfsync", "no")  # durability has tests of its own
    yield store
    store.close()


class Family:
    """The runs of one project, in the store and in the reference."""

    def __init__(self, live: LiveStore) -> None:
        self.live, self.project = live, f"f{os.getpid()}-{next(_numbers)}"
        self.runs: list[Shown] = []
        self.deleted: set[int] = set()
        self.numbers = itertools.count()

    def wish(self, name: str, **more: object) -> Acquisition:
        wish = Acquisition(self.project, name, name, ResumeMode.ALLOW, f"n{next(self.numbers)}", TTL_US, HOLDER)
        return replace(wish, **more)

    async def act(self, kind: str, number: int, how: str, step: int, what: int | list[Op]) -> None:
        number %= max(1, len(self.runs))
        if (kind == "start" and isinstance(what, list)) or not self.runs:
            await self.attempt(
                len(self.runs),
                Shown(),
                "",
                0,
                [("log", "main", list(range(step, step + 6))), *(what if isinstance(what, list) else [])],
            )
        elif kind == "archive":  # deleted ones too: they go on serving
            await self.live.compactor.compact(self.project, f"r{number}")
        elif number in self.deleted:
            return
        elif kind == "attempt" and isinstance(what, list):
            await self.attempt(number, self.runs[number], how, step, what)
        elif kind == "fork" and isinstance(what, list):
            await self.fork(number, step, what)
        elif kind == "link" and isinstance(what, int) and what % len(self.runs) not in self.deleted:
            await (self.link_open if how == "open" else self.link)(number, what % len(self.runs), step)
        elif kind == "delete":
            fence = (await self.live.runs.get_run(self.project, f"r{number}", f"r{number}")).run.fence
            await self.live.runs.delete_run(self.project, f"r{number}", f"r{number}", fence, "")
            self.deleted.add(number)

    async def attempt(self, number: int, run: Shown, how: str, step: int, ops: list[Op]) -> None:
        if number == len(self.runs):
            self.runs.append(run)
        rewinds = how == "from" and 0 < step <= run.next_step
        given_step = step if rewinds or how == "step" else None
        top = max(run.checkpoints, default=None)
        start = given_step if given_step is not None else run.next_step if top is None else top[0] + 1
        grant = await self.live.leases.acquire(self.wish(f"r{number}", resume_step=given_step, rewinds=rewinds))
        if rewinds:
            run.cut(step, WRITERS)
        self.check(run, grant, start)
        await self.write(number, run, grant, start, rewinds, ops)

    async def fork(self, parent: int, step: int, ops: list[Op]) -> None:
        run, number = Shown(), len(self.runs)
        wish = self.wish(f"r{number}", fork=Fork(f"r{parent}", step), mode=ResumeMode.NEVER)
        if step >= self.runs[parent].next_step:
            with pytest.raises(InvalidField):
                await self.live.leases.acquire(wish)
            return
        grant = await self.live.leases.acquire(wish)
        run.inherit(self.runs[parent], step)
        self.runs.append(run)
        self.check(run, grant, step + 1)
        await self.write(number, run, grant, step + 1, False, ops)

    async def link_open(self, number: int, parent: int, step: int) -> None:
        """Link a run between a grant and its first write."""
        run = self.runs[number]
        grant = await self.live.leases.acquire(self.wish(f"r{number}", resume_step=step))
        self.check(run, grant, step)
        linked = await self.link(number, parent, step)
        if linked:
            run.cut(step, WRITERS, spares=step)
        await self.write(number, run, grant, step, linked, [("log", "main", [step + 1])])

    async def link(self, number: int, parent: int, step: int) -> bool:
        run, other = self.runs[number], self.runs[parent]
        call = self.live.runs.link(self.project, f"r{number}", f"r{number}", f"r{parent}", step)
        if any(one is run for one in other.ancestors()):
            with pytest.raises(BadBranch, match="cycle"):
                await call
        elif step >= other.next_step:
            with pytest.raises(InvalidField):
                await call
        elif run.parent is not None:
            known = (await self.live.runs.get_run(self.project, f"r{number}", f"r{number}")).run.parent
            assert known is not None
            if (known.canonical_id, known.step) == (f"r{parent}", step):
                await call  # a repetition
            else:
                with pytest.raises(BadBranch, match="already"):
                    await call
        else:
            await call
            run.inherit(other, step)
            return True
        return False

    def check(self, run: Shown, grant: Grant, start: int) -> None:
        assert grant.starting_step == start
        below = max((at for at in run.checkpoints if at[0] < start), default=None)
        assert (grant.checkpoint and grant.checkpoint.uri) == (None if below is None else run.checkpoints[below])

    async def write(self, number: int, run: Shown, grant: Grant, start: int, counts: bool, ops: list[Op]) -> None:
        places: dict[str, tuple[Writer, int, int, bool]] = {}
        for kind, name, what in ops:
            if name not in places:
                writer = writer_of(self.project, grant.fence, name=name, run_id=f"r{number}")
                await self.live.metrics.open_writer(writer)
                places[name] = (writer, 0, 0, False)
            writer, seq, segment, wrote = places[name]
            seq += 1
            if kind == "rewind" and isinstance(what, int):
                segment += wrote
                if counts:
                    run.cut(what, (name,))
                else:
                    start = what
                entry = rewind_entry(seq, what, segment=segment)
            else:
                wrote = True
                if not counts:
                    run.cut(start, WRITERS)
                    counts = True
                if isinstance(what, list):
                    rows = [(step, float(next(self.numbers))) for step in what]
                    run.own[name] |= dict(rows)
                    run.ever |= {value for _, value in rows}
                    entry = points_entry(seq, rows, segment=segment)
                else:
                    uri = f"file:///{next(self.numbers)}"
                    run.checkpoints[what, grant.fence] = uri
                    entry = commit_entry(seq, what, grant.fence, segment=segment, uri=uri)
                if name == "main":
                    run.next_step = max(run.next_step, 1 + (max(what) if isinstance(what, list) else what))
            places[name] = (writer, seq, segment, wrote)
            assert await self.live.metrics.append(writer, entry) == Appended(seq)
        await self.live.leases.release(self.project, f"r{number}", grant.fence, RunState.CRASHED)

    async def compare(self) -> None:
        for number, run in enumerate(self.runs):
            record = (await self.live.runs.get_run(self.project, f"r{number}", f"r{number}")).run
            assert record.next_step == run.next_step
            top = max(run.checkpoints, default=None)
            assert (record.checkpoint and record.checkpoint.uri) == (None if top is None else run.checkpoints[top])
            for writer in WRITERS:
                assert await self.shown(number, writer) == run.visible(writer)
            everything: dict[float, bool] = {}
            for writer in WRITERS:
                for one in await self.read(number, writer, superseded=True):
                    everything |= dict(zip(one.values, one.superseded, strict=True))
            visible = {value for writer in WRITERS for value in run.visible(writer).values()}
            assert everything == {value: value not in visible for value in run.ever}

    async def read(self, number: int, writer: str, *, superseded: bool) -> list[Series]:
        query = Query(frozenset((writer,)), superseded=superseded)
        return await self.live.read_history(self.project, f"r{number}", query)

    async def shown(self, number: int, writer: str) -> dict[int, float]:
        found = await self.read(number, writer, superseded=False)
        return {step: value for one in found for step, value in zip(one.steps, one.values, strict=True)}


@settings(max_examples=300, deadline=None, print_blob=True)
@given(st.lists(ACTIONS, min_size=3, max_size=9))
# Given a fork at 5, when the parent rewinds to 2, then the child still shows the parent's old 0..5.
@example([("start", 0, "", 0, []), ("fork", 0, "", 5, []), ("attempt", 0, "from", 2, [("log", "main", [2])])])
# A child that rewinds below the fork, and its own child; deleted parents serve on.
@example([
    ("start", 0, "", 0, [("commit", "main", 3)]),
    ("fork", 0, "", 4, [("log", "main", [5])]),
    ("attempt", 1, "from", 3, [("log", "main", [3, 4])]),
    ("fork", 1, "", 4, [("log", "main", [5]), ("rewind", "main", 1)]),
    ("delete", 0, "", 0, 0),
    ("delete", 1, "", 0, 0),
])  # fmt: skip
# A link after the fact: a child from before it does not change; and a cycle.
@example([
    ("start", 0, "", 0, []),
    ("start", 0, "", 9, []),
    ("fork", 1, "", 8, []),
    ("link", 1, "", 5, 0),
    ("attempt", 1, "from", 4, [("log", "main", [4])]),
    ("link", 0, "", 0, 1),
])  # fmt: skip
# An archived parent is linked and forked, and goes on; its archive then holds more than the children show.
@example([
    ("start", 0, "", 0, []),
    ("archive", 0, "", 0, 0),
    ("fork", 0, "", 4, [("log", "main", [5])]),
    ("attempt", 0, "from", 2, [("log", "main", [2, 3])]),
    ("archive", 0, "", 0, 0),
    ("archive", 1, "", 0, 0),
])  # fmt: skip
# A link between a grant and its first write: the start was chosen before, and hides nothing of the parent's.
@example([
    ("start", 0, "", 0, [("commit", "main", 3)]),
    ("start", 0, "", 9, [("commit", "main", 8)]),
    ("link", 1, "open", 3, 0),
    ("attempt", 1, "", 0, [("rewind", "main", 2), ("log", "main", [2])]),
])  # fmt: skip
def test_random_families(live: LiveStore, actions: list[Action]) -> None:
    family = Family(live)

    async def drive() -> None:
        for action in actions:
            await family.act(*action)
            await family.compare()

    live.run(drive())
    linked = [run for run in family.runs if run.parent is not None]
    event(f"runs with a parent: {len(linked)}")
    hidden = any(len(run.ever) > sum(len(run.visible(w)) for w in WRITERS) for run in linked)
    event("a run with a parent hides points" if hidden else "no run with a parent hides points")
