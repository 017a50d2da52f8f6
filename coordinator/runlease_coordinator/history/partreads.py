"""Reads parts of the archive: of each row group first what tells whose rows they are, then the numbers, if wanted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from runlease_coordinator.domain.metrics import Batch, Flags, Ints
from runlease_coordinator.history.selection import Selection
from runlease_coordinator.history.walltime import from_us

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_LABELS = ("writer", "key", "attempt", "segment")
_COLUMNS = ("step", "time", "value")
_PLACE = ("fence", "entry")


class _Run(NamedTuple):
    """Rows of a row group that one segment logged of one (writer, key)."""

    attempt: int
    segment: int
    writer: str
    key: str
    start: int
    end: int


def read_part(source: Any, selection: Selection, *, places: bool) -> Iterator[Batch]:
    """Yield the selected rows of a part, those of one (attempt, segment, writer, key) in the order logged.

    Args:
        source: a path, or a file that pyarrow can read.
        selection: row groups without any of its rows are not read, as far as their statistics tell.
        places: whether the part reaches beyond the selection's positions in the log.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(source, read_dictionary=["writer", "key"]) as file:
        for group in range(file.num_row_groups):
            if _may_hold(file.metadata.row_group(group), selection):
                yield from _read_group(file, group, selection, places)


def _may_hold(group: pq.RowGroupMetaData, selection: Selection) -> bool:
    bounds = {}
    for number in range(group.num_columns):
        column = group.column(number)
        statistics = column.statistics
        if statistics is not None and statistics.has_min_max:
            bounds[column.path_in_schema] = (statistics.min, statistics.max)
    if "writer" in bounds and not any(bounds["writer"][0] <= name <= bounds["writer"][1] for name in selection.writers):
        return False
    if "key" in bounds and not selection.keys.may_take(*bounds["key"]):
        return False
    if "step" not in bounds:
        return True
    lowest, highest = bounds["step"]
    too_high = selection.max_step is not None and lowest > selection.max_step
    return not (too_high or (selection.min_step is not None and highest < selection.min_step))


def _read_group(file: pq.ParquetFile, group: int, selection: Selection, places: bool) -> Iterator[Batch]:
    runs = [
        run
        for run in _runs(file.read_row_group(group, columns=list(_LABELS), use_threads=False))
        if run.writer in selection.writers and selection.keys.takes(run.key)
    ]
    if not runs:
        return
    names = [*_COLUMNS, *(_PLACE if places else ())]
    table = file.read_row_group(group, columns=names, use_threads=False)
    steps, values = _numbers(table, "step"), _numbers(table, "value")
    times = from_us(_numbers(table, "time"))
    wanted = _wanted(table, steps, selection, places)
    for run in runs:
        rows: Any = slice(run.start, run.end)
        if wanted is not None:
            rows = run.start + np.flatnonzero(wanted[rows])
            if not len(rows):
                continue
        yield Batch(run.attempt, run.segment, run.writer, run.key, steps[rows], times[rows], values[rows])


def _runs(labels: pa.Table) -> Iterator[_Run]:
    (writers, writer_codes), (keys, key_codes) = _texts(labels, "writer"), _texts(labels, "key")
    attempts, segments = _numbers(labels, "attempt"), _numbers(labels, "segment")
    ends = np.zeros(len(attempts), np.bool_)
    ends[-1] = True
    for column in (writer_codes, key_codes, attempts, segments):
        ends[:-1] |= column[1:] != column[:-1]
    start = 0
    for last in np.flatnonzero(ends).tolist():
        writer, key = writers[writer_codes[last]], keys[key_codes[last]]
        yield _Run(int(attempts[last]), int(segments[last]), writer, key, start, last + 1)
        start = last + 1


def _wanted(table: pa.Table, steps: Ints, selection: Selection, places: bool) -> Flags | None:
    """Return which rows are selected by step and place; None: all."""
    wanted = selection.rows(steps)
    if not places:
        return wanted
    fences, entries = _numbers(table, "fence"), _numbers(table, "entry")
    after, upto = selection.after, selection.upto
    inside: Flags = (fences > after.fence) | ((fences == after.fence) & (entries > after.number))
    inside &= (fences < upto.fence) | ((fences == upto.fence) & (entries <= upto.number))
    return inside if wanted is None else wanted & inside


def _numbers(table: pa.Table, name: str) -> npt.NDArray[Any]:
    column = table.column(name).combine_chunks()
    if name == "time":
        column = column.cast("int64")
    numbers: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return numbers


def _texts(table: pa.Table, name: str) -> tuple[list[str], npt.NDArray[np.int32]]:
    column = table.column(name).unify_dictionaries().combine_chunks()
    return column.dictionary.to_pylist(), column.indices.to_numpy()
