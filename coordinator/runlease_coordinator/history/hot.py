"""The hot part of a log: the store's stream, read and decoded page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from runlease_coordinator.domain.metrics import Batch, LogPosition
from runlease_coordinator.history.budget import Share, size_of
from runlease_coordinator.history.decode import decode
from runlease_coordinator.history.gather import Gatherer, is_small
from runlease_coordinator.history.selection import Selection
from runlease_coordinator.history.workers import Workers
from runlease_coordinator.store.metrics import LogEntry, MetricStore

#: What a read of a stream has on its way: a page that is decoded and the next one, with what is made of them.
_ON_THE_WAY_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Page:
    """What was selected of one page of a stream, and where it lies."""

    first: LogPosition
    last: LogPosition
    batches: Sequence[Batch]


class HotLog:
    """Reads streams; the next page is on its way while one is decoded."""

    def __init__(self, metrics: MetricStore, workers: Workers) -> None:
        """Take the operations of logs, and threads to decode in."""
        self._metrics = metrics
        self._workers = workers

    async def pages(
        self, project: str, canonical_id: str, attempt_of: Mapping[int, int], selection: Selection, share: Share
    ) -> list[Page]:
        """Return the selected points, counted in ``share``; not those of entries under a fence without an attempt.

        Raises:
            Unavailable, Overloaded.
        """
        found: list[Page] = []
        if selection.upto <= selection.after:
            return found
        await share.take(_ON_THE_WAY_BYTES)
        raw_pages = aiter(self._metrics.pages(project, canonical_id, selection.after, selection.upto))
        coming = asyncio.ensure_future(anext(raw_pages, None))
        try:
            while (entries := await coming) is not None:
                coming = asyncio.ensure_future(anext(raw_pages, None))
                batches = await self._workers.run(batches_of, entries, attempt_of, selection)
                if batches:
                    await share.take(size_of(batches))
                    found.append(Page(entries[0].position, entries[-1].position, batches))
        finally:
            coming.cancel()
            await asyncio.wait((coming,))  # what became of it does not matter: it ended above, or nobody asks
            if not coming.cancelled():
                coming.exception()
            share.give_back(_ON_THE_WAY_BYTES)
        return found


def batches_of(entries: Iterable[LogEntry], attempt_of: Mapping[int, int], selection: Selection) -> list[Batch]:
    """Decode entries of a log; those of one (attempt, segment, writer) stay in their order."""
    found: list[Batch] = []
    small = Gatherer(selection)
    for entry in entries:
        # Without an attempt, the fence's grant was taken back, or the fence is that of a forced break.
        attempt = entry.attempt or attempt_of.get(entry.fence)
        if attempt is None or entry.writer not in selection.writers:
            continue
        if is_small(entry.payload):
            small.add(entry, attempt)
        else:
            found.extend(small.batches())
            found.extend(_batches(entry, attempt, selection))
    found.extend(small.batches())
    return found


def _batches(entry: LogEntry, attempt: int, selection: Selection) -> Iterator[Batch]:
    points = decode(entry.payload, selection.keys)
    wanted = selection.rows(points.steps)
    if wanted is not None and not wanted.any():
        return
    for column in points.columns:
        steps, times, values = points.steps, points.times, column.values
        if column.rows is not None:
            steps, times = steps[column.rows], times[column.rows]
        if wanted is not None:
            rows = wanted if column.rows is None else wanted[column.rows]
            steps, times, values = steps[rows], times[rows], values[rows]
        if values.nbytes * 2 < len(entry.payload):
            values = values.copy()  # else the whole payload stays in memory with it
        if len(steps):
            yield Batch(attempt, entry.segment, entry.writer, column.key, steps, times, values)
