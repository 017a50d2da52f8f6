"""What the store has in the end: records, attempts, logs and the audit log, read without a coordinator."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from runlease.ids import canonical_id
from runlease.v1 import metrics_pb2
from runlease_coordinator.store.keys import run_keys

_PAGE = 500


@dataclass(frozen=True, slots=True)
class LoggedPoint:
    """A point in the order in which the log has it."""

    fence: int
    writer: str
    key: str
    step: int
    value: float
    attempt: int


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """An entry of the audit log."""

    time_us: int
    kind: str
    fence: int
    attempt: int
    details: Mapping[str, Any]


@dataclass(slots=True)
class FinalRun:
    """One run in the end; empty where the store has nothing of it."""

    record: dict[str, str] = field(default_factory=dict)
    attempts: dict[str, str] = field(default_factory=dict)
    points: list[LoggedPoint] = field(default_factory=list)
    commits: list[tuple[int, int]] = field(default_factory=list)
    """(fence of the attempt, step)."""
    events: list[AuditEvent] = field(default_factory=list)

    @property
    def fences(self) -> dict[int, int]:
        """Attempt -> its fence."""
        named = ((name.partition("."), value) for name, value in self.attempts.items())
        return {int(number): int(value) for (number, _, name), value in named if name == "fence" and number.isdigit()}

    @property
    def attempt_of(self) -> dict[int, int]:
        """Fence -> its attempt: the one that it was granted under, and those under which it came back."""
        named = ((name.partition("."), value) for name, value in self.attempts.items())
        return {int(fence): int(value) for (what, _, fence), value in named if what == "fence"}

    @property
    def granted(self) -> list[int]:
        """The fences that the audit log says were granted, in its order."""
        return [event.fence for event in self.events if event.kind in ("granted", "created", "sync_began")]


def read(store: Any, runs: Iterable[str]) -> dict[str, FinalRun]:
    """Read runs (PROJECT/RUN) through a connected client of redis-py, of a server or of a cluster."""
    return {path: _read_run(store, *path.split("/")) for path in runs}


def _read_run(store: Any, project: str, run_id: str) -> FinalRun:
    keys = run_keys(project, canonical_id(run_id))
    found = FinalRun(_texts(store.hgetall(keys.run)), _texts(store.hgetall(keys.attempts)))
    fences, attempts = found.fences, found.attempt_of
    for entry_id, fields in _entries(store, keys.log):
        own = int(entry_id.partition("-")[0])
        attempt = int(fields[b"o"]) if b"o" in fields else attempts.get(own, 0)
        fence, writer = fences.get(attempt, own), fields[b"w"].decode()
        if fields[b"k"] == b"p":
            found.points += [LoggedPoint(fence, writer, *point, attempt) for point in _points(fields[b"b"])]
    for name in store.hkeys(keys.ckptdoc):
        step, fence, *_ = name.decode().split(":")  # and a number, of a step committed again
        found.commits.append((int(fence), int(step)))
    for _, fields in _entries(store, keys.partition.events):
        if (fields[b"p"].decode(), fields[b"r"].decode()) == (project, keys.canonical_id):
            details = json.loads(fields[b"d"] or b"{}")
            facts = (int(fields[b"t"]), fields[b"k"].decode(), int(fields[b"f"]), int(fields[b"a"]), details)
            found.events.append(AuditEvent(*facts))
    return found


def _points(payload: bytes) -> Iterator[tuple[str, int, float]]:
    points = metrics_pb2.Points.FromString(payload)
    for series in points.series:
        rows = list(series.rows) or range(len(points.steps))
        for row, value in zip(rows, series.values, strict=True):
            yield series.key, points.steps[row], value


def _entries(store: Any, stream: str) -> Iterator[tuple[str, Mapping[bytes, bytes]]]:
    start = "-"
    while page := store.xrange(stream, start, "+", count=_PAGE):
        for entry_id, fields in page:
            yield entry_id.decode(), fields
            start = f"({entry_id.decode()}"


def _texts(flat: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode("utf-8", "replace") for name, value in flat.items()}
