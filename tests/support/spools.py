"""Spools for tests: headers, entries, and what a reader finds."""

from __future__ import annotations

from pathlib import Path

from runlease.columns import Row, pack
from runlease.spool import Session, find_sessions
from runlease.spool.files import SpoolFiles
from runlease.spool.records import frame_entry
from runlease.v1 import metrics_pb2, runs_pb2, spool_pb2

from tests.support.logserver import rows_of


def header(session: str = "5" * 32, created: float = 1e9, **fields: object) -> spool_pb2.SpoolHeader:
    run = runs_pb2.RunRef(project="p", id="r/1")
    defaults = {"run": run, "fence": 7, "attempt": 1, "writer": "main"}
    return spool_pb2.SpoolHeader(session=session, created=created, **{**defaults, **fields})


def points_entry(*rows: Row) -> metrics_pb2.Entry:
    entry = metrics_pb2.Entry()
    pack(rows, entry.points)
    return entry


def a_row(step: int, *keys: str) -> Row:
    return step, 1e9 + step, keys or ("loss",), tuple(step / 4 + at for at in range(len(keys or ("loss",))))


def write_entries(files: SpoolFiles, *entries: metrics_pb2.Entry, first: int = 1, items_through: int = 0) -> None:
    for place, entry in enumerate(entries, first):
        points = sum(len(series.values) for series in entry.points.series)
        files.append(frame_entry(entry, place, points, items_through))


def the_session(directory: Path) -> Session:
    found = find_sessions(directory)
    assert not found.unreadable
    (session,) = found.sessions
    return session


def rows_in(session: Session, after: int = 0) -> list[Row]:
    return [row for _, entry in session.entries(after) for row in rows_of(entry.points)]
