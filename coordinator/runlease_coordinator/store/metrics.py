"""Writers' logs in the store: open, append, read back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from runlease_coordinator.domain.errors import InvalidField, Stale
from runlease_coordinator.domain.limits import BOUNDS, LARGEST_BYTES, LARGEST_POINTS, Bounds
from runlease_coordinator.domain.metrics import Entry, EntryKind, LogPosition, Writer, WriterPosition
from runlease_coordinator.store.keys import RunKeys, run_keys
from runlease_coordinator.store.leases import refuse_fence
from runlease_coordinator.store.limits import DEFAULT_ARGS
from runlease_coordinator.store.store import Store

#: Entries of one read: pages of about 4 MiB, whatever the size of the batches. Few at first, since one may have 16 MiB,
#: and never so many that large ones behind small ones would fill the memory.
_FIRST_PAGE, _LARGEST_PAGE, _PAGE_BYTES = 4, 512, 4 << 20
#: What of a log no failover may take back once it is acknowledged.
_MARKS = (EntryKind.COMMIT, EntryKind.REWIND, EntryKind.END)


@dataclass(frozen=True, slots=True)
class Appended:
    """An entry is in the log (or was before); everything up to ``seq`` is."""

    seq: int


@dataclass(frozen=True, slots=True)
class Gap:
    """The entry's seq jumps; nothing is stored. The log goes on behind ``seq``."""

    seq: int


@dataclass(frozen=True, slots=True)
class Full:
    """The run has as much of something as it may have; nothing is stored, and the log goes on behind the entry.

    ``field`` of the entry is at fault, ``what`` says why.
    """

    seq: int
    field: str
    what: str


