"""The one query path of histories: log entries in, visible series out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runlease.v1 import metrics_pb2

from runlease_coordinator.domain.metrics import Batch, Series
from runlease_coordinator.domain.runs import Attempt
from runlease_coordinator.domain.visibility import visible_series
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
        attempts = snapshot.run.attempts
        number_of = {attempt.fence: attempt.attempt for attempt in attempts}
        batches: list[Batch] = []
        async for entry in self._metrics.points(project, canonical_id, snapshot.last_entry):
            if entry.writer in query.writers:
                batches.extend(_decode(entry, number_of[entry.fence], query.keys))
        segments = [segment for attempt in _in_order(attempts) for segment in attempt.segments]
        series = visible_series(batches, segments, superseded=query.superseded)
        return [cut for one in series if (cut := _cut(one, query)).steps]


def _in_order(attempts: Sequence[Attempt]) -> list[Attempt]:
    return sorted(attempts, key=lambda attempt: attempt.attempt)


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


def _cut(series: Series, query: Query) -> Series:
    if query.min_step is None and query.max_step is None:
        return series
    low = 0 if query.min_step is None else query.min_step
    rows = [
        row
        for row, step in enumerate(series.steps)
        if step >= low and (query.max_step is None or step <= query.max_step)
    ]
    return Series(
        series.key,
        series.writer,
        [series.steps[row] for row in rows],
        [series.values[row] for row in rows],
        [series.times[row] for row in rows],
        [series.attempts[row] for row in rows],
        [series.superseded[row] for row in rows] if series.superseded else [],
    )
