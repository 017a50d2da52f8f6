"""What the offline segments of a run, which no coordinator knows yet, say about where its next one starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from runlease.spool.reading import Session
from runlease.v1 import metrics_pb2, spool_pb2

_KINDS = spool_pb2.SpooledEntry


@dataclass(slots=True)
class LocalHistory:
    """A run as its offline segments leave it, by the coordinator's rules; texts are JSON, as in the contract."""

    segments: int = 0
    next_step: int = 0
    #: Visible commits as step, session and place.
    commits: list[tuple[int, Session, int]] = field(default_factory=list)
    config: dict[str, str] = field(default_factory=dict)
    summary: dict[str, str] = field(default_factory=dict)
    name: str = ""
    #: How the last segment ended; a process that died told nothing.
    outcome: str = ""

    @property
    def starting_step(self) -> int:
        """The step behind the highest visible commit, else behind the last one logged."""
        return max((step for step, *_ in self.commits), default=self.next_step - 1) + 1

    def checkpoint_below(self, step: int) -> tuple[metrics_pb2.Commit, Session, int] | None:
        """Return the highest visible commit below a step, its session, and its segment's number."""
        below = [commit for commit in self.commits if commit[0] < step]
        if not below:
            return None
        _, session, place = max(below, key=lambda commit: (commit[0], commit[2]))
        _, entry = next(session.entries(after=place - 1))
        return entry.commit, session, self.segments

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
                self.commits.append((step, session, place))
        request = session.header.acquire
        self.config.update(request.config)
        self.name = request.name or self.name
        for update in session.updates:
            self.config.update(update.config)
            self.summary.update(update.summary)
            self.name = update.name or self.name
        self.outcome = session.outcome or "crashed"

    def _begin(self, start: int) -> None:
        self.commits = [commit for commit in self.commits if commit[0] < start]
        self.next_step = start


def local_history(sessions: Iterable[Session]) -> LocalHistory:
    """Return what the offline segments of one run add up to, in the order of their creation."""
    history = LocalHistory()
    for session in sessions:
        if session.offline:
            history.add(session)
    return history
