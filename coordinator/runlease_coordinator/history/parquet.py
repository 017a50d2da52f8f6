"""Parts of the archive as Parquet: long rows, one a point, sorted so that a key's rows lie together.

Sorted by (writer, key, attempt, segment, seq, row): row groups hold whole keys where they are small, so a reader of one
key skips most of a part by its statistics. pyarrow is imported by the first use, not by an idle coordinator.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from runlease_coordinator.domain.metrics import Floats, Ints, LogPosition
from runlease_coordinator.domain.runs import Segment
from runlease_coordinator.history.walltime import to_us

if TYPE_CHECKING:
    import pyarrow as pa
#: Rows that a row group holds at least, if the part has them: below it, statistics cost more than they save.
_GROUP_ROWS = 131_072
_DICTIONARY = ("writer", "key", "attempt", "segment", "fence")
_DELTAS = ("seq", "entry", "step")


class Rows(NamedTuple):
    """What one entry logged of one key; ``position`` is the entry's place in the log. Lists are faster for few rows."""

    attempt: int
    segment: int
    seq: int
    position: LogPosition
    steps: Ints | list[int]
    #: UNIX seconds.
    times: Floats | list[float]
    values: Floats | list[float]


class _Columns(NamedTuple):
    """Of one (writer, key), in the order of the part: how many rows each entry has, its place, and the rows."""

    lengths: Ints
    #: Attempt, segment, seq, fence and number of each entry.
    places: Ints
    steps: Ints
    times: Floats
    values: Floats


class _Series:
    """Rows of one (writer, key); plain arrays, since entries may be as small as one row."""

    def __init__(self) -> None:
        self.lengths, self._places = array("q"), array("q")
        self._steps, self._times, self._values = array("q"), array("d"), array("d")

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, rows: Rows) -> None:
        self.lengths.append(len(rows.steps))
        self._places.extend((rows.attempt, rows.segment, rows.seq, *rows.position))
        _extend(self._steps, rows.steps)
        _extend(self._times, rows.times)
        _extend(self._values, rows.values)

    def step_range(self) -> tuple[int, int]:
        steps = np.frombuffer(self._steps, np.int64)
        return int(steps.min()), int(steps.max())

    def columns(self) -> _Columns:
        """Return everything sorted by attempt, segment and seq; late entries of ended attempts come last in a log."""
        lengths = np.frombuffer(self.lengths, np.int64)
        places = np.frombuffer(self._places, np.int64).reshape(-1, 5)
        steps = np.frombuffer(self._steps, np.int64)
        times, values = np.frombuffer(self._times), np.frombuffer(self._values)
        order = np.lexsort((places[:, 2], places[:, 1], places[:, 0]))
        if (order[1:] > order[:-1]).all():
            return _Columns(lengths, places, steps, times, values)
        starts = np.cumsum(lengths) - lengths
        lengths, places, starts = lengths[order], places[order], starts[order]
        rows = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(len(steps))
        return _Columns(lengths, places, steps[rows], times[rows], values[rows])


def _extend(column: array[Any], numbers: npt.NDArray[Any] | list[Any]) -> None:
    if isinstance(numbers, list):
        column.extend(numbers)
    else:
        column.frombytes(numbers.tobytes())


class PartBuilder:
    """Collects entries in the order of the log, and writes them as one Parquet file."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.points = 0
        self._series: dict[tuple[str, str], _Series] = {}

    def add(self, writer: str, key: str, rows: Rows) -> None:
        """Take rows of one entry."""
        series = self._series.get((writer, key))
        if series is None:
            series = self._series[writer, key] = _Series()
        series.add(rows)
        self.points += len(rows.steps)

    def step_range(self) -> tuple[int, int]:
        """Return the lowest and the highest step; there must be points."""
        ranges = [series.step_range() for series in self._series.values()]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    def to_parquet(self) -> memoryview:
        """Return the file's content."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        schema = _schema()
        time_encoding = "BYTE_STREAM_SPLIT" if self._keys_share_groups() else "DELTA_BINARY_PACKED"
        with pq.ParquetWriter(
            sink,
            schema,
            compression="zstd",
            store_schema=False,
            use_dictionary=list(_DICTIONARY),
            column_encoding=dict.fromkeys(_DELTAS, "DELTA_BINARY_PACKED")
            | {"time": time_encoding, "value": "BYTE_STREAM_SPLIT"},
            write_statistics=["writer", "key", "fence", "entry", "step", "time"],
        ) as writer:
            for group in self._row_groups():
                writer.write_table(_table(group, schema), row_group_size=4 * _GROUP_ROWS)
        return memoryview(sink.getvalue())

    def _keys_share_groups(self) -> bool:
        """Whether zstd sees the same times again, of the next key: split by bytes it then finds them.

        Measured on a training that logs five keys; alone, a key's times take less as packed deltas.
        """
        return self.points < len(self._series) * _GROUP_ROWS // 2

    def _row_groups(self) -> Iterator[list[tuple[str, str, _Columns]]]:
        group: list[tuple[str, str, _Columns]] = []
        size = 0
        for writer, key in sorted(self._series):
            series = self._series[writer, key]
            group.append((writer, key, series.columns()))
            size += len(series)
            if size >= _GROUP_ROWS:
                yield group
                group, size = [], 0
        if group:
            yield group


def _schema() -> pa.Schema:
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        [
            ("writer", text),
            ("key", text),
            ("attempt", pa.int32()),
            ("segment", pa.int32()),
            ("seq", pa.int64()),
            ("fence", pa.int64()),
            ("entry", pa.int64()),
            ("step", pa.int64()),
            ("time", pa.timestamp("us", "UTC")),
            ("value", pa.float64()),
        ]
    )


def _table(group: Sequence[tuple[str, str, _Columns]], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    every = [columns for _, _, columns in group]
    lengths = np.concatenate([columns.lengths for columns in every])
    places = np.repeat(np.concatenate([columns.places for columns in every]), lengths, axis=0)
    sizes = [len(columns.steps) for columns in every]

    def texts(names: Sequence[str]) -> pa.DictionaryArray:
        distinct = list(dict.fromkeys(names))
        codes = {name: code for code, name in enumerate(distinct)}
        indices = np.repeat(np.array([codes[name] for name in names], np.int32), sizes)
        return pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(distinct, pa.string()))

    columns = [
        texts([writer for writer, _, _ in group]),
        texts([key for _, key, _ in group]),
        *(places[:, number] for number in range(5)),
        np.concatenate([columns.steps for columns in every]),
        to_us(np.concatenate([columns.times for columns in every])),
        np.concatenate([columns.values for columns in every]),  # NaN is a value here, not a null
    ]
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


def segments_parquet(segments: Sequence[Segment]) -> memoryview:
    """Return the file that lets SQL apply the rule of visibility to the parts beside it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "attempt": pa.array([one.attempt for one in segments], pa.int32()),
            "segment": pa.array([one.segment for one in segments], pa.int32()),
            "writer": pa.array([one.writer for one in segments], pa.string()),
            "start": pa.array([one.start for one in segments], pa.int64()),
            "counts": pa.array([one.counts for one in segments], pa.bool_()),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return memoryview(sink.getvalue())
