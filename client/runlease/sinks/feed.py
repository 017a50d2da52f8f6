"""What a run has that its target does not: pages of points, each with the segments by which it was judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runlease.client import Client
from runlease.exceptions import InvalidArgument
from runlease.history import History
from runlease.records import RunRecord
from runlease.sinks.state import State

#: Points of one read: what a sink holds in memory, and at most sends again after it was killed.
PAGE_POINTS = 200_000


@dataclass(frozen=True, slots=True)
class Start:
    """A segment that counts: what was logged before it, at or above ``step``, is superseded."""

    attempt: int
    segment: int
    step: int
    time_s: float

    @property
    def name(self) -> str:
        """What a state remembers; a second rewind before a write lowers the start of its segment, so that is in it."""
        return f"{self.attempt}.{self.segment}@{self.step}"


@dataclass(frozen=True, slots=True)
class Page:
    """Points to send, and the position behind them.

    ``news`` are the segments that have come to count since the last read; ``starts`` those of them to announce before
    the points. One that is older than what was announced before came late, from a spool: it hides nothing of the newer
    ones, which the target would take it to do.
    """

    record: RunRecord
    history: History
    news: tuple[Start, ...]
    starts: tuple[Start, ...]
    cursor: str
    token: str


def pages(client: Client, project: str, id: str, writer: str, state: State) -> Iterator[Page]:
    """Yield what lies behind a state, page by page; who sends a page moves the state behind it before the next one.

    Raises:
        AnotherRun: the run was created later than the state's.
        RunNotFound, CoordinatorUnavailable.
    """
    while True:
        is_of_old = bool(state.page)
        try:
            yield from _pages_of_one_read(client, project, id, writer, state)
            if not is_of_old:  # else the moment of these pages has passed: what came in since comes with another read
                return
        except InvalidArgument as error:
            if error.field != "page_token" or not state.page:
                raise
            state.page = ""  # its moment cannot be read any more: begin this read anew


def _pages_of_one_read(client: Client, project: str, id: str, writer: str, state: State) -> Iterator[Page]:
    record = client.get_run(project, id)
    if state.created_s and record.created_s != state.created_s:
        raise AnotherRun(f"{project}/{id} is another run than before")
    cursor = state.cursor
    while True:
        found = client.history_pages(
            project, id, writers=[writer], after=cursor, page_points=PAGE_POINTS, page_token=state.page
        )
        history = next(found)
        again = record if state.page else client.get_run(project, id)
        # A segment that came to count in between would hide points that are in the page, or not.
        if list(starts_of(again, writer)) == list(starts_of(record, writer)):
            break
        record = again
    # All pages of one read are of one moment, judged by the segments of that moment: those are announced with the
    # first page, and what came to count since is announced with the next read.
    news = () if state.page else tuple(one for one in starts_of(record, writer) if one.name not in state.segments)
    newest = max(map(_order, state.segments), default=(0, 0))
    starts = tuple(one for one in news if (one.attempt, one.segment) >= newest)
    while True:
        token = history.next_page_token
        yield Page(record, history, news, starts, cursor if token else history.cursor, token)
        if not token:
            return
        history, news, starts = next(found), (), ()


class AnotherRun(Exception):
    """The run was purged, and another one has its name now."""


def starts_of(record: RunRecord, writer: str) -> Iterator[Start]:
    """Yield the segments that count for a writer, in their order."""
    for attempt in record.attempts:
        for segment in attempt.segments:
            if segment.counts and segment.writer in ("", writer):
                yield Start(attempt.attempt, segment.segment, segment.start, attempt.granted_s)


def _order(name: str) -> tuple[int, int]:
    attempt, segment = name.partition("@")[0].split(".")
    return int(attempt), int(segment)
