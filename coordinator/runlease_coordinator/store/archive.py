"""The archive's manifest in the store: cuts, commits, what is to be archived and what may be removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from runlease_coordinator.domain.archive import Manifest, Part
from runlease_coordinator.domain.metrics import LogPosition
from runlease_coordinator.store.keys import PARTITIONS, partition_keys, run_keys
from runlease_coordinator.store.metrics import LogEntry, log_entry
from runlease_coordinator.store.store import Store

#: An object that was begun and never committed is removed after an hour: no compactor writes for so long.
_BEGUN_LIFE_US = 3_600_000_000
_PAGE = 256
#: Entries of a log that are read at once: pages of about 4 MiB, whatever the size of the batches. Few at first: one may
#: have 16 MiB.
_FIRST_PAGE, _LARGEST_PAGE, _PAGE_BYTES = 16, 4096, 4 << 20
#: The name of a part without points, which has no object.
NO_OBJECT = "-"


@dataclass(frozen=True, slots=True)
class Claim:
    """A run's compaction, for a time: what it may write next lies behind ``after``.

    ``pending`` is where a cut that was left behind goes up to; None: the holder chooses.
    """

    project: str
    canonical_id: str
    generation: int
    after: LogPosition
    pending: LogPosition | None
    segments_digest: str


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a log: entries of points, and what all of it, other entries included, counts in the hot bytes."""

    last: LogPosition
    entries: Sequence[LogEntry]
    bytes: int


@dataclass(frozen=True, slots=True)
class HotRun:
    """A run with points that are not archived."""

    project: str
    canonical_id: str
    bytes: int


