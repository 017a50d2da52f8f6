"""Spools as `runlease sync` reads them: which sessions there are, and the entries of each, in order.

Nothing is held in memory but an index. What is torn or rotten is left out and named, never guessed.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from runlease.batches import pieces, take_batch
from runlease.columns import Row, pack
from runlease.records import OUTCOMES
from runlease.spool.files import ENTRIES, FOLDER, JOURNAL, SESSION, remove_session, try_lock
from runlease.spool.records import KINDS, VERSION, Scan, frame, top_step, unframe
from runlease.v1 import metrics_pb2, runs_pb2, spool_pb2

#: How deep below the folder of spools a session may lie: project, run, session.
_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Gap:
    """Places that no entry is there for; what is at or below the coordinator's position is simply delivered."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Damage:
    """The end of a file, from the first record on that is not sound."""

    path: Path
    offset: int
    length: int

    def __str__(self) -> str:
        """Say what is damaged."""
        return f"{self.path}: {self.length} bytes from {self.offset} on are torn or damaged"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A directory that looks like a session's spool and is none that can be read; `reason` says why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in a folder of spools: sessions in the order in which they were made."""

    sessions: list[Session] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)


def find_sessions(directory: Path) -> Found:
    """Find all spools: of a RUNLEASE_DIR, or of any folder within it, down to a single session's.

    Reads each session's header only. A session that is just being made or removed is left out.
    """
    top = directory / FOLDER if (directory / FOLDER).is_dir() else directory
    found = Found()
    for depth in range(_DEPTH + 1):
        for path in sorted(top.glob("*/" * depth + SESSION)):
            try:
                found.sessions.append(Session(path.parent))
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                found.unreadable.append(Unreadable(path.parent, str(error)))
    found.sessions.sort(key=lambda session: (session.header.created, str(session.path)))
    return found


class _Index:
    """Where the entries are, ordered by place; columns, since an offline run may have a million of them."""

    def __init__(self) -> None:
        self.places, self.offsets, self.lengths, self.files = array("Q"), array("I"), array("I"), array("I")
        self.entries, self.points, self.kinds, self.steps = array("Q"), array("Q"), array("B"), array("Q")
        self.items_through = 0
        self.bytes = 0

    def add(self, file: int, offset: int, length: int, entry: spool_pb2.SpooledEntry) -> None:
        stands_for = 1
        if entry.kind == spool_pb2.SpooledEntry.KIND_LOST:
            stands_for = metrics_pb2.Entry.FromString(entry.entry).lost.entries
        self.places.append(entry.place)
        self.offsets.append(offset)
        self.lengths.append(length)
        self.files.append(file)
        self.entries.append(stands_for)
        self.points.append(entry.points)
        self.kinds.append(entry.kind)
        self.steps.append(max(0, entry.step))
        self.items_through = max(self.items_through, entry.items_through)
        self.bytes += length

    def in_order(self) -> list[int]:
        """Return the rows by place, one for each place."""
        order = sorted(range(len(self.places)), key=self.places.__getitem__)
        return [
            row
            for at, row in enumerate(order)
            if at == 0 or self.places[row] > self.places[order[at - 1]] + self.entries[row] - 1
        ]


