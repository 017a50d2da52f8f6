"""Fewer points that look the same: minimum and maximum of equal parts of the steps, so that every spike survives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from runlease_coordinator.domain.metrics import Flags, Floats, Series

_Rows = npt.NDArray[np.intp]


def downsampled(series: Series, max_points: int) -> Series:
    """Return at most ``max_points`` (>= 1) of a series' points, in their order; a shorter series stays as it is.

    The range of steps is cut into buckets of equally many steps. Of each one the minimum and the maximum are kept, at
    their own steps, and of the whole series the first and the last point. Infinities are values; a NaN is no minimum
    and no maximum, but a bucket that holds nothing else keeps one. From 4 points on the lowest and the highest value
    of all are among them. Hidden points, where they were asked for, get at most half of the room, and buckets of their
    own, so that they push no visible one out.
    """
    if len(series) <= max_points:
        return series
    if series.superseded is None:
        rows, flags = _kept(series.steps, series.values, max_points)
    else:
        rows, flags = _kept_of_both(series, series.superseded, max_points)
    thinned = series.take(rows)
    return replace(thinned, nan_in_bucket=flags) if flags.any() else thinned


def _kept_of_both(series: Series, hidden: Flags, max_points: int) -> tuple[_Rows, Flags]:
    shown, gone = np.flatnonzero(~hidden), np.flatnonzero(hidden)
    room_of_gone = max(max_points // 2, max_points - len(shown))
    parts = []
    for rows, room in ((gone, room_of_gone), (shown, max_points - min(len(gone), room_of_gone))):
        kept, flags = _kept(series.steps[rows], series.values[rows], room)
        parts.append((rows[kept], flags))
    rows = np.concatenate([rows for rows, _ in parts])
    order = np.argsort(rows)
    return rows[order], np.concatenate([flags for _, flags in parts])[order]


def _kept(steps: npt.NDArray[np.int64], values: Floats, room: int) -> tuple[_Rows, Flags]:
    """Return which rows to keep, ascending, and of each whether its bucket holds a NaN besides."""
    count = len(steps)
    if count <= room:
        return np.arange(count), np.zeros(count, np.bool_)
    if room < 4:
        rows = np.array([count - 1] if room == 1 else [0, count - 1] if room else [], np.intp)
        return rows, np.zeros(len(rows), np.bool_)
    starts = _starts(steps, (room - 2) // 2)
    with np.errstate(invalid="ignore"):
        lowest, highest = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
    sizes = np.diff(starts, append=count)
    first = _first_rows(values, lowest, starts, sizes)
    rows = np.unique(np.concatenate(([0, count - 1], first, _first_rows(values, highest, starts, sizes))))
    has_nan = np.logical_or.reduceat(np.isnan(values), starts)
    return rows, has_nan[np.searchsorted(starts, rows, side="right") - 1]


def _starts(steps: npt.NDArray[np.int64], buckets: int) -> _Rows:
    """Return the first row of each of at most so many buckets that hold a point."""
    low, span = int(steps[0]), int(steps[-1]) - int(steps[0]) + 1
    width = -(-span // buckets)
    starts = np.searchsorted(steps, low + width * np.arange(-(-span // width)))
    return starts[np.diff(starts, append=len(steps)) > 0]


def _first_rows(values: Floats, wanted: Floats, starts: _Rows, sizes: _Rows) -> _Rows:
    """Return of each bucket the first row with the wanted value; where that is NaN, nothing else is in the bucket."""
    found = np.flatnonzero(values == np.repeat(wanted, sizes))
    rows = starts.copy()
    number = ~np.isnan(wanted)
    rows[number] = found[np.searchsorted(found, starts[number])]
    return rows
