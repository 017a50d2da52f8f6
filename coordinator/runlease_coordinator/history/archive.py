"""The archived part of logs, as `HistoryReader` reads it: the manifest says what there is, folders are never listed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import closing

from runlease_coordinator.domain.archive import Manifest, Part
from runlease_coordinator.domain.errors import Unavailable
from runlease_coordinator.domain.metrics import Batch, LogPosition
from runlease_coordinator.history.objects import ArchiveError, MissingObject, Objects
from runlease_coordinator.history.partreads import read_part
from runlease_coordinator.history.selection import Selection
from runlease_coordinator.history.threads import Threads
from runlease_coordinator.store.archive import ArchiveStore

#: Parts that are read at once; those behind wait, so a read holds a few parts more than it has handed out.
_AT_ONCE = 2
_RETRY_AFTER_MS = 5000


class ArchivedLog:
    """Reads parts in worker threads."""

    def __init__(self, archive: ArchiveStore, objects: Objects | None) -> None:
        """Take the manifests, and the folder of the parts; None: this coordinator was given none."""
        self._archive = archive
        self._objects = objects
        self._threads = Threads("archive-read", _AT_ONCE)

    async def archived(self, project: str, canonical_id: str) -> LogPosition:
        """Return up to and including which position the log is in the archive; LOG_START: nothing of it."""
        return (await self._archive.manifest(project, canonical_id)).to

    async def batches(self, project: str, canonical_id: str, selection: Selection) -> AsyncIterator[Sequence[Batch]]:
        """Yield the selected points, a part at a time, in the order of the log.

        Raises:
            Unavailable: ARCHIVE_UNAVAILABLE, naming the URL.
        """
        manifest = await self._archive.manifest(project, canonical_id)
        parts = [part for part in manifest.parts if _may_hold(part, selection)]
        reads = [asyncio.ensure_future(self._threads.run(self._read, part, selection)) for part in parts[:_AT_ONCE]]
        try:
            for number, part in enumerate(parts):
                batches = await self._checked(reads[number], project, canonical_id, part)
                if number + _AT_ONCE < len(parts):
                    following = parts[number + _AT_ONCE]
                    reads.append(asyncio.ensure_future(self._threads.run(self._read, following, selection)))
                if batches:
                    yield batches
        finally:
            for read in reads:
                read.cancel()
            await asyncio.gather(*reads, return_exceptions=True)

    async def _checked(
        self, read: asyncio.Future[list[Batch]], project: str, canonical_id: str, part: Part
    ) -> list[Batch]:
        try:
            return await read
        except MissingObject as error:
            manifest: Manifest = await self._archive.manifest(project, canonical_id)
            if part not in manifest.parts:  # its points have expired meanwhile
                return []
            raise _unavailable(error) from None
        except ArchiveError as error:
            raise _unavailable(error) from None

    def _read(self, part: Part, selection: Selection) -> list[Batch]:
        if self._objects is None:
            raise ArchiveError(
                f"part {part.path} of the history is in an archive that this coordinator does not know: "
                "start it with the --history-url of the others"
            )
        places = part.after < selection.after or selection.upto < part.to
        with closing(self._objects.open(part.path)) as file:
            try:
                return list(read_part(file, selection, places=places))
            except (OSError, ValueError) as error:  # pyarrow's errors are both
                raise ArchiveError(f"{self._objects.url}/{part.path} cannot be read: {error}") from error


def _may_hold(part: Part, selection: Selection) -> bool:
    if part.to <= selection.after or part.after >= selection.upto:
        return False
    if selection.min_step is not None and part.max_step < selection.min_step:
        return False
    return selection.max_step is None or part.min_step <= selection.max_step


def _unavailable(error: ArchiveError) -> Unavailable:
    return Unavailable("ARCHIVE_UNAVAILABLE", f"the archive of histories does not answer: {error}", _RETRY_AFTER_MS)
