"""The one query path of histories: batches of all sources in, visible series out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from runlease_coordinator.domain.metrics import LOG_START, Batch, LogPosition, Series
from runlease_coordinator.domain.visibility import View
from runlease_coordinator.history.hot import HotLog
from runlease_coordinator.history.lineage import Stretch, lineage
from runlease_coordinator.history.selection import KeyFilter, Selection
from runlease_coordinator.history.sources import Archive, NoArchive
from runlease_coordinator.history.workers import Workers
from runlease_coordinator.store.metrics import MetricStore
from runlease_coordinator.store.runs import RunStore

#: What one stretch holds of a (key, writer).
_Groups = dict[tuple[str, str], list[Batch]]


@dataclass(frozen=True, slots=True)
class Query:
    """Which part of a run's history to read; None means no bound, bounds are inclusive."""

    writers: frozenset[str]
    keys: KeyFilter = field(default_factory=KeyFilter)
    min_step: int | None = None
    max_step: int | None = None
    superseded: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """A run's history as it stands at one moment: its stretches, oldest first; the last one is its own log."""

    project: str
    stretches: Sequence[Stretch]

    @property
    def position(self) -> LogPosition:
        """Where the run's own log ends then."""
        return self.stretches[-1].last_entry


class HistoryReader:
    """Reads histories as of one moment."""

    def __init__(
        self, runs: RunStore, metrics: MetricStore, archive: Archive | None = None, workers: Workers | None = None
    ) -> None:
        """Take the operations of runs and of logs, where archived points are, and threads to work in."""
        self._runs = runs
        self._workers = workers or Workers()
        self._hot = HotLog(metrics, self._workers)
        self._archive: Archive = archive or NoArchive()

    def close(self) -> None:
        """Drop work that nobody waits for any more."""
        self._workers.close()

    async def moment(self, project: str, run_id: str, canonical_id: str) -> Moment:
        """Return the history of a run as it stands now.

        Raises:
            RunNotFound, RunIdCollision, Unavailable.
        """
        snapshot = await self._runs.get_run(project, run_id, canonical_id)
        return Moment(project, await lineage(self._runs, project, snapshot))

    async def series(self, moment: Moment, query: Query) -> AsyncIterator[Series]:
        """Yield the series of a query by (key, writer), each ascending by step; none is empty.

        Raises:
            Unavailable.
        """
        found: list[_Groups] = []
        highest = query.max_step
        for stretch in reversed(moment.stretches):
            # What a parent inherited itself ends at the fork, too.
            highest = min((step for step in (highest, stretch.highest_step) if step is not None), default=None)
            found.insert(0, await self._groups(moment, stretch, query, highest))
        views = [View(stretch.segments, stretch.spared_by) for stretch in moment.stretches]
        for key, writer in sorted({place for groups in found for place in groups}):
            layers = [groups.pop((key, writer), []) for groups in found]
            shown = await self._workers.run(_shown, key, writer, layers, views, superseded=query.superseded)
            del layers
            if len(shown):
                yield shown

    async def _groups(self, moment: Moment, stretch: Stretch, query: Query, max_step: int | None) -> _Groups:
        selection = Selection(query.writers, stretch.last_entry, query.keys, query.min_step, max_step)
        groups: _Groups = {}
        for batch in await self._batches(moment.project, stretch, selection):
            groups.setdefault((batch.key, batch.writer), []).append(batch)
        return groups

    async def _batches(self, project: str, stretch: Stretch, selection: Selection) -> list[Batch]:
        """Read the hot log first: what is archived meanwhile is in the archive by the time that this is asked."""
        run, attempts = stretch.canonical_id, stretch.attempt_of
        pages = await self._hot.pages(project, run, attempts, selection)
        archived = await self._archive.archived(project, run)
        found: list[Batch] = []
        if archived > max(selection.after, LOG_START):
            older = selection.until(archived)
            async for portion in self._archive.batches(project, run, older):
                found += portion
        return found + await self._hot.behind(pages, archived, attempts, selection)


def _shown(
    key: str, writer: str, layers: Sequence[Sequence[Batch]], views: Sequence[View], *, superseded: bool
) -> Series:
    shown: Series | None = None
    for number, (batches, view) in enumerate(zip(layers, views, strict=True), 1):
        is_own = number == len(views)
        shown = view.show(key, writer, batches, superseded=superseded and is_own, inherited=shown)
    assert shown is not None, "a run has at least its own stretch"
    return shown
