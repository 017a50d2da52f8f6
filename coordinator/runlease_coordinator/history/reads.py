"""The one query path of histories: log entries in, visible series out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from runlease.v1 import metrics_pb2

from runlease_coordinator.domain.metrics import Batch, Series
from runlease_coordinator.domain.visibility import visible_series
from runlease_coordinator.history.lineage import Stretch, lineage
from runlease_coordinator.store.metrics import LogEntry, MetricStore
from runlease_coordinator.store.runs import RunStore


@dataclass(frozen=True, slots=True)
class Query:
    """Which part of a run's history to read; None means no bound, empty ``keys`` all keys."""

    keys: frozenset[str]
    writers: frozenset[str]
    min_step: int | None
    max_step: int | None
    superseded: bool


class HistoryReader:
    """Reads histories as of one moment."""

    def __init__(self, runs: RunStore, metrics: MetricStore) -> None:
        """Take the operations of runs and of logs."""
        self._runs = runs
        self._metrics = metrics

    async def read(self, project: str, run_id: str, canonical_id: str, query: Query) -> list[Series]:
        """Return the series of a query by (writer, key), each ascending by step.

        Raises:
            RunNotFound, RunIdCollision, Unavailable.
        """
        snapshot = await self._runs.get_run(project, run_id, canonical_id)
        shown: list[Series] = []
        stretches = await lineage(self._runs, project, snapshot)
        for stretch in stretches:
            shown = visible_series(
                await self._batches(project, stretch, query),
                stretch.segments,
                superseded=query.superseded and stretch is stretches[-1],
                inherited=shown,
                spared_by=stretch.spared_by,
            )
            shown = [cut for one in shown if (cut := _cut(one, None, stretch.highest_step)).steps]
        return [cut for one in shown if (cut := _cut(one, query.min_step, query.max_step)).steps]

    async def _batches(self, project: str, stretch: Stretch, query: Query) -> list[Batch]:
        batches: list[Batch] = []
        async for entry in self._metrics.points(project, stretch.canonical_id, stretch.last_entry):
            # Entries under a fence without an attempt: its grant was taken back, or it is that of a forced break.
            attempt = stretch.attempt_of.get(entry.fence)
            if attempt is not None and entry.writer in query.writers:
                batches.extend(_decode(entry, attempt, query.keys))
        return batches


def _decode(entry: LogEntry, attempt: int, keys: frozenset[str]) -> Iterator[Batch]:
    points = metrics_pb2.Points.FromString(entry.payload)
    steps, times = list(points.steps), list(points.times)
    for series in points.series:
        if keys and series.key not in keys:
            continue
        rows = series.rows
        yield Batch(
            attempt=attempt,
            segment=entry.segment,
            writer=entry.writer,
            key=series.key,
            steps=[steps[row] for row in rows] if rows else steps,
            times=[times[row] for row in rows] if rows else times,
            values=list(series.values),
        )


def _cut(series: Series, min_step: int | None, max_step: int | None) -> Series:
    if min_step is None and max_step is None:
        return series
    low, high = min_step or 0, math.inf if max_step is None else max_step
    rows = [row for row, step in enumerate(series.steps) if low <= step <= high]
    return Series(
        series.key,
        series.writer,
        [series.steps[row] for row in rows],
        [series.values[row] for row in rows],
        [series.times[row] for row in rows],
        [series.attempts[row] for row in rows],
        [series.superseded[row] for row in rows] if series.superseded else [],
    )
