"""What the offline segments of a run add up to, and where its next one starts; by the coordinator's rules.

Segments that were delivered are gone from the disk. What they added up to stays, in a file beside them, since whoever
trains without a network goes on without one after a sync as well.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from runlease.records import OUTCOMES
from runlease.spool.reading import Session
from runlease.spool.records import frame, unframe
from runlease.v1 import metrics_pb2, runs_pb2, spool_pb2

#: Beside the sessions of a run.
KNOWN = "known"

_KINDS = spool_pb2.SpooledEntry
_OUTCOMES = {runs_pb2.RunState.Value(f"RUN_STATE_{name.upper()}"): name for name in OUTCOMES}


@dataclass(frozen=True, slots=True)
class VisibleCommit:
    """A commit that no later segment hides; ``segment`` counts the run's offline segments from 1 on."""

    step: int
    segment: int
    created: float
    session: Session | None
    place: int = 0
    message: metrics_pb2.Commit | None = None

    def read(self) -> metrics_pb2.Commit:
        """Return it; read from its session's files where it is not known otherwise."""
        if self.message is not None:
            return self.message
        assert self.session is not None
        _, entry = next(self.session.entries(after=self.place - 1))
        return entry.commit


@dataclass(slots=True)
class LocalHistory:
    """A run as its offline segments leave it; texts are JSON, as in the contract."""

    segments: int = 0
    next_step: int = 0
    commits: list[VisibleCommit] = field(default_factory=list)
    config: dict[str, str] = field(default_factory=dict)
    summary: dict[str, str] = field(default_factory=dict)
    run_id: str = ""
    name: str = ""
    #: How the last segment ended; a process that died told nothing.
    outcome: str = ""
    #: When the last segment began, UNIX seconds.
    created: float = 0.0
    auto_keys: tuple[str, ...] = ()

    @property
    def starting_step(self) -> int:
        """The step behind the highest visible commit, else behind the last one logged."""
        return max((commit.step for commit in self.commits), default=self.next_step - 1) + 1

    def checkpoint_below(self, step: int) -> VisibleCommit | None:
        """Return the highest visible commit below a step, the latest of several."""
        below = [commit for commit in self.commits if commit.step < step]
        return max(below, key=lambda commit: (commit.step, commit.segment, commit.place), default=None)

    def add(self, session: Session) -> None:
        """Take the next segment into account: it hides what is at or above its start once it has written something."""
        self.segments += 1
        start: int | None = session.header.starting_step
        written = False
        for place, kind, step in session.outline():
            if kind == _KINDS.KIND_REWIND:
                start = step
                if written:  # it counts at once
                    self._begin(start)
                    start = None
                continue
            if kind == _KINDS.KIND_LOST:
                continue
            if start is not None:
                self._begin(start)
                start = None
            written = True
            self.next_step = max(self.next_step, step + 1)
            if kind == _KINDS.KIND_COMMIT:
                self.commits.append(VisibleCommit(step, self.segments, session.header.created, session, place))
        self._take_record(session)

    def _begin(self, start: int) -> None:
        self.commits = [commit for commit in self.commits if commit.step < start]
        self.next_step = start

    def _take_record(self, session: Session) -> None:
        request = session.header.acquire
        self.config.update(request.config)
        self.name = request.name or self.name
        for update in session.updates:
            self.config.update(update.config)
            self.summary.update(update.summary)
            self.name = update.name or self.name
        self.run_id, self.created = session.header.run.id, session.header.created
        self.auto_keys = tuple(request.auto_keys)
        self.outcome = session.outcome or "crashed"


def local_history(folder: Path, sessions: Iterable[Session]) -> LocalHistory:
    """Return what the offline segments of one run add up to.

    Args:
        folder: of the run's spools, where delivered segments are remembered.
        sessions: what lies there, in the order of creation.
    """
    history = read_known(folder)
    for session in sessions:
        if session.offline and session.header.created > history.created:
            history.add(session)
    return history


def remember(session: Session) -> None:
    """Keep what a delivered offline segment added, before it is removed; a convenience, which never fails."""
    folder = session.path.parent
    if folder.name == session.header.canonical_id:  # else it was taken elsewhere, to be delivered from there
        with contextlib.suppress(OSError):
            _remember(session, folder)


def _remember(session: Session, folder: Path) -> None:
    history = read_known(folder)
    if session.header.created <= history.created:  # killed between the two, last time
        return
    history.add(session)
    known = spool_pb2.SpoolKnown(
        run=session.header.run,
        name=history.name,
        segments=history.segments,
        next_step=history.next_step,
        config=history.config,
        summary=history.summary,
        outcome=f"RUN_STATE_{history.outcome.upper()}",
        created=history.created,
        auto_keys=history.auto_keys,
    )
    for commit in history.commits:
        known.commits.add(commit=commit.read(), created=commit.created, segment=commit.segment)
    new = folder / f"{KNOWN}.new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(frame(spool_pb2.SpoolRecord(known=known)))
    os.replace(new, folder / KNOWN)


def read_known(folder: Path) -> LocalHistory:
    """Return what the delivered offline segments of a run added up to; nothing where there are none."""
    try:
        record = unframe((folder / KNOWN).read_bytes())
    except OSError:
        record = None
    if record is None or not record.HasField("known"):
        return LocalHistory()
    known = record.known
    return LocalHistory(
        segments=known.segments,
        next_step=known.next_step,
        commits=[
            VisibleCommit(one.commit.step, one.segment, one.created, None, message=one.commit) for one in known.commits
        ],
        config=dict(known.config),
        summary=dict(known.summary),
        run_id=known.run.id,
        name=known.name,
        outcome=_OUTCOMES.get(known.outcome, ""),
        created=known.created,
        auto_keys=tuple(known.auto_keys),
    )


def known_runs(project_folder: Path) -> Iterator[LocalHistory]:
    """Yield what is remembered of each run of a project."""
    for path in sorted(project_folder.glob(f"*/{KNOWN}")):
        yield read_known(path.parent)
