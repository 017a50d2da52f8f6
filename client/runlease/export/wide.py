"""Wide files: one row a step, one column a key, like a table of an experiment."""

from __future__ import annotations

import csv
import heapq
import itertools
import json
from array import array
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from runlease.export.rows import json_number, text_over
from runlease.history import History

#: Rows of a row group.
_ROW_GROUP = 100_000
_STEP = "step"

#: Step, then the values by column; a column without a value at that step is not there.
_Row = tuple[int, dict[str, float]]


def write_wide(form: str, stream: BinaryIO, parts: Iterable[History]) -> int:
    """Write a history as a wide file of a format; returns the points in it.

    All of the history is held in memory: its rows are known only once its last key is read. A column is named by its
    key, or ``key@writer`` where there are several writers, or the key is ``step``. A step at which a key was not logged
    is null in Parquet, empty in CSV, and absent in JSON.

    Raises:
        ImportError: Parquet without pyarrow.
    """
    columns = _columns(parts)
    rows = _rows(columns)
    if form == "parquet":
        _write_parquet(stream, list(columns), rows)
    elif form == "csv":
        text = text_over(stream)
        out = csv.writer(text, lineterminator="\n")
        out.writerow((_STEP, *columns))
        out.writerows((step, *(values.get(name) for name in columns)) for step, values in rows)
        text.detach()
    else:
        for step, values in rows:
            shown = {_STEP: step} | {name: json_number(value) for name, value in values.items()}
            stream.write(json.dumps(shown, ensure_ascii=False, allow_nan=False).encode() + b"\n")
    return sum(len(values) for _, values in columns.values())


def _columns(parts: Iterable[History]) -> dict[str, tuple[array[int], array[float]]]:
    found: dict[tuple[str, str], tuple[array[int], array[float]]] = {}
    for part in parts:
        for series in part.series:
            steps, values = found.setdefault((series.key, series.writer), (array("q"), array("d")))
            steps.extend(series.steps)
            values.extend(series.values)
    several = len({writer for _, writer in found}) > 1
    return {f"{key}@{writer}" if several or key == _STEP else key: found[key, writer] for key, writer in sorted(found)}


def _rows(columns: dict[str, tuple[array[int], array[float]]]) -> Iterator[_Row]:
    points = heapq.merge(
        *(zip(steps, itertools.repeat(name), values, strict=False) for name, (steps, values) in columns.items())
    )
    for step, group in itertools.groupby(points, key=lambda point: point[0]):
        yield step, {name: value for _, name, value in group}


def _write_parquet(stream: BinaryIO, names: list[str], rows: Iterator[_Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(_STEP, pa.int64()), *((name, pa.float64()) for name in names)])
    with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        while group := list(itertools.islice(rows, _ROW_GROUP)):
            columns = [pa.array([step for step, _ in group], pa.int64())]
            columns += [pa.array([values.get(name) for _, values in group], pa.float64()) for name in names]
            writer.write_table(pa.table(columns, schema=schema))
