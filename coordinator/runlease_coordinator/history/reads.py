"""The one query path of histories: batches of all sources in, visible series out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from runlease_coordinator.domain.downsample import downsampled
from runlease_coordinator.domain.metrics import Batch, LogPosition, Series
from runlease_coordinator.domain.visibility import View, visible_in_log_order
from runlease_coordinator.history.budget import ReadBudget, Share, size_of
from runlease_coordinator.history.hot import HotLog
from runlease_coordinator.history.lineage import Stretch, lineage
from runlease_coordinator.history.pages import Moment, Place, expired
from runlease_coordinator.history.selection import KeyFilter, Selection
from runlease_coordinator.history.sources import Archive, NoArchive
from runlease_coordinator.history.workers import Workers
from runlease_coordinator.store.metrics import MetricStore
from runlease_coordinator.store.runs import RunStore

#: What one stretch holds of each (key, writer).
_Groups = dict[tuple[str, str], list[Batch]]
#: What one series is made of: of each stretch, oldest first, its batches.
_Layers = list[list[Batch]]
_Show = Callable[[str, str, _Layers], Series]
#: Small series share a thread's turn up to so many points.
_POINTS_A_TURN = 1 << 18


@dataclass(frozen=True, slots=True)
class Query:
    """Which part of a run's history to read; None means no bound, bounds are inclusive."""

    writers: frozenset[str]
    keys: KeyFilter = field(default_factory=KeyFilter)
    min_step: int | None = None
    max_step: int | None = None
    superseded: bool = False
    #: At most so many points a series, see `downsampled`; 0: all.
    max_points: int = 0
    #: Only what came in behind this position of the run's own log, in the order in which it did.
    after: LogPosition | None = None


class HistoryReader:
    """Reads histories as of one moment."""

    def __init__(
        self,
        runs: RunStore,
        metrics: MetricStore,
        archive: Archive | None = None,
        workers: Workers | None = None,
        budget: ReadBudget | None = None,
    ) -> None:
        """Take the operations of runs and of logs, where archived points are, threads to work in, and their memory."""
        self._runs = runs
        #: For callers, too, that have heavy work to do on what is read.
        self.workers = workers or Workers()
        self._hot = HotLog(metrics, self.workers)
        self._archive: Archive = archive or NoArchive()
        self._budget = budget or ReadBudget()

    def close(self) -> None:
        """Drop work that nobody waits for any more."""
        self.workers.close()

    async def moment(self, project: str, run_id: str, canonical_id: str) -> Moment:
        """Return the history of a run as it stands now.

        Raises:
            RunNotFound, RunIdCollision, Unavailable.
        """
        snapshot = await self._runs.get_run(project, run_id, canonical_id)
        return Moment(project, snapshot.run.created_us, await lineage(self._runs, project, snapshot))

    async def series(self, moment: Moment, query: Query, start: Place | None = None) -> AsyncGenerator[Series]:
        """Yield the series of a query by (key, writer), each ascending by step; none is empty.

        Args:
            moment: the history.
            query: what of it; with ``after``, the points of each series come in the order of the log.
            start: leave out what lies before this place.

        Raises:
            Unavailable.
            Overloaded: other reads hold all the memory that there is for reads.
            InvalidField: ``start`` is not there any more.
        """
        with self._budget.read() as share:
            async for one in self._series(moment, query, start, share):
                yield one

    async def _series(self, moment: Moment, query: Query, start: Place | None, share: Share) -> AsyncGenerator[Series]:
        if start is not None:
            query = replace(query, keys=query.keys.starting_at(start.key))
        found = await self._found(moment, query, share)
        show = _in_log_order(moment.own) if query.after is not None else _by_step(moment.stretches, query)
        places = sorted({place for groups in found for place in groups})
        if start is not None:
            places = places[sum(place < start[:2] for place in places) :]
            if not places or places[0] != start[:2]:
                raise expired()
        for turn in _turns(places, found):
            series = await self.workers.run(_shown, turn, show)
            held = sum(size_of(batches) for _, _, layers in turn for batches in layers)
            turn.clear()
            for shown in series:
                one = shown
                if start is not None:
                    one, start = _behind(shown, start), None
                if len(one):
                    yield one
            del series  # of whoever reads slowly no more than a turn is kept
            share.give_back(held)

    async def _found(self, moment: Moment, query: Query, share: Share) -> list[_Groups]:
        """Return what each stretch holds, oldest first."""
        found: list[_Groups] = []
        highest = query.max_step
        for stretch in reversed(moment.stretches):
            # What a parent inherited itself ends at the fork, too.
            highest = min((step for step in (highest, stretch.highest_step) if step is not None), default=None)
            selection = Selection(query.writers, stretch.last_entry, query.keys, query.min_step, highest)
            if query.after is not None:
                return [await self._groups(moment.project, stretch, replace(selection, after=query.after), share)]
            found.append(await self._groups(moment.project, stretch, selection, share))
        return found[::-1]

    async def _groups(self, project: str, stretch: Stretch, selection: Selection, share: Share) -> _Groups:
        groups: _Groups = {}
        for batch in await self._batches(project, stretch, selection, share):
            groups.setdefault((batch.key, batch.writer), []).append(batch)
        return groups

    async def _batches(self, project: str, stretch: Stretch, selection: Selection, share: Share) -> list[Batch]:
        """Read the hot log first: what is archived meanwhile is in the archive by the time that this is asked."""
        run, attempts = stretch.canonical_id, stretch.attempt_of
        pages = await self._hot.pages(project, run, attempts, selection, share)
        archived = await self._archive.archived(project, run)
        while any(page.first <= archived < page.last for page in pages):
            # The archive reaches into a page: of this one only the rest is wanted, if that is not archived meanwhile.
            (torn,) = (page for page in pages if page.first <= archived < page.last)
            wanted = replace(selection, after=archived, upto=torn.last)
            rest = await self._hot.pages(project, run, attempts, wanted, share)
            pages = [*rest, *(page for page in pages if page.first > archived)]
            archived = await self._archive.archived(project, run)
        found: list[Batch] = []
        if archived > selection.after:
            async for portion in self._archive.batches(project, run, selection.until(archived)):
                await share.take(size_of(portion))
                found += portion
        return found + [batch for page in pages if page.first > archived for batch in page.batches]


