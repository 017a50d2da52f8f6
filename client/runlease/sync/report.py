"""What a sync says of each session."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from runlease.exceptions import RunExists, RunleaseError
from runlease.spool import Session

#: Remedies of the SDK's errors are worded for `init`.
_PYTHON = re.compile(r"\bwait=")


class Verdict(StrEnum):
    """What became of a session's spool."""

    FOUND = "found"
    """It is there; nothing was tried (`--dry-run`)."""

    DELIVERED = "delivered"
    """All of it is with the coordinator, and the spool is gone."""

    KEPT = "kept"
    """Something could not be delivered; the spool stays."""

    LIVE = "live"
    """Its process, or another sync, has it."""


@dataclass(slots=True)
class Result:
    """One session, and what became of it; `points` and `entries` are those in the spool."""

    path: str
    project: str
    run: str
    writer: str
    #: 0 of an offline segment, until it is one.
    attempt: int
    offline: bool
    verdict: Verdict = Verdict.FOUND
    entries: int = 0
    points: int = 0
    #: How the attempt ended, where the spool knows.
    outcome: str | None = None
    #: Points that were brought in by this sync; the others were there.
    sent_points: int = 0
    #: Entries that the spool has lost, and for how many of them points are known to be gone.
    lost_entries: int = 0
    #: What is wrong with the spool's files, and what the coordinator refused of it.
    notes: list[str] = field(default_factory=list)
    #: Why it was kept, with the remedy.
    reason: str = ""
    error: RunleaseError | None = None

    @classmethod
    def of(cls, session: Session) -> Result:
        """Describe a session by its header alone."""
        header = session.header
        return cls(
            path=str(session.path),
            project=header.run.project,
            run=header.run.id,
            writer=header.writer,
            attempt=header.attempt,
            offline=session.offline,
        )

    def measure(self, session: Session) -> None:
        """Read the index of the session's files."""
        self.points, self.outcome = session.points, session.outcome
        self.entries = session.last_place - sum(gap.last - gap.first + 1 for gap in session.gaps)
        self.notes += [str(damage) for damage in session.damages]

    def keep(self, error: RunleaseError) -> None:
        """Say why it is kept."""
        self.verdict, self.error = Verdict.KEPT, error
        self.reason = _PYTHON.sub("--wait ", str(error))
        if isinstance(error, RunExists):
            self.reason = f"{error.project}/{error.run_id} exists: to add to it, give --resume allow"
