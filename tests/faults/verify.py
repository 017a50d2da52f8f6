"""Compares what a store has with what was logged; the first difference is told in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import redis
import runlease
from numpy.typing import NDArray
from runlease.spool.reading import find_sessions
from runlease.v1 import metrics_pb2
from runlease_coordinator.store.keys import run_keys

from tests.faults.formula import KEYS, WRITERS, Column, column_of

_PAGE = 200


class Difference(Exception):
    """What is there is not what was logged."""


def compare(where: str, found: Column, wanted: Column) -> None:
    """Compare two columns, in order.

    Raises:
        Difference: naming the first.
    """
    common = min(len(found.steps), len(wanted.steps))
    same = (found.steps[:common] == wanted.steps[:common]) & (found.values[:common] == wanted.values[:common])
    if not same.all():
        row = int(np.argmin(same))
        there, right = _point(found, row), _point(wanted, row)
        raise Difference(f"{where}: point {row} is {there}, not {right}; of {len(found.steps)}, {len(wanted.steps)}")
    if len(found.steps) != len(wanted.steps):
        more = "lost" if len(found.steps) < len(wanted.steps) else "too many"
        longer = wanted if more == "lost" else found
        row = _point(longer, common)
        raise Difference(f"{where}: {len(found.steps)} points, not {len(wanted.steps)}: {more} from {row} on")


def _point(column: Column, row: int) -> str:
    return f"step {int(column.steps[row])} = {float(column.values[row])!r}"


def check_log(store: redis.Redis, project: str, run_id: str, steps: int) -> int:
    """Compare the log that the store holds, entry by entry, in its order; returns its number of points.

    What is archived is not there any more: then the rest of each column is.

    Raises:
        Difference: a point or a whole entry is missing, is there twice, or is not where it belongs.
    """
    keys = run_keys(project, run_id)
    archived = bool(store.exists(keys.parts))
    parts: dict[tuple[str, str], list[Column]] = {}
    seqs: dict[str, int] = {}
    for writer, seq, kind, payload in _entries(store, keys.log):
        expected = seqs.get(writer, seq if archived else 1)
        if seq != expected:
            raise Difference(f"log of {writer}: entry {seq} stands where {expected} belongs")
        seqs[writer] = seq + 1
        if kind == b"p":
            for key, column in _columns(payload):
                parts.setdefault((writer, key), []).append(column)
    total = 0
    for rank, writer in enumerate(WRITERS):
        for key in KEYS:
            pieces = parts.pop((writer, key), [])
            found = Column(_joined([p.steps for p in pieces]), _joined([p.values for p in pieces]))
            wanted = column_of(rank, key, steps)
            compare(f"log of {writer}, {key}", found, wanted.last(len(found.steps)) if archived else wanted)
            total += len(found.steps)
    if parts:
        raise Difference(f"nobody logged {sorted(parts)}")
    return total


def _entries(store: redis.Redis, log: str) -> Iterator[tuple[str, int, bytes, bytes]]:
    start = "-"
    while page := store.xrange(log, start, "+", count=_PAGE):
        for entry_id, fields in page:
            yield fields[b"w"].decode(), int(fields[b"s"]), fields[b"k"], fields[b"b"]
            start = f"({entry_id.decode()}"


def _columns(payload: bytes) -> Iterator[tuple[str, Column]]:
    points = metrics_pb2.Points.FromString(payload)
    steps = np.array(points.steps, dtype=np.int64)
    for series in points.series:
        of = steps[np.array(series.rows, dtype=np.int64)] if series.rows else steps
        yield series.key, Column(of, np.array(series.values, dtype=np.float64))


def _joined(arrays: list[NDArray[np.generic]]) -> NDArray[np.generic]:
    return np.concatenate(arrays) if arrays else np.array([])


def check_history(client: runlease.Client, project: str, run_id: str, steps: int) -> int:
    """Compare what readers see, with superseded points and without; returns the number of all points.

    Raises:
        Difference: likewise; of points of one step the later one must win.
    """
    total = 0
    for rank, writer in enumerate(WRITERS):
        for key in KEYS:
            wanted = column_of(rank, key, steps)
            where = f"history of {writer}, {key}"
            compare(f"{where}, all", _read(client, project, run_id, writer, key, superseded=True), wanted)
            compare(where, _read(client, project, run_id, writer, key, superseded=False), wanted.visible())
            total += len(wanted.steps)
    points = client.get_run(project, run_id).points
    if points != total:
        raise Difference(f"the record counts {points} points, not {total}")
    return total


def check_spools(directory: Path) -> None:
    """Look for what should have gone when it was acknowledged.

    Raises:
        Difference: something is left.
    """
    found = find_sessions(directory)
    if found.sessions or found.unreadable:
        raise Difference(f"left in spools: {found}")


def _read(client: runlease.Client, project: str, run_id: str, writer: str, key: str, *, superseded: bool) -> Column:
    history = client.history(project, run_id, keys=[key], writers=[writer], superseded=superseded)
    if not history.series:
        return Column(np.array([], dtype=np.int64), np.array([]))
    (one,) = history.series
    return Column(np.array(one.steps, dtype=np.int64), np.array(one.values, dtype=np.float64))


def check_checkpoints(client: runlease.Client, project: str, run_id: str, steps: int, every: int) -> int:
    """Compare the checkpoints; returns how many there are.

    Raises:
        Difference: one is missing, or hidden.
    """
    found = [(one.step, one.superseded) for one in client.get_run(project, run_id).checkpoints]
    wanted = [(step, False) for step in range(every - 1, steps, every)]
    if found != wanted:
        raise Difference(f"the checkpoints are {found[:5]}... ({len(found)}), not {wanted[:5]}... ({len(wanted)})")
    return len(found)
