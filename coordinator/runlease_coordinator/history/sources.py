"""Where points of a log are: hot in the store, and archived. Both give the same batches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from runlease_coordinator.domain.metrics import LOG_START, Batch, LogPosition
from runlease_coordinator.history.selection import Selection


class Archive(Protocol):
    """The older part of logs, which is no longer in the store."""

    async def archived(self, project: str, canonical_id: str) -> LogPosition:
        """Return up to and including which position the log is in the archive; LOG_START: nothing of it.

        What the store still holds up to there, the archive holds as well.
        """

    def batches(self, project: str, canonical_id: str, selection: Selection) -> AsyncIterator[Sequence[Batch]]:
        """Yield the selected points, in portions.

        Batches of one (attempt, segment, writer, key) come in the order of their log, and so do their rows. Batches
        are as large as it is convenient: rows of many entries may share one.

        Raises:
            Unavailable: the archive does not answer.
        """


class NoArchive:
    """Everything is in the store."""

    async def archived(self, project: str, canonical_id: str) -> LogPosition:
        """Return the start of the log."""
        return LOG_START

    async def batches(self, project: str, canonical_id: str, selection: Selection) -> AsyncIterator[Sequence[Batch]]:
        """Yield nothing."""
        none: tuple[Sequence[Batch], ...] = ()
        for portion in none:
            yield portion