@dataclass(frozen=True, slots=True)
class Throttled:
    """A rate limit is used up; nothing is stored, and the log goes on with this entry.

    ``limited`` names the limit (``run/points``), ``limit`` is its rate per second, ``remaining`` what is left of its
    burst; the entry is worth another try after ``retry_after_us``, and all is paid for after ``reset_us``.
    """

    limited: str
    limit: int
    remaining: int
    retry_after_us: int
    reset_us: int


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A stored entry of points, as it lies in the log; ``attempt`` is 0 where it is that of the fence."""

    position: LogPosition
    attempt: int
    writer: str
    seq: int
    segment: int
    payload: bytes

    @property
    def fence(self) -> int:
        """Under which it came in."""
        return self.position.fence


class MetricStore:
    """The log operations, one script each."""

    def __init__(self, store: Store, bounds: Bounds = BOUNDS) -> None:
        """Take the store, and how much there may be of a run."""
        self._store = store
        self._bounds = bounds

    async def open_writer(self, writer: Writer) -> WriterPosition:
        """Hand the writer to the session; returns where its log goes on.

        Raises:
            Stale: the fence is not the run's, or another session has replaced this one.
            InvalidField: the attempt is none that entries may be brought in of.
            RunDeleted, Unavailable.
        """
        keys = run_keys(writer.project, writer.canonical_id)
        names = (keys.partition.meta, keys.run, keys.seq, keys.attempts)
        args = (writer.fence, writer.name, writer.session, writer.attempt, writer.attempt_fence)
        verdict, rest = await self._store.run("open_writer", names, args, on=self._store.metrics)
        if verdict == "OPENED" and int(rest[0]) and self._store.repeats_marks:
            # The answer acknowledges all that is in the log, marks among it: see `append`.
            verdict, rest = await self._store.run("open_writer", names, args)
        match verdict:
            case "OPENED":
                seq, segment, written, fence = rest
                return WriterPosition(int(seq), int(segment), written == b"1", int(fence))
            case "NO_SYNC":
                raise InvalidField("open.attempt", "only under the fence of a sync (AcquireRequest.sync)")
            case "IS_SYNC":
                raise InvalidField("open.attempt", "under a sync's fence, name the attempt that the entries are of")
            case "NO_ATTEMPT":
                named = f" of fence {writer.attempt_fence}: the store has lost it" if writer.attempt_fence else ""
                raise InvalidField("open.attempt", f"the run has no attempt {writer.attempt}{named}")
            case "SESSION":
                raise _taken(writer)
        refuse_fence(verdict, rest, writer.project, writer.canonical_id, writer.fence, self._store)

    async def append(self, writer: Writer, entry: Entry) -> Appended | Gap | Throttled | Full:
        """Append one entry, if the limits let it; a duplicate counts as appended.

        Raises:
            Stale: the fence is not the run's, or another session has the writer.
            InvalidField: the entry names another segment than the writer's, or other than the missing ones lost.
            RunDeleted, Unavailable.
        """
        keys = _append_keys(run_keys(writer.project, writer.canonical_id))
        args = (
            writer.fence,
            writer.name,
            writer.session,
            entry.seq,
            entry.segment,
            entry.kind.value,
            entry.payload,
            entry.points,
            entry.step,
            writer.canonical_id,
            "1" if entry.barrier else "0",
            *DEFAULT_ARGS,
            LARGEST_POINTS,
            LARGEST_BYTES,
            writer.project,
            writer.attempt or "",
            self._bounds.names,
            self._bounds.checkpoint_bytes,
            *entry.names,
        )
        verdict, rest = await self._store.run("append", keys, args, on=self._store.metrics)
        if entry.kind in _MARKS and self._store.repeats_marks and verdict in ("APPENDED", "DUPLICATE"):
            # Here it would hold up the points behind it until replicas have it. Its repetition is a write, too.
            verdict, rest = await self._store.run("append", keys, args)
        match verdict:
            case "APPENDED" | "DUPLICATE":
                return Appended(int(rest[0]))
            case "GAP":
                return Gap(int(rest[0]))
            case "FULL" if rest[1] == b"names":
                what = f"the run has {self._bounds.names} names of metrics: keep numbers, times and files out of names"
                return Full(int(rest[0]), "entry.points.series", what)
            case "FULL":
                what = f"the run's checkpoints have {self._bounds.checkpoint_bytes} bytes: keep metadata small"
                return Full(int(rest[0]), "entry.commit", what)
            case "THROTTLED":
                name, *numbers = rest
                return Throttled(name.decode(), *map(int, numbers))
            case "SEGMENT":
                raise InvalidField("entry.segment", f"the writer is in segment {int(rest[0])}, not {entry.segment}")
            case "NOT_LOST":
                message = f"{int(rest[0])} entries are missing up to this seq, not {entry.step}"
                raise InvalidField("entry.lost.entries", message)
            case "SESSION":
                raise _taken(writer)
        refuse_fence(verdict, rest, writer.project, writer.canonical_id, writer.fence, self._store)

    async def pages(
        self, project: str, canonical_id: str, after: LogPosition, upto: LogPosition
    ) -> AsyncIterator[list[LogEntry]]:
        """Yield the entries of points behind ``after``, up to and including ``upto``, in order; no page is empty."""
        log, count = run_keys(project, canonical_id).log, _FIRST_PAGE
        start, end = f"({after}", str(upto)
        while True:
            page = await self._store.reads.call("XRANGE", log, start, end, "COUNT", count)
            entries = [entry for raw in page if (entry := log_entry(*raw))]
            if entries:
                yield entries
            if len(page) < count:
                return
            start = "(" + page[-1][0].decode()
            size = sum(len(entry.payload) for entry in entries) + 1
            count = max(1, min(_LARGEST_PAGE, _PAGE_BYTES * count // size))


def _append_keys(keys: RunKeys) -> tuple[str, ...]:
    partition = keys.partition
    return (
        partition.meta,
        keys.run,
        keys.attempts,
        keys.log,
        keys.seq,
        keys.ckpt,
        keys.ckptdoc,
        keys.limits,
        keys.gcra,
        partition.events,
        keys.auto,
        partition.hot,
        keys.names,
    )


def log_entry(entry_id: bytes, flat: list[bytes]) -> LogEntry | None:
    """Read an entry of a stream; None where it is not one of points."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    if fields[b"k"] != b"p":
        return None
    fence, _, number = entry_id.partition(b"-")
    return LogEntry(
        LogPosition(int(fence), int(number)),
        int(fields.get(b"o", b"0")),
        fields[b"w"].decode(),
        int(fields[b"s"]),
        int(fields[b"g"]),
        fields[b"b"],
    )


def _taken(writer: Writer) -> Stale:
    return Stale("SESSION_TAKEN", f"another process has opened writer {writer.name!r} since")
