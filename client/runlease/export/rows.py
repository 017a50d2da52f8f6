"""Long files: one row a point, written page by page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Protocol

from runlease.history import History, Series

FORMATS = ("parquet", "csv", "jsonl")
MISSING_PYARROW = "Parquet needs pyarrow: pip install 'runlease[arrow]'"
#: Rows that become text at a time.
_ROWS_A_WRITE = 65_536
_COLUMNS = ("key", "step", "value", "time", "attempt", "writer")


class Columns(Protocol):
    """A long file that takes histories one after the other."""

    def write(self, part: History) -> None:
        """Append the points of a part, by key, then step."""

    def close(self) -> None:
        """Write what is left; the stream stays open."""


def open_rows(form: str, stream: BinaryIO, *, superseded: bool) -> Columns:
    """Begin a long file of a format.

    Args:
        form: one of `FORMATS`.
        stream: open for writing, in binary; the caller closes it.
        superseded: whether there is such a column.

    Raises:
        ImportError: Parquet without pyarrow.
    """
    if form == "parquet":
        return _Parquet(stream, superseded)
    return _Csv(stream, superseded) if form == "csv" else _JsonLines(stream)


class _Csv:
    def __init__(self, stream: BinaryIO, superseded: bool) -> None:
        self._text = text_over(stream)
        self._rows = csv.writer(self._text, lineterminator="\n")
        self._rows.writerow((*_COLUMNS, "superseded") if superseded else _COLUMNS)

    def write(self, part: History) -> None:
        # The csv module writes floats with repr, so that they read back as they were.
        for series in part.series:
            rows = _tuples(series)
            self._rows.writerows(((*row[:-1], str(row[-1]).lower()) for row in rows) if series.superseded else rows)
        self._text.flush()

    def close(self) -> None:
        self._text.detach()  # closing it would close the stream


class _JsonLines:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, part: History) -> None:
        for series in part.series:
            lines: list[str] = []
            for line in self._lines(series):
                lines.append(line)
                if len(lines) == _ROWS_A_WRITE:
                    self._stream.write("".join(lines).encode())
                    lines.clear()
            self._stream.write("".join(lines).encode())

    def close(self) -> None:
        self._stream.flush()

    def _lines(self, series: Series) -> Iterator[str]:
        names = (*_COLUMNS, "superseded") if series.superseded else _COLUMNS
        for row in _tuples(series):
            point = dict(zip(names, row, strict=True))
            point["value"] = json_number(point["value"])
            yield json.dumps(point, ensure_ascii=False, allow_nan=False) + "\n"


class _Parquet:
    """Writes each part as a row group of its own; keys and writers are dictionaries."""

    def __init__(self, stream: BinaryIO, superseded: bool) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = History(()).to_arrow().schema
        if superseded:
            self._schema = self._schema.append(pa.field("superseded", pa.bool_()))
        self._writer = pq.ParquetWriter(stream, self._schema, compression="zstd")

    def write(self, part: History) -> None:
        if len(part):
            self._writer.write_table(part.to_arrow())

    def close(self) -> None:
        self._writer.close()


def json_number(value: float) -> float | str:
    """Return a number as JSON has it: NaN and infinities are strings."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def text_over(stream: BinaryIO) -> io.TextIOWrapper:
    """Return a text file over a binary one, with the line ends that are written."""
    return io.TextIOWrapper(stream, encoding="utf-8", newline="")


def _tuples(series: Series) -> Iterator[tuple[Any, ...]]:
    count = len(series.steps)
    columns: list[Sequence[Any]] = [
        [series.key] * count,
        *(series.steps, series.values, series.times, series.attempts),
        [series.writer] * count,
    ]
    if series.superseded:
        columns.append(series.superseded)
    return zip(*columns, strict=True)
