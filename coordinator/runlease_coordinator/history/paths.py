"""Names of a run's objects, safe also on file systems that take `Run` and `run` for the same."""

from __future__ import annotations

from hashlib import sha256

from runlease_coordinator.domain.metrics import LogPosition


def part_path(project: str, canonical_id: str, after: LogPosition, to: LogPosition, generation: int) -> str:
    """Return the name of a part: its cut, and under which generation it was written."""
    return f"{_folder(project, canonical_id)}/parts/part-{after}-{to}-{generation}.parquet"


def segments_path(project: str, canonical_id: str) -> str:
    """Return the name of the object with a run's segments."""
    return f"{_folder(project, canonical_id)}/segments.parquet"


def _folder(project: str, canonical_id: str) -> str:
    return f"{_safe(project)}/{_safe(canonical_id)}"


def _safe(name: str) -> str:
    """Return a name in small letters, marked where it had large ones; neither names nor IDs contain a `~`."""
    small = name.lower()
    return small if small == name else f"{small}~{sha256(name.encode()).hexdigest()[:8]}"
