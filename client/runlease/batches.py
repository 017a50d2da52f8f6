"""How waiting rows become entries: as many as fit into one, in points and in bytes on the wire.

A spool's reader cuts what is left in a journal by the same rule, so that reading it twice gives the same entries.
"""

from __future__ import annotations

from collections import deque

from runlease.columns import Row

#: Points of one entry, at most; bytes of it on the wire, about.
BATCH_POINTS, BATCH_BYTES = 10_000, 256 << 10
#: A row of more points is cut into pieces, so that even the longest keys keep an entry at about 1 MB.
MAX_ROW_POINTS = 1000
#: Bytes on the wire at most: a row's step, time and place; a value and its row number; a series' frame.
ROW_WIRE, POINT_WIRE, SERIES_WIRE = 20, 11, 16


def pieces(row: Row) -> list[Row]:
    """Return a row in pieces that fit into an entry; the row itself where it does."""
    step, time_s, keys, values = row
    if len(values) <= MAX_ROW_POINTS:
        return [row]
    starts = range(0, len(values), MAX_ROW_POINTS)
    return [(step, time_s, keys[at : at + MAX_ROW_POINTS], values[at : at + MAX_ROW_POINTS]) for at in starts]


def take_batch(
    rows: deque[Row],
    room: int,
    *,
    batch_points: int = BATCH_POINTS,
    batch_bytes: int = BATCH_BYTES,
) -> tuple[list[Row], int, int]:
    """Take one entry's rows out, from the front.

    Args:
        rows: what waits.
        room: how many of them may be taken.
        batch_points: points of the entry, at most.
        batch_bytes: bytes of the entry on the wire, about.

    Returns:
        The rows, their points, and their bytes on the wire, about. At least one row, where there is one.
    """
    taken: list[Row] = []
    points, wire = 0, 0
    last_keys: tuple[str, ...] | None = None
    seen: set[str] = set()
    count = cost = 0
    while rows and len(taken) < room:
        keys = rows[0][2]
        frames = 0
        if keys is not last_keys:  # nearly always they are: rows of one call share them
            count = len(keys)
            cost = ROW_WIRE + POINT_WIRE * count
            frames = sum(len(key.encode()) + SERIES_WIRE for key in keys if key not in seen)
        if taken and (points + count > batch_points or wire + cost + frames > batch_bytes):
            break
        if keys is not last_keys:
            last_keys = keys
            seen.update(keys)
        points += count
        wire += cost + frames
        taken.append(rows.popleft())
    return taken, points, wire