def _turns(places: Iterable[tuple[str, str]], found: Sequence[_Groups]) -> Iterator[list[tuple[str, str, _Layers]]]:
    """Take the layers of series out of what was found, so that each is gone from memory once it is shown."""
    turn: list[tuple[str, str, _Layers]] = []
    points = 0
    for key, writer in places:
        layers = [groups.pop((key, writer), []) for groups in found]
        turn.append((key, writer, layers))
        points += sum(len(batch.steps) for batches in layers for batch in batches)
        if points >= _POINTS_A_TURN:
            yield turn
            turn, points = [], 0
    if turn:
        yield turn


def _shown(turn: Iterable[tuple[str, str, _Layers]], show: _Show) -> list[Series]:
    return [show(*one) for one in turn]


def _by_step(stretches: Sequence[Stretch], query: Query) -> _Show:
    views = [View(stretch.segments, stretch.spared_by) for stretch in stretches]

    def show(key: str, writer: str, layers: _Layers) -> Series:
        shown: Series | None = None
        for number, (batches, view) in enumerate(zip(layers, views, strict=True), 1):
            superseded = query.superseded and number == len(views)
            shown = view.show(key, writer, batches, superseded=superseded, inherited=shown)
        assert shown is not None, "a run has at least its own stretch"
        return downsampled(shown, query.max_points) if query.max_points else shown

    return show


def _in_log_order(own: Stretch) -> _Show:
    shown = partial(visible_in_log_order, segments=own.segments)
    return lambda key, writer, layers: shown(key, writer, layers[0])


def _behind(series: Series, start: Place) -> Series:
    """Return the points of a series that no page before held."""
    if start.given and (len(series) < start.given or int(series.steps[start.given - 1]) != start.step):
        raise expired()
    return series.take(slice(start.given, None))