class Session:
    """One session's spool.

    Attributes:
        path: its directory.
        header: who wrote it, and under which grant; `fence` 0: offline, to become an attempt of its own.
    """

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            FileNotFoundError: there is none.
            OSError: it cannot be read.
            ValueError: it is damaged, or of another version.
        """
        self.path = path
        self._fd: int | None = None
        with open(path / SESSION, "rb") as file:
            data = file.read()
        records = Scan(data)
        self._notes = [record for _, _, record in records]
        self._damages: list[Damage] = []
        if records.sound < len(data):
            self._damages.append(Damage(path / SESSION, records.sound, len(data) - records.sound))
        if not self._notes or not self._notes[0].HasField("header"):
            raise ValueError(f"the header in {path / SESSION} is damaged")
        self.header = self._notes[0].header
        if self.header.version != VERSION:
            raise ValueError(f"{path} was written by another version of runlease (format {self.header.version})")

    @property
    def offline(self) -> bool:
        """Whether it is an attempt of its own, which no coordinator knows yet."""
        return not self.header.fence

    # What was said of it.

    @property
    def base(self) -> int | None:
        """The seq after which its entries begin; None: nothing was sent, or another session took the writer over."""
        base = 0 if self.offline else None
        for record in self._notes:
            if record.HasField("base"):
                base = record.base.seq
            elif record.HasField("acknowledged") and record.acknowledged.taken:
                base = None
        return base

    def delivered(self, seq: int) -> int:
        """Return the place up to which the coordinator has everything, if its log of the writer ends at ``seq``.

        Settles the base where there is none: call it before anything is sent.
        """
        base = self.base
        if base is None:
            base = seq - self.acknowledged
            self.set_base(base)
        return max(0, seq - base)

    def set_taken(self, seq: int) -> None:
        """Say that another session has taken the writer over when the coordinator's log ended at ``seq``."""
        place = max(0, seq - (self.base or 0))
        self._note(
            spool_pb2.SpoolRecord(acknowledged=spool_pb2.SpoolAcknowledged(place=place, taken=True)),
        )

    def set_base(self, seq: int) -> None:
        """Keep the seq after which its entries begin, before the first of them is sent."""
        self._note(spool_pb2.SpoolRecord(base=spool_pb2.SpoolBase(seq=seq)))

    @property
    def granted(self) -> runs_pb2.RunRef | None:
        """The run that an earlier sync was granted for this offline segment; None: no one came so far."""
        return next((record.granted for record in self._notes if record.HasField("granted")), None)

    def set_granted(self, project: str, run_id: str) -> None:
        """Keep which run was granted: the next sync goes on with it, wherever automatic keys lead by then."""
        self._note(spool_pb2.SpoolRecord(granted=runs_pb2.RunRef(project=project, id=run_id)))

    @property
    def acknowledged(self) -> int:
        """The place up to which the coordinator is known to have everything: a hint."""
        return max((record.acknowledged.place for record in self._notes), default=0)

    @property
    def outcome(self) -> str | None:
        """How the attempt ended, in `runlease.records.OUTCOMES`; None: it was delivered, or the process died."""
        symbols = [record.outcome for record in self._notes if record.HasField("outcome")]
        names = {runs_pb2.RunState.Value(f"RUN_STATE_{name.upper()}"): name for name in OUTCOMES}
        return names.get(symbols[-1]) if symbols else None

    @property
    def updates(self) -> list[runs_pb2.UpdateRunRequest]:
        """Changes of the run that the coordinator was not told, in order; their fence is 0."""
        return [record.update for record in self._notes if record.HasField("update")]

    def _note(self, record: spool_pb2.SpoolRecord) -> None:
        if self._damages and self._damages[0].path == self.path / SESSION:  # behind it nothing would be read
            os.truncate(self.path / SESSION, self._damages.pop(0).offset)
        with open(self.path / SESSION, "ab") as file:
            file.write(frame(record))
        self._notes.append(record)

    # Entries.

    def entries(self, after: int = 0) -> Iterator[tuple[int, metrics_pb2.Entry]]:
        """Yield place and entry (without seq and segment) by place, from the one behind ``after`` on.

        What only the journal has follows the others: items are cut into entries by one rule, so that reading them
        again gives the same. A `Lost` entry bears the place of the last one that it stands for.

        Raises:
            OSError: a file cannot be read.
        """
        index = self._index
        name, file = -1, None
        with contextlib.ExitStack() as stack:
            for row in index.in_order():
                if index.places[row] <= after:
                    continue
                if index.files[row] != name:
                    stack.close()
                    name = index.files[row]
                    file = stack.enter_context(open(self._files[name], "rb"))
                assert file is not None
                file.seek(index.offsets[row])
                record = unframe(file.read(index.lengths[row]))
                if record is None:
                    raise OSError(f"{self._files[name]} was changed while it was read")
                yield index.places[row], metrics_pb2.Entry.FromString(record.entry.entry)
        for at, entry, _ in self._remainder:
            if at > after:
                yield at, entry

    def outline(self) -> Iterator[tuple[int, int, int]]:
        """Yield place, kind (`SpooledEntry.Kind`) and highest step of each entry, by place, without reading it."""
        index = self._index
        for row in index.in_order():
            yield index.places[row], index.kinds[row], index.steps[row]
        for place, entry, _ in self._remainder:
            yield place, KINDS[str(entry.WhichOneof("payload"))], top_step(entry)

    @cached_property
    def gaps(self) -> list[Gap]:
        """Places up to `last_place` without an entry, in order; those delivered before the end are among them."""
        index, gaps, expected = self._index, [], 1
        for row in index.in_order():
            first = index.places[row] - index.entries[row] + 1
            if first > expected:
                gaps.append(Gap(expected, first - 1))
            expected = index.places[row] + 1
        return gaps

    @property
    def damages(self) -> list[Damage]:
        """Ends of files that are torn or damaged; what stood there is missing."""
        _ = self._remainder  # found when it is read
        return [*self._damages, *self._indexed[1]]

    @property
    def last_place(self) -> int:
        """The place of the last entry, those of the journal's remainder included."""
        if self._remainder:
            return self._remainder[-1][0]
        return max(self._index.places, default=0)

    @property
    def points(self) -> int:
        """Points of all entries that are there."""
        index, lost = self._index, spool_pb2.SpooledEntry.KIND_LOST
        cut = sum(points for points, kind in zip(index.points, index.kinds, strict=True) if kind != lost)
        return cut + sum(points for *_, points in self._remainder)

    @property
    def bytes(self) -> int:
        """Bytes of all entries that are there."""
        return self._index.bytes + sum(entry.ByteSize() for _, entry, _ in self._remainder)

    @cached_property
    def _files(self) -> list[Path]:
        return sorted(self.path.glob(f"{ENTRIES}-*"), key=_number)

    @cached_property
    def _indexed(self) -> tuple[_Index, list[Damage]]:
        index, damages = _Index(), []
        for number, path in enumerate(self._files):
            data = _content(path)
            records = Scan(data)
            for offset, length, record in records:
                if record.HasField("entry"):
                    index.add(number, offset, length, record.entry)
            if records.sound < len(data):
                damages.append(Damage(path, records.sound, len(data) - records.sound))
        return index, damages

    @property
    def _index(self) -> _Index:
        return self._indexed[0]

    @cached_property
    def _remainder(self) -> list[tuple[int, metrics_pb2.Entry, int]]:
        """What only the journal has, as place, entry and points."""
        items: dict[int, spool_pb2.SpooledItem] = {}
        for path in sorted(self.path.glob(f"{JOURNAL}-*"), key=_number):
            data = _content(path)
            records = Scan(data)
            for _, _, record in records:
                if record.HasField("item") and record.item.index > self._index.items_through:
                    items[record.item.index] = record.item
            if records.sound < len(data):
                self._damages.append(Damage(path, records.sound, len(data) - records.sound))
        place = max(self._index.places, default=0)
        return [(place + at, entry, points) for at, (entry, points) in enumerate(_cut(items), 1)]

    # Its life.

    @property
    def locked(self) -> bool:
        """Whether another process has it: its own, which lives, or a sync."""
        if self._fd is not None:
            return False
        if not self.lock():
            return True
        self.close()
        return False

    def lock(self) -> bool:
        """Take it for this process until `close` or `discard`; returns False where another has it, or it is gone."""
        if self._fd is not None:
            return True
        try:
            fd = os.open(self.path / SESSION, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            return False
        try:
            ours = try_lock(fd) and os.stat(self.path / SESSION).st_ino == os.fstat(fd).st_ino
        except OSError:  # removed in the meantime
            ours = False
        if not ours:
            os.close(fd)
            return False
        self._fd = fd
        return True

    def close(self) -> None:
        """Give it back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def discard(self) -> None:
        """Remove it: everything in it is delivered. Where the run's next offline start goes on stays."""
        from runlease.spool.segments import remember

        if self.offline:
            remember(self)
        remove_session(self.path)
        self.close()


def _number(path: Path) -> int:
    digits = path.name.rpartition("-")[2]
    return int(digits) if digits.isascii() and digits.isdigit() else 0


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # of a live session: delivered meanwhile
        return b""


def _cut(items: dict[int, spool_pb2.SpooledItem]) -> Iterator[tuple[metrics_pb2.Entry, int]]:
    rows: deque[Row] = deque()

    def batches() -> Iterator[tuple[metrics_pb2.Entry, int]]:
        while rows:
            taken, points, _ = take_batch(rows, len(rows))
            entry = metrics_pb2.Entry()
            pack(taken, entry.points)
            yield entry, points

    for index in sorted(items):
        item = items[index]
        if item.HasField("row"):
            row = item.row
            rows.extend(pieces((row.step, row.time, tuple(row.keys), tuple(row.values))))
            continue
        yield from batches()
        if item.HasField("commit"):
            yield metrics_pb2.Entry(commit=item.commit), 0
        else:
            yield metrics_pb2.Entry(rewind=item.rewind), 0
    yield from batches()
