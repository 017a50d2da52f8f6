"""Moves the older part of logs out of the store's memory into Parquet, however long their runs go on.

One step: claim the run's compaction, read its log from behind the last part on, record the cut and the object's name,
write the object, commit. The commit adds the part to the manifest and trims the log in one script. A step that dies
anywhere is done again from its cut, in another object; a step that was overtaken is refused at its commit. So nothing
is lost, and nothing is in the manifest twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from runlease.v1 import metrics_pb2

from runlease_coordinator.domain.archive import Part
from runlease_coordinator.domain.errors import RunNotFound, Unavailable
from runlease_coordinator.domain.metrics import LogPosition
from runlease_coordinator.domain.runs import Run
from runlease_coordinator.history.decode import decode
from runlease_coordinator.history.gather import is_small
from runlease_coordinator.history.objects import ArchiveError, Objects
from runlease_coordinator.history.parquet import PartBuilder, Rows, segments_parquet
from runlease_coordinator.history.paths import part_path, segments_path
from runlease_coordinator.history.selection import KeyFilter
from runlease_coordinator.history.threads import Threads
from runlease_coordinator.store.archive import NO_OBJECT, ArchiveStore, Claim, HotRun, Page
from runlease_coordinator.store.keys import PARTITIONS
from runlease_coordinator.store.runs import RunStore

log = logging.getLogger(__name__)

_BACKOFF_S = (1.0, 60.0)
#: A run whose log cannot be archived, by a fault of the program, must not keep the others from it.
_FAULT_PAUSE_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """When runs are archived, and in what portions."""

    hot_bytes: int = 16 << 20
    """A run with so many bytes of points in the store is archived while it goes on."""

    ended_s: float = 600.0
    """A run that ended so many seconds ago is archived whatever it has."""

    part_points: int = 1 << 20
    """A part holds so many points at most, and one page of the log: 24 bytes each, and 48 an entry and key."""

    part_bytes: int = 64 << 20
    """A part holds so many bytes of the log at most, and one page of it."""

    claim_s: float = 60.0
    """For how long other coordinators leave a run alone; renewed while its log is read."""

    every_s: float = 2.0
    """Seconds between two looks at what is hot."""

    @property
    def ended_every_s(self) -> float:
        """Seconds between two looks at what has ended, and at the garbage."""
        return min(60.0, max(self.every_s, self.ended_s / 4))


@dataclass(slots=True)
class _Cut:
    """What was read for one part."""

    builder: PartBuilder
    to: LogPosition
    bytes: int = 0
    is_full: bool = False


class Compactor:
    """Archives one run after the other, in a worker thread where it takes time."""

    def __init__(self, archive: ArchiveStore, runs: RunStore, objects: Objects, pacing: Pacing = Pacing()) -> None:
        """Take the manifests, the runs, the folder of the parts and the pace."""
        self._archive = archive
        self._runs = runs
        self._objects = objects
        self._pacing = pacing
        self._threads = Threads("archive-write", 1)
        self._faults: dict[tuple[str, str], float] = {}
        self._looked_at_ended = float("-inf")

    async def run_forever(self) -> None:
        """Archive what is due, again and again; while the archive is away, with growing pauses and one warning."""
        backoff = 0.0
        while True:
            try:
                await self.sweep()
                if backoff:
                    log.info("the archive %s answers again", self._objects.url)
                backoff = 0.0
            except Unavailable as error:
                log.debug("nothing archived: %s", error)
            except ArchiveError as error:
                if not backoff:
                    log.warning("cannot archive, points stay in the store until it is possible again: %s", error)
                backoff = min(max(backoff * 2, _BACKOFF_S[0]), _BACKOFF_S[1])
            except Exception:  # whatever it is, it must not end the archiving of all runs
                log.exception("cannot look for what is to be archived; next try in %g s", _FAULT_PAUSE_S)
                await asyncio.sleep(_FAULT_PAUSE_S)
            await asyncio.sleep(backoff or self._pacing.every_s)

    async def sweep(self) -> int:
        """Archive all that is due now, remove the garbage; returns how many parts were committed.

        Raises:
            ArchiveError: the archive does not answer.
            Unavailable: the store does not.
        """
        pacing, committed = self._pacing, 0
        looks_at_ended = time.monotonic() - self._looked_at_ended >= pacing.ended_every_s
        for partition in range(PARTITIONS):
            async for run in self._archive.hot_runs(partition, 1 if looks_at_ended else pacing.hot_bytes):
                if run.bytes >= pacing.hot_bytes or await self._archive.ended_before(run, pacing.ended_s):
                    committed += await self._compact_all(run)
            if looks_at_ended:
                await self._remove_garbage(partition)
        if looks_at_ended:
            self._looked_at_ended = time.monotonic()
        return committed

    async def _compact_all(self, run: HotRun) -> int:
        name, committed = (run.project, run.canonical_id), 0
        if self._faults.get(name, 0.0) > time.monotonic():
            return 0
        try:
            while await self.compact(*name):
                committed += 1
        except (ArchiveError, Unavailable):
            raise
        except Exception:  # a defect must not end the archiving of the other runs
            self._faults[name] = time.monotonic() + _FAULT_PAUSE_S
            log.exception("cannot archive %s/%s; next try in %g s", *name, _FAULT_PAUSE_S)
        return committed

    async def compact(self, project: str, canonical_id: str) -> bool:
        """Archive the next part of a run; returns whether one was committed.

        Raises:
            ArchiveError, Unavailable.
        """
        claim = await self._archive.claim(project, canonical_id, self._pacing.claim_s)
        if claim is None:
            return False
        try:
            with suppress(RunNotFound):  # purged meanwhile
                return await self._write(claim)
        except ArchiveError:
            await self._archive.give_up(claim)
            raise
        return False

    async def _write(self, claim: Claim) -> bool:
        cut = await self._read(claim)
        if cut is None:
            await self._archive.give_up(claim)
            return False
        name = claim.project, claim.canonical_id
        path = part_path(*name, claim.after, cut.to, claim.generation) if cut.builder.points else NO_OBJECT
        if not await self._archive.begin(claim, cut.to, path, self._pacing.claim_s):
            return False
        digest = await self._write_segments(claim)
        low, high, size = 0, 0, 0
        if path != NO_OBJECT:
            low, high = cut.builder.step_range()
            size = await self._threads.run(self._put_part, path, cut.builder)
        part = Part(path, claim.after, cut.to, cut.builder.points, size, low, high)
        if await self._archive.commit(claim, part, cut.bytes, segments_path(*name), digest):
            log.debug("archived %s/%s up to %s: %d points, %d bytes", *name, cut.to, part.points, size)
            return True
        log.info("another coordinator has archived %s/%s meanwhile", *name)
        if path != NO_OBJECT:
            await self._discard(claim, path)
        return False

    async def _read(self, claim: Claim) -> _Cut | None:
        """Read what the part will hold: the pending cut, else as much as a part may hold; None: there is nothing."""
        pacing, cut = self._pacing, _Cut(PartBuilder(), claim.after)
        attempts: Mapping[int, int] = {}
        renewed = time.monotonic()
        async for page in self._archive.pages(claim):
            if any(entry.fence not in attempts for entry in page.entries):
                # Read behind the page: by then the attempts of all its entries are known.
                attempts = await self._attempts(claim)
            await self._threads.run(_add_page, cut.builder, page, attempts)
            cut.to, cut.bytes = page.last, cut.bytes + page.bytes
            cut.is_full = cut.builder.points >= pacing.part_points or cut.bytes >= pacing.part_bytes
            if cut.is_full and claim.pending is None:
                break
            if time.monotonic() - renewed > pacing.claim_s / 3:
                renewed = time.monotonic()
                await self._archive.renew(claim, pacing.claim_s)
        return cut if cut.to > claim.after else None

    async def _run(self, claim: Claim) -> Run:
        return (await self._runs.get_run(claim.project, claim.canonical_id, claim.canonical_id)).run

    async def _attempts(self, claim: Claim) -> Mapping[int, int]:
        return {attempt.fence: attempt.attempt for attempt in (await self._run(claim)).attempts}

    async def _write_segments(self, claim: Claim) -> str:
        """Write the run's segments beside its parts, if they have changed; returns their digest.

        Before the part: a reader of the folder never sees what is superseded beside what supersedes it.
        """
        run = await self._run(claim)
        segments = [segment for attempt in run.attempts for segment in attempt.segments]
        content = await self._threads.run(segments_parquet, segments)
        digest = sha256(content).hexdigest()
        if digest != claim.segments_digest:
            await self._threads.run(self._objects.put, segments_path(claim.project, claim.canonical_id), content)
        return digest

    def _put_part(self, path: str, builder: PartBuilder) -> int:
        content = builder.to_parquet()
        self._objects.put(path, content)
        return len(content)

    async def _discard(self, claim: Claim, path: str) -> None:
        """Remove an object that was refused; its generation has passed, so no commit can come any more."""
        manifest = await self._archive.manifest(claim.project, claim.canonical_id)
        if path in (part.path for part in manifest.parts):  # the refusal was of a repetition
            return
        try:
            await self._threads.run(self._objects.remove, path)
        except ArchiveError as error:  # it is among the garbage, too
            log.debug("left behind: %s", error)

    async def _remove_garbage(self, partition: int) -> None:
        while paths := await self._archive.take_garbage(partition):
            for number, path in enumerate(paths):
                try:
                    await self._threads.run(self._objects.remove, path)
                except ArchiveError:
                    await self._archive.give_back(partition, paths[number:], _BACKOFF_S[1])
                    raise


def _add_page(builder: PartBuilder, page: Page, attempts: Mapping[int, int]) -> None:
    for entry in page.entries:
        # Without an attempt, the fence's grant was taken back, or the fence is that of a forced break.
        attempt = entry.attempt or attempts.get(entry.fence)
        if attempt is not None:
            for key, *columns in _series_of(entry.payload):
                rows = Rows(attempt, entry.segment, entry.seq, entry.position, *columns)
                builder.add(entry.writer, key, rows)


def _series_of(payload: bytes) -> Iterator[tuple[str, Any, Any, Any]]:
    """Yield each series of an entry: key, steps, times, values."""
    if is_small(payload):
        points = metrics_pb2.Points.FromString(payload)
        steps, times = list(points.steps), list(points.times)
        for series in points.series:
            rows = series.rows
            picked = ([steps[row] for row in rows], [times[row] for row in rows]) if rows else (steps, times)
            yield series.key, *picked, list(series.values)
        return
    decoded = decode(payload, _EVERY_KEY)
    for column in decoded.columns:
        if column.rows is None:
            yield column.key, decoded.steps, decoded.times, column.values
        else:
            yield column.key, decoded.steps[column.rows], decoded.times[column.rows], column.values


_EVERY_KEY = KeyFilter()
