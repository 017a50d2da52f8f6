"""Small entries, as a training that logs row by row makes them: gathered into columns of many entries.

One at a time they would cost ten times as much, for NumPy's work on a few numbers is all overhead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from runlease.v1 import metrics_pb2

from runlease_coordinator.domain.metrics import Batch
from runlease_coordinator.history.selection import Selection
from runlease_coordinator.history.walltime import whole_us
from runlease_coordinator.store.metrics import LogEntry

#: Bytes of an entry's packed steps below which gathering is faster: about 20 rows. Measured, microseconds an entry:
#: 5 series of one row 10 beside 76, 100 of one row 105 beside 300, 10 of 20 rows 57 beside 52.
_FEW_STEPS = 64
_PACKED_STEPS = 0x0A

#: Attempt, segment, writer.
_Place = tuple[int, int, str]


@dataclass(slots=True)
class _Column:
    steps: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def is_small(payload: bytes) -> bool:
    """Tell whether an entry has few rows: its steps come first, behind their size."""
    return len(payload) < 2 or (payload[0] == _PACKED_STEPS and payload[1] < _FEW_STEPS)


class Gatherer:
    """Takes in small entries in the order of their log, and gives out one batch a (place, key)."""

    def __init__(self, selection: Selection) -> None:
        """Take what is wanted of them; writers were looked at before."""
        self._selection = selection
        self._found: dict[_Place, dict[str, _Column | None]] = {}

    def add(self, entry: LogEntry, attempt: int) -> None:
        """Take in an entry.

        Raises:
            google.protobuf.message.DecodeError: its payload is no serialized `Points`.
        """
        points = metrics_pb2.Points.FromString(entry.payload)
        steps, times = list(points.steps), list(points.times)
        columns = self._found.setdefault((attempt, entry.segment, entry.writer), {})
        for series in points.series:
            key, rows = series.key, series.rows
            try:
                column = columns[key]
            except KeyError:
                column = columns[key] = _Column() if self._selection.keys.takes(key) else None
            if column is None:
                continue
            if rows:
                column.steps += [steps[row] for row in rows]
                column.times += [times[row] for row in rows]
            else:
                column.steps += steps
                column.times += times
            column.values += series.values

    def batches(self) -> Iterator[Batch]:
        """Give out what was gathered, and begin anew."""
        found, self._found = self._found, {}
        for (attempt, segment, writer), columns in found.items():
            for key, column in columns.items():
                if column is None:
                    continue
                steps = np.array(column.steps, np.int64)
                times, values = whole_us(np.array(column.times, np.float64)), np.array(column.values, np.float64)
                wanted = self._selection.rows(steps)
                if wanted is not None:
                    steps, times, values = steps[wanted], times[wanted], values[wanted]
                if len(steps):
                    yield Batch(attempt, segment, writer, key, steps, times, values)
