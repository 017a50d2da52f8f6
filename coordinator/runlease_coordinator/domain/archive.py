"""What the archive has of a run's log: parts, each a stretch of log IDs in one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runlease_coordinator.domain.metrics import LogPosition


@dataclass(frozen=True, slots=True)
class Part:
    """One committed object: the entries behind ``after`` up to and including ``to``."""

    path: str
    after: LogPosition
    to: LogPosition
    points: int
    bytes: int
    min_step: int
    max_step: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """All of a run's parts, ascending; the log is archived up to and including ``to``."""

    to: LogPosition
    parts: Sequence[Part]
