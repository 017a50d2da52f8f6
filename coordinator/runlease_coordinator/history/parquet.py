"""Parts of the archive as Parquet: long rows, one a point, sorted so that a key's rows lie together.

Sorted by (writer, key, attempt, segment, seq, row): row groups hold whole keys where they are small, so a reader of one
key skips most of a part by its statistics. pyarrow is imported by the first use, not by an idle coordinator.
"""

from __future__ import annotations

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
_DICTIONARY = ("writer", "key", "attempt", "segment", "seq", "fence", "entry")


class Rows(NamedTuple):
    """What one entry logged of one key; ``position`` is the entry's place in the log."""

    attempt: int
    segment: int
    seq: int
    position: LogPosition
    steps: Ints
    #: UNIX seconds.
    times: Floats
    values: Floats


class PartBuilder:
    """Collects entries in the order of the log, and writes them as one Parquet file."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.points = 0
        self._groups: dict[tuple[str, str], list[Rows]] = {}

    def add(self, writer: str, key: str, rows: Rows) -> None:
        """Take rows of one entry."""
        self._groups.setdefault((writer, key), []).append(rows)
        self.points += len(rows.steps)

    def step_range(self) -> tuple[int, int]:
        """Return the lowest and the highest step; there must be points."""
        every = [rows.steps for group in self._groups.values() for rows in group]
        return int(min(steps.min() for steps in every)), int(max(steps.max() for steps in every))

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
            use_dictionary=list(_DICTIONARY),
            column_encoding={
                "step": "DELTA_BINARY_PACKED",
                "time": time_encoding,
                "value": "BYTE_STREAM_SPLIT",
            },
            write_statistics=["writer", "key", "fence", "entry", "step", "time"],
        ) as writer:
            for group in self._row_groups():
                writer.write_table(_table(group, schema), row_group_size=4 * _GROUP_ROWS)
        return memoryview(sink.getvalue())

    def _keys_share_groups(self) -> bool:
        """Whether zstd sees the same times again, of the next key: split by bytes it then finds them.

        Measured on a training that logs four keys; alone, a key's times take less as packed deltas.
        """
        return self.points < len(self._groups) * _GROUP_ROWS // 2

    def _row_groups(self) -> Iterator[list[tuple[str, str, list[Rows]]]]:
        group: list[tuple[str, str, list[Rows]]] = []
        size = 0
        for writer, key in sorted(self._groups):
            rows = sorted(self._groups[writer, key], key=lambda one: one[:3])
            group.append((writer, key, rows))
            size += sum(len(one.steps) for one in rows)
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


def _table(group: Sequence[tuple[str, str, list[Rows]]], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    every = [one for _, _, rows in group for one in rows]
    lengths = np.array([len(one.steps) for one in every])
    sizes = [sum(len(one.steps) for one in rows) for _, _, rows in group]

    def repeated(numbers: Sequence[int], dtype: Any) -> npt.NDArray[Any]:
        return np.repeat(np.array(numbers, dtype), lengths)

    def texts(names: Sequence[str]) -> pa.DictionaryArray:
        distinct = list(dict.fromkeys(names))
        codes = {name: code for code, name in enumerate(distinct)}
        indices = np.repeat(np.array([codes[name] for name in names], np.int32), sizes)
        return pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(distinct, pa.string()))

    columns = [
        texts([writer for writer, _, _ in group]),
        texts([key for _, key, _ in group]),
        repeated([one.attempt for one in every], np.int32),
        repeated([one.segment for one in every], np.int32),
        repeated([one.seq for one in every], np.int64),
        repeated([one.position.fence for one in every], np.int64),
        repeated([one.position.number for one in every], np.int64),
        np.concatenate([one.steps for one in every]),
        to_us(np.concatenate([one.times for one in every])),
        np.concatenate([one.values for one in every]),  # NaN is a value here, not a null
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
