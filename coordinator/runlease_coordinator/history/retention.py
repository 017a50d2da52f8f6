"""Points that are kept for some days only: those of runs that ended before are removed, archived and hot."""

from __future__ import annotations

import asyncio
import logging

from runlease_coordinator.domain.errors import Unavailable
from runlease_coordinator.store.archive import ArchiveStore

log = logging.getLogger(__name__)

_EVERY_S = 3600.0
#: A store that is away is asked again sooner.
_RETRY_S = 60.0
#: Objects stay for so long, for readers that have begun.
_GRACE_S = 600.0


class Retention:
    """Looks for expired points once an hour; the objects themselves go with the garbage."""

    def __init__(self, archive: ArchiveStore, age_s: float, grace_s: float = _GRACE_S) -> None:
        """Take how old an end must be, and for how long objects stay for those who read them, in seconds."""
        self._archive = archive
        self._age_s = age_s
        self._grace_s = grace_s

    async def run_forever(self) -> None:
        """Remove what has expired, again and again."""
        while True:
            try:
                if expired := await self.sweep():
                    log.info("removed the points of %d runs that ended over %g days ago", expired, self._age_s / 86_400)
            except Unavailable as error:
                log.debug("nothing expired: %s", error)
                await asyncio.sleep(_RETRY_S)
                continue
            except Exception:  # a defect must not end the look for ever
                log.exception("cannot look for expired points; next try in %g s", _EVERY_S)
            await asyncio.sleep(_EVERY_S)

    async def sweep(self) -> int:
        """Remove what has expired; returns of how many runs.

        Raises:
            Unavailable: the store is away.
        """
        expired = 0
        async for project, canonical_id in self._archive.runs_updated_before(self._age_s):
            expired += await self._archive.expire_points(project, canonical_id, self._age_s, self._grace_s)
        return expired
