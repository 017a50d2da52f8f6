"""The audit log: what happened to which run, and positions in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from runlease_coordinator.domain.errors import InvalidField

_PLACE = re.compile(r"(?P<number>\*|[0-5]?\d|6[0-3])=(?P<entry>(?P<time>\d{1,20})-(?P<index>\d{1,20}))", re.ASCII)


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the audit log.

    ``kind`` is created, granted, reinstated, rebuilt (the store had lost it, its holder lived), released, expired,
    proved-dead, given-back, revoked, broken, updated, linked, limits, deleted, undeleted, purged, points_expired,
    sync_began, sync_ended, outcome (of an ended attempt, by a sync) or points_lost. ``canonical_id`` is '' where limits
    of a project were set.
    ``details`` maps names to JSON texts.
    """

    entry: str
    partition: int
    time_us: int
    project: str
    canonical_id: str
    kind: str
    fence: int
    attempt: int
    details: Mapping[str, str]


class Cursor:
    """Positions in the audit logs of several partitions: ``12=1795-3,40=1795-0,*=1790-0`` (``*``: all others)."""

    def __init__(self, start: str, places: Mapping[int, str] | None = None) -> None:
        """Start all partitions behind the entry ID ``start``, but those that ``places`` names."""
        self._start = start
        self._places = dict(places or {})

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        parts = [f"{number}={entry}" for number, entry in sorted(self._places.items())]
        return ",".join([*parts, f"*={self._start}"])

    def of(self, partition: int) -> str:
        """Return the entry ID behind which a partition's log is to be read."""
        return self._places.get(partition, self._start)

    def move(self, partition: int, entry: str) -> None:
        """Go on behind an entry."""
        self._places[partition] = entry

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read a cursor.

        Raises:
            InvalidField: it is none.
        """
        places: dict[str, str] = {}
        for part in text.split(","):
            found = _PLACE.fullmatch(part)
            if found is None or max(int(found["time"]), int(found["index"])) >= 2**64:
                raise InvalidField("after", "give the cursor of an event, unchanged")
            places[found["number"]] = found["entry"]
        start = places.pop("*", "0-0")
        return cls(start, {int(number): entry for number, entry in places.items()})
