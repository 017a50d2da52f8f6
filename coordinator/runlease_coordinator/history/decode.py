"""Stored entries of points as NumPy columns.

A payload is a serialized `Points`, as protobuf itself writes it: fields in order, numbers packed. This form is read
here without a Python object per number; whatever else a payload may hold goes through protobuf's own parser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from runlease.v1 import metrics_pb2

from runlease_coordinator.domain.metrics import Floats, Ints
from runlease_coordinator.history.selection import KeyFilter
from runlease_coordinator.history.walltime import whole_us

_Rows = npt.NDArray[np.int64]
#: A field's number and wire type "length-delimited" in one byte.
_FIRST, _SECOND, _THIRD = 0x0A, 0x12, 0x1A
#: Bytes of a varint; longer ones are negative, or beyond 2^63.
_LONGEST = 9


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One series of an entry: its values, and the entry's rows that they belong to (None: all, in order)."""

    key: str
    rows: _Rows | None
    values: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """An entry's points: a step and a wall time (UNIX seconds, whole microseconds) a row, and its series."""

    steps: Ints
    times: Floats
    columns: Sequence[Column]


class _Unexpected(Exception):
    """The payload is not in the form that protobuf writes; it may be valid all the same."""


def decode(payload: bytes, keys: KeyFilter) -> Rows:
    """Read a stored payload; of its series only those whose keys pass.

    Raises:
        google.protobuf.message.DecodeError: it is no serialized `Points`.
    """
    try:
        return _read(payload, keys)
    except (_Unexpected, IndexError):
        return _parsed(payload, keys)


def _parsed(payload: bytes, keys: KeyFilter) -> Rows:
    points = metrics_pb2.Points.FromString(payload)
    columns = [
        Column(
            series.key,
            np.array(series.rows, np.int64) if series.rows else None,
            np.array(series.values, np.float64),
        )
        for series in points.series
        if keys.passed(series.key.encode()) is not None
    ]
    return Rows(np.array(points.steps, np.int64), whole_us(np.array(points.times, np.float64)), columns)


def _read(payload: bytes, keys: KeyFilter) -> Rows:
    steps: Ints | None = None
    times: Floats | None = None
    columns: list[Column] = []
    at, end = 0, len(payload)
    while at < end:
        tag, start, at = _field(payload, at, end)
        if tag == _THIRD:
            column = _column(payload, start, at, keys)
            if column is not None:
                columns.append(column)
        elif tag == _FIRST and steps is None:
            steps = _varints(payload, start, at)
        elif tag == _SECOND and times is None:
            times = _doubles(payload, start, at)
        else:
            raise _Unexpected
    if steps is None or times is None:
        raise _Unexpected
    return Rows(steps, whole_us(times), columns)


def _column(payload: bytes, at: int, end: int, keys: KeyFilter) -> Column | None:
    key: str | None = None
    rows: _Rows | None = None
    values: Floats | None = None
    before = 0
    while at < end:
        tag, start, at = _field(payload, at, end)
        if tag <= before:  # each once, in order
            raise _Unexpected
        before = tag
        if tag == _FIRST:
            key = keys.passed(payload[start:at])
            if key is None:
                return None
        elif tag == _SECOND:
            rows = _varints(payload, start, at)
        elif tag == _THIRD:
            values = _doubles(payload, start, at)
        else:
            raise _Unexpected
    if key is None or values is None:
        raise _Unexpected
    return Column(key, rows, values)


def _field(payload: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Return a length-delimited field's tag, and where its content starts and ends."""
    tag = payload[at]
    size = shift = 0
    while True:
        at += 1
        byte = payload[at]
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    start = at + 1
    if start + size > end:
        raise _Unexpected
    return tag, start, start + size


def _doubles(payload: bytes, start: int, end: int) -> Floats:
    if (end - start) % 8:
        raise _Unexpected
    return np.frombuffer(payload, "<f8", (end - start) // 8, start)


def _varints(payload: bytes, start: int, end: int) -> Ints:
    """Read packed varints, all at once: as many rounds as the longest has bytes."""
    if start == end:
        return np.empty(0, np.int64)
    data = np.frombuffer(payload, np.uint8, end - start, start)
    ends = data < 0x80
    if not ends[-1]:
        raise _Unexpected
    length = int(ends.argmax()) + 1
    if length <= _LONGEST and len(data) % length == 0:
        table = ends.reshape(-1, length)
        if table[:, -1].all() and not table[:, :-1].any():  # all of one length, as neighbouring steps mostly are
            return _combined(data.reshape(-1, length))
    last = np.flatnonzero(ends)
    first = np.empty_like(last)
    first[0] = 0
    np.add(last[:-1], 1, out=first[1:])
    lengths = last - first + 1
    longest = int(lengths.max())
    if longest > _LONGEST:
        raise _Unexpected
    numbers = (data[first] & 0x7F).astype(np.int64)
    for byte in range(1, longest):
        longer = np.flatnonzero(lengths > byte)
        numbers[longer] |= (data[first[longer] + byte] & 0x7F).astype(np.int64) << (7 * byte)
    return numbers


def _combined(table: npt.NDArray[np.uint8]) -> Ints:
    """Return the numbers of varints of one length, a row each."""
    numbers = (table[:, 0] & 0x7F).astype(np.int64)
    for byte in range(1, table.shape[1]):
        numbers |= (table[:, byte] & 0x7F).astype(np.int64) << (7 * byte)
    return numbers
