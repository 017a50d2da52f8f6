"""Histories as the SDK reads them: columns by series, rows, a pandas frame, an Arrow table."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import grpc

from runlease.exceptions import InvalidArgument
from runlease.v1 import metrics_pb2 as pb
from runlease.v1 import runs_pb2

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    import pyarrow as pa

_Number = TypeVar("_Number", int, float)
_MAX_UINT32 = 2**32 - 1


class Point(NamedTuple):
    """One value of one key; ``time`` is UNIX seconds by the writer's clock."""

    key: str
    step: int
    value: float
    time: float
    attempt: int
    writer: str


@dataclass(slots=True)
class Series:
    """Points of one (key, writer): equally long columns, ascending by step.

    ``superseded`` tells of each point whether default views hide it; empty unless such points were asked for.
    ``nan_in_bucket`` tells of each point of a downsampled series whether its part of the steps also holds a NaN; empty
    where none does.
    """

    key: str
    writer: str
    steps: Sequence[int] = field(default_factory=lambda: array("q"))
    values: Sequence[float] = field(default_factory=lambda: array("d"))
    times: Sequence[float] = field(default_factory=lambda: array("d"))
    attempts: Sequence[int] = field(default_factory=lambda: array("I"))
    superseded: Sequence[bool] = ()
    nan_in_bucket: Sequence[bool] = ()


class History:
    """The points of one run, by key, then step."""

    def __init__(self, series: Iterable[Series], *, cursor: str = "", next_page_token: str = "") -> None:
        """Take the series in any order.

        Args:
            series: no two of one (key, writer).
            cursor: up to where the run's log was read; `Client.history(after=)` reads what comes in behind it.
            next_page_token: where this is a page, what leads to the next one.
        """
        self.series: list[Series] = sorted(series, key=lambda one: (one.key, one.writer))
        self.cursor = cursor
        self.next_page_token = next_page_token

    @property
    def keys(self) -> list[str]:
        """All keys, ascending."""
        return list(dict.fromkeys(one.key for one in self.series))

    def __len__(self) -> int:
        """Return the number of points."""
        return sum(len(one.steps) for one in self.series)

    def rows(self) -> Iterator[Point]:
        """Yield ``(key, step, value, time, attempt, writer)`` by key, then step."""
        for one in self.series:
            columns = zip(one.steps, one.values, one.times, one.attempts, strict=True)
            for step, value, time, attempt in columns:
                yield Point(one.key, step, value, time, attempt, one.writer)

    def to_pandas(self) -> pd.DataFrame:
        """Return a wide frame: one row a step, one column a key (``key@writer`` where several writers are there).

        It shows what default views show, the latest point of each step.

        Raises:
            ImportError: pandas is not installed.
        """
        import numpy as np
        import pandas as pd

        several = len({one.writer for one in self.series}) > 1
        names = [f"{one.key}@{one.writer}" if several else one.key for one in self.series]
        columns = []
        for one in self.series:
            steps, values = np.asarray(one.steps, np.int64), np.asarray(one.values, np.float64)
            if one.superseded:
                shown = ~np.asarray(one.superseded, np.bool_)
                steps, values = steps[shown], values[shown]
            columns.append((steps, values))
        index = _all_steps([steps for steps, _ in columns])
        table = np.full((len(columns), len(index)), np.nan)
        for row, (steps, values) in zip(table, columns, strict=True):
            if len(steps) == len(index) and np.array_equal(steps, index):
                row[:] = values
            else:
                row[np.searchsorted(index, steps)] = values
        return pd.DataFrame(table.T, index=pd.Index(index, name="step"), columns=names)

    def to_arrow(self) -> pa.Table:
        """Return a long table: key, step, value, time (UNIX seconds), attempt, writer, by key, then step.

        With `superseded` points there is such a column, too. Keys and writers are dictionaries.

        Raises:
            ImportError: pyarrow is not installed.
        """
        import pyarrow as pa

        names = pa.dictionary(pa.int32(), pa.string())
        fields = [("key", names), ("step", pa.int64()), ("value", pa.float64()), ("time", pa.float64())]
        fields += [("attempt", pa.uint32()), ("writer", names)]
        if any(one.superseded for one in self.series):
            fields.append(("superseded", pa.bool_()))
        schema = pa.schema(fields)
        keys = {key: number for number, key in enumerate(self.keys)}
        writers = {name: number for number, name in enumerate(sorted({one.writer for one in self.series}))}

        def named(values: dict[str, int], name: str, count: int) -> Any:
            indices = pa.repeat(pa.scalar(values[name], pa.int32()), count)
            return pa.DictionaryArray.from_arrays(indices, pa.array(list(values), pa.string()))

        def batch_of(one: Series) -> Any:
            count = len(one.steps)
            numbers = (
                _arrow_column(column, schema.field(name).type)
                for name, column in (("step", one.steps), ("value", one.values), ("time", one.times))
            )
            columns = [named(keys, one.key, count), *numbers, _arrow_column(one.attempts, pa.uint32())]
            columns.append(named(writers, one.writer, count))
            if "superseded" in schema.names:
                columns.append(pa.array(one.superseded or [False] * count, pa.bool_()))
            return pa.record_batch(columns, schema=schema)

        return pa.Table.from_batches([batch_of(one) for one in self.series], schema)


