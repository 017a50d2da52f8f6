"""Rows as they were logged, packed into the columns of a batch."""

from __future__ import annotations

from collections.abc import Sequence

from runlease.v1 import metrics_pb2 as pb

#: Step, UNIX seconds, keys, values.
Row = tuple[int, float, tuple[str, ...], tuple[float, ...]]


def pack(rows: Sequence[Row], points: pb.Points) -> None:
    """Fill an empty batch; a series names its rows only if its key is not in all of them."""
    steps, times, keys, values = zip(*rows, strict=True)
    points.steps.extend(steps)
    points.times.extend(times)
    if keys.count(keys[0]) == len(keys):
        for key, column in zip(keys[0], zip(*values, strict=True), strict=True):
            points.series.add(key=key, values=column)
        return
    columns: dict[str, tuple[list[int], list[float]]] = {}
    for place, (row_keys, row_values) in enumerate(zip(keys, values, strict=True)):
        for key, value in zip(row_keys, row_values, strict=True):
            if key not in columns:
                columns[key] = ([], [])
            column_places, column_values = columns[key]
            column_places.append(place)
            column_values.append(value)
    for key, (column_places, column_values) in columns.items():
        everywhere = len(column_places) == len(rows)
        points.series.add(key=key, rows=() if everywhere else column_places, values=column_values)