class ArchiveStore:
    """The manifest's operations. All of them are on the connection of reads: nothing here may delay a lease."""

    def __init__(self, store: Store, owner: str) -> None:
        """Take the store, and the name by which other coordinators know this one."""
        self._store = store
        self._owner = owner

    async def manifest(self, project: str, canonical_id: str) -> Manifest:
        """Return what the archive has of a run."""
        flat: Sequence[bytes] = await self._store.reads.call("HGETALL", run_keys(project, canonical_id).parts)
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        numbers = sorted(int(name[5:]) for name in fields if name.startswith(b"part."))
        return Manifest(
            to=LogPosition.parse(fields.get(b"to", b"0-0").decode()),
            parts=[_part(fields[b"part.%d" % number].decode()) for number in numbers],
        )

    async def claim(self, project: str, canonical_id: str, for_s: float) -> Claim | None:
        """Take a run's compaction for some seconds; None where another coordinator has it, or the run is gone."""
        return await self._cut(project, canonical_id, 0, for_s, "", "")

    async def renew(self, claim: Claim, for_s: float) -> bool:
        """Keep a compaction for some more seconds; whether it is still the caller's."""
        return await self._cut(claim.project, claim.canonical_id, claim.generation, for_s, "", "") is not None

    async def give_up(self, claim: Claim) -> None:
        """Let others compact the run at once."""
        await self.renew(claim, 0)

    async def begin(self, claim: Claim, to: LogPosition, object_path: str, for_s: float) -> bool:
        """Record the cut up to ``to`` and the object that it will be; whether the compaction is still the caller's."""
        cut = await self._cut(claim.project, claim.canonical_id, claim.generation, for_s, str(to), object_path)
        return cut is not None

    async def _cut(
        self, project: str, canonical_id: str, generation: int, for_s: float, to: str, object_path: str
    ) -> Claim | None:
        keys = run_keys(project, canonical_id)
        verdict, rest = await self._store.run(
            "cut",
            (keys.partition.meta, keys.run, keys.parts, keys.partition.garbage),
            (self._owner, generation, int(for_s * 1e6), to, object_path, _BEGUN_LIFE_US),
            on=self._store.reads,
        )
        if verdict != "CUT":
            return None
        pending = rest[2].decode()
        after = LogPosition.parse(rest[1].decode())
        return Claim(
            project,
            canonical_id,
            int(rest[0]),
            after,
            LogPosition.parse(pending) if pending else None,
            _digest(rest[3]),
        )

    async def commit(self, claim: Claim, part: Part, freed_bytes: int, segments_path: str, digest: str) -> bool:
        """Add a part to the manifest and trim the log behind it; False: the compaction is another one's by now.

        Args:
            claim: the compaction under which it was written.
            part: with the path `NO_OBJECT` where it holds no points.
            freed_bytes: payloads that leave the log.
            segments_path: the object with the run's segments.
            digest: of its content.
        """
        keys = run_keys(claim.project, claim.canonical_id)
        verdict, _ = await self._store.run(
            "commit_part",
            (keys.partition.meta, keys.parts, keys.log, keys.partition.hot, keys.partition.garbage),
            (
                claim.generation,
                str(part.after),
                str(part.to),
                part.path,
                part.points,
                part.bytes,
                part.min_step,
                part.max_step,
                freed_bytes,
                keys.path,
                segments_path,
                digest,
            ),
            on=self._store.reads,
        )
        return verdict == "COMMITTED"

    async def pages(self, claim: Claim) -> AsyncIterator[Page]:
        """Yield the log that is the claim's to archive: behind what is archived, up to the pending cut or the end."""
        log, start = run_keys(claim.project, claim.canonical_id).log, f"({claim.after}"
        end, count = str(claim.pending) if claim.pending else "+", _FIRST_PAGE
        while True:
            raw = await self._store.reads.call("XRANGE", log, start, end, "COUNT", count)
            if not raw:
                return
            last = raw[-1][0].decode()
            entries = [entry for one in raw if (entry := log_entry(*one))]
            size = sum(_payload_bytes(flat) for _, flat in raw)
            yield Page(LogPosition.parse(last), entries, size)
            if len(raw) < count:
                return
            count = max(1, min(_LARGEST_PAGE, _PAGE_BYTES * count // (size + 1)))
            start = f"({last}"

    async def hot_runs(self, partition: int, at_least_bytes: int) -> AsyncIterator[HotRun]:
        """Yield a partition's runs with so many bytes that are not archived, the largest first."""
        hot, offset = partition_keys(partition).hot, 0
        while True:
            flat = await self._store.reads.call(
                "ZREVRANGEBYSCORE", hot, "+inf", at_least_bytes, "WITHSCORES", "LIMIT", offset, _PAGE
            )
            for member, score in zip(flat[::2], flat[1::2], strict=True):
                project, _, canonical_id = member.decode().partition("/")
                yield HotRun(project, canonical_id, int(float(score)))
            if len(flat) < 2 * _PAGE:
                return
            offset += _PAGE

    async def ended_before(self, run: HotRun, age_s: float) -> bool:
        """Return whether a run's last attempt ended so many seconds ago, by the store's time."""
        keys = run_keys(run.project, run.canonical_id)
        call = self._store.reads.call
        end, attempt, last_log = await call("HMGET", keys.run, "end", "attempt", "last_log")
        if not end or attempt is None:
            return False
        ended = await call("HGET", keys.attempts, f"{attempt.decode()}.ended")
        # A log goes on after its attempt's end where nobody was granted since, or by a sync.
        latest = max(int(ended or 0), int(last_log or 0))
        return latest <= self._store.clock_of(run.project).now_us() - int(age_s * 1e6)

    async def take_garbage(self, partition: int, at_most: int = 100) -> list[str]:
        """Take objects out of the garbage that are due; who takes them removes them, or gives them back."""
        garbage = partition_keys(partition).garbage
        call = self._store.reads.call
        due = await call("ZRANGEBYSCORE", garbage, "-inf", self._store.clocks[partition].now_us(), "LIMIT", 0, at_most)
        # Out of the set first: `commit_part.lua` makes no part of what is not in there any more.
        taken = await asyncio.gather(*(call("ZREM", garbage, path) for path in due))
        return [path.decode() for path, mine in zip(due, taken, strict=True) if mine]

    async def give_back(self, partition: int, paths: Sequence[str], after_s: float) -> None:
        """Put objects back that could not be removed now; they are due again after some seconds."""
        due_us = self._store.clocks[partition].now_us() + int(after_s * 1e6)
        for path in paths:
            await self._store.reads.call("ZADD", partition_keys(partition).garbage, due_us, path)

    async def expire_points(self, project: str, canonical_id: str, age_s: float, grace_s: float) -> bool:
        """Remove the points of a run that ended so many seconds ago; returns whether there were any to remove."""
        keys = run_keys(project, canonical_id)
        partition = keys.partition
        verdict, _ = await self._store.run(
            "expire_points",
            (
                partition.meta,
                keys.run,
                keys.attempts,
                keys.parts,
                keys.log,
                partition.hot,
                partition.garbage,
                partition.events,
            ),
            (project, canonical_id, int(age_s * 1e6), int(grace_s * 1e6)),
            on=self._store.reads,
        )
        return verdict == "EXPIRED"

    async def runs_updated_before(self, age_s: float) -> AsyncIterator[tuple[str, str]]:
        """Yield the runs (project, canonical ID) that nothing has changed for so many seconds."""
        call = self._store.reads.call
        for number in range(PARTITIONS):
            latest_us = self._store.clocks[number].now_us() - int(age_s * 1e6)
            partition = partition_keys(number)
            for project in [name.decode() for name in await call("ZRANGE", partition.projects, 0, -1)]:
                offset = 0
                while page := await call(
                    "ZRANGEBYSCORE", partition.runs(project), "-inf", latest_us, "LIMIT", offset, _PAGE
                ):
                    for canonical_id in page:
                        yield project, canonical_id.decode()
                    offset += _PAGE


def _payload_bytes(flat: Sequence[bytes]) -> int:
    return len(dict(zip(flat[::2], flat[1::2], strict=True))[b"b"])


def _digest(segments: bytes) -> str:
    return segments.decode().partition(" ")[2]


def _part(text: str) -> Part:
    path, after, to, points, size, lowest, highest = text.split(" ")
    return Part(
        path, LogPosition.parse(after), LogPosition.parse(to), int(points), int(size), int(lowest), int(highest)
    )