def history_request(
    run: runs_pb2.RunRef,
    *,
    keys: Iterable[str] | None = None,
    min_step: int | None = None,
    max_step: int | None = None,
    max_points: int | None = None,
    superseded: bool = False,
    writers: Iterable[str] | None = None,
    key_patterns: Iterable[str] | None = None,
    after: str | None = None,
    page_points: int = 0,
) -> pb.HistoryRequest:
    """Build a request of History; see `Client.history`.

    Raises:
        InvalidArgument: a count is out of range.
    """
    for name, count in (("max_points", max_points or 0), ("page_points", page_points)):
        if not 0 <= count <= _MAX_UINT32:
            raise InvalidArgument(f"{name}={count}: give a number of points, up to {_MAX_UINT32}", field=name)
    return pb.HistoryRequest(
        run=run,
        keys=keys or (),
        writers=writers or (),
        min_step=min_step,
        max_step=max_step,
        max_points=max_points or 0,
        superseded=superseded,
        key_patterns=key_patterns or (),
        after=after,
        page_points=page_points,
        packed=True,
    )


def history_of(responses: Iterable[pb.HistoryResponse]) -> History:
    """Read a stream of History."""
    found: dict[tuple[str, str], _Columns] = {}
    cursor = next_page_token = ""
    for part in responses:
        cursor, next_page_token = part.cursor or cursor, part.next_page_token or next_page_token
        if part.packed_steps or part.steps:
            columns = found.get((part.key, part.writer))
            if columns is None:
                columns = found[part.key, part.writer] = _Columns()
            columns.add(part)
    series = (columns.series(key, writer) for (key, writer), columns in found.items())
    return History(series, cursor=cursor, next_page_token=next_page_token)


class PageStream:
    """Pages that one call answers one after the other; after an error a new call goes on."""

    def __init__(self, history: Callable[..., Any], timeout_s: float) -> None:
        """Take the stub's method, and for how long one call may go on, in seconds."""
        self._history, self._timeout_s = history, timeout_s
        self._call: Any = None

    def read(self, request: pb.HistoryRequest, *, timeout: float, metadata: Sequence[tuple[str, str]]) -> History:
        """Read the next page; ``request`` is the one for it.

        Raises:
            grpc.RpcError: the call failed.
        """
        del timeout  # one page may take longer than a call's deadline
        request.stream_pages = True
        try:
            first = None if self._call is None else next(self._call, None)
            if first is None:  # there is no call, or it answered one page only
                self._call = self._history(request, timeout=self._timeout_s, metadata=metadata)
                first = next(self._call, None)
            return history_of(self._page(first))
        except grpc.RpcError:
            self._call = None
            raise

    def close(self) -> None:
        """End the call."""
        if self._call is not None:
            self._call.cancel()

    def _page(self, first: pb.HistoryResponse | None) -> Iterator[pb.HistoryResponse]:
        part = first
        while part is not None:
            yield part
            part = None if part.next_page_token else next(self._call, None)


class _Columns:
    """Columns of a series as its parts come in."""

    def __init__(self) -> None:
        self.steps, self.values, self.times, self.attempts = array("q"), array("d"), array("d"), array("I")
        self.superseded: list[bool] = []
        self.nan_in_bucket: list[bool] = []

    def add(self, part: pb.HistoryResponse) -> None:
        before = len(self.steps)
        _extend(self.steps, part.packed_steps, part.steps)
        _extend(self.values, part.packed_values, part.values)
        _extend(self.times, part.packed_times, part.times)
        _extend(self.attempts, part.packed_attempts, part.attempts)
        self.superseded.extend(part.superseded)
        if part.nan_in_bucket or self.nan_in_bucket:  # parts of a series without one say nothing
            self.nan_in_bucket.extend([False] * (before - len(self.nan_in_bucket)))
            self.nan_in_bucket.extend(part.nan_in_bucket or [False] * (len(self.steps) - before))

    def series(self, key: str, writer: str) -> Series:
        flags = self.superseded, self.nan_in_bucket
        return Series(key, writer, self.steps, self.values, self.times, self.attempts, *flags)


def _extend(column: array[_Number], packed: bytes, plain: Iterable[_Number]) -> None:
    if not packed:
        column.extend(plain)
        return
    if sys.byteorder == "big":  # the wire's numbers are little-endian
        turned = array(column.typecode, packed)
        turned.byteswap()
        column.extend(turned)
    else:
        column.frombytes(packed)


def _all_steps(columns: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Return the steps of all columns, ascending, each once."""
    import numpy as np

    if not columns:
        return np.empty(0, np.int64)
    first = columns[0]
    # Most often they are all the same: to sort them would take longer than to read them.
    if (first[1:] > first[:-1]).all() and all(np.array_equal(steps, first) for steps in columns[1:]):
        return first
    every = np.concatenate(columns)
    if not len(every):
        return every
    low = int(every.min())
    span = int(every.max()) - low + 1
    if span > 8 * len(every):
        return np.unique(every)
    there = np.zeros(span, np.bool_)  # to mark them takes a fraction of the time of sorting
    there[every - low] = True
    found: npt.NDArray[np.int64] = np.flatnonzero(there) + low
    return found


def _arrow_column(column: Sequence[Any], kind: Any) -> Any:
    import pyarrow as pa

    if isinstance(column, array) and column.itemsize * 8 == kind.bit_width:
        return pa.Array.from_buffers(kind, len(column), [None, pa.py_buffer(column)])
    return pa.array(column, kind)
