"""The loop of a sink: which runs have news, and what to do when something is away."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from runlease.client import Client
from runlease.exceptions import CoordinatorUnavailable, RunNotFound
from runlease.records import RunRecord
from runlease.sinks.feed import AnotherRun, Page, pages
from runlease.sinks.state import BrokenState, InUse, State, StateFile
from runlease.sinks.target import RunTarget, Target, TargetError, rows_of, run_name

#: Pauses after something failed, in seconds: the first, doubling up to the last.
_FIRST_PAUSE_S, _LAST_PAUSE_S = 1.0, 60.0
#: What a run in trouble raises; another one may go on meanwhile.
_TROUBLE = (TargetError, BrokenState, InUse, OSError)


class Follower:
    """Feeds one run, or all runs of a project, to a target."""

    def __init__(
        self,
        client: Client,
        target: Target,
        project: str,
        id: str | None,
        *,
        sink: str,
        folder: Path,
        writer: str,
        stop: threading.Event,
        tell: Callable[[str], None],
    ) -> None:
        """Take what to feed; nothing is done yet.

        Args:
            client: reads the histories.
            target: where to.
            project: the project.
            id: the run, in either form; None: all runs of the project, new ones too.
            sink: the name of the kind of target, for the state's path.
            folder: where states are kept.
            writer: whose points.
            stop: set to end soon, after what is under way.
            tell: called with what a person should know.
        """
        self._client, self._target, self._tell = client, target, tell
        self._project, self._id = project, id
        self._sink, self._folder, self._writer = sink, folder, writer
        self._stop = stop
        self._feeds: dict[str, _RunFeed] = {}
        self._told: set[str] = set()
        self.points = 0

    def once(self) -> None:
        """Send what there is.

        Raises:
            RunleaseError: the coordinator does not answer, or there is no such run.
            TargetError, BrokenState, InUse, OSError: of the last run in trouble, once all were tried.
        """
        trouble: Exception | None = None
        for record in self._runs():
            if self._stop.is_set():
                break
            try:
                self._feed(record)
            except _TROUBLE as error:
                self._tell(f"{record.path}: {error}")
                trouble = error
        if trouble is not None:
            raise trouble

    def follow(self, every_s: float) -> None:
        """Send what comes until told to stop, looking every so many seconds.

        Raises:
            RunleaseError: there is no such run, or the coordinator refuses to tell.
        """
        pause_s = _FIRST_PAUSE_S
        while not self._stop.is_set():
            try:
                for record in self._runs():
                    if self._stop.is_set():
                        break
                    self._try(record)
            except CoordinatorUnavailable as error:
                self._tell_once("coordinator", f"{error}; trying again until it answers")
                self._stop.wait(pause_s)
                pause_s = min(2 * pause_s, _LAST_PAUSE_S)
            else:
                pause_s = _FIRST_PAUSE_S
                self._told.discard("coordinator")
                self._stop.wait(every_s)

    def close(self) -> None:
        """Let go of the target."""
        for feed in self._feeds.values():
            feed.close()
        self._target.close()

    def _runs(self) -> Iterable[RunRecord]:
        if self._id is not None:
            return [self._client.get_run(self._project, self._id)]
        return self._client.list_runs(self._project)

    def _try(self, record: RunRecord) -> None:
        feed = self._feeds.get(record.canonical_id)
        if feed is not None and not feed.wants(record):
            return
        try:
            self._feed(record)
        except _TROUBLE as error:
            self._feeds[record.canonical_id].fail()
            self._tell_once(str(error), f"{record.path}: {error}; trying again until it works")

    def _feed(self, record: RunRecord) -> None:
        feed = self._feeds.get(record.canonical_id)
        if feed is None:
            name = run_name(record.canonical_id, self._writer)
            file = StateFile(self._folder, self._sink, self._target.identity, self._project, name)
            feed = _RunFeed(self._client, self._target, file, self._writer, self._stop)
            self._feeds[record.canonical_id] = feed
        try:
            self.points += feed.catch_up(record)
        except RunNotFound:
            if self._id is not None:  # of a project, it was purged since the list was made
                raise
            return
        if feed.recovered():
            self._told.clear()
            self._tell(f"{record.path}: goes on")

    def _tell_once(self, reason: str, message: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            self._tell(message)


class _RunFeed:
    """One run on its way to the target."""

    def __init__(self, client: Client, target: Target, file: StateFile, writer: str, stop: threading.Event) -> None:
        self._client, self._target, self._file = client, target, file
        self._writer, self._stop = writer, stop
        self._held = contextlib.ExitStack()
        self._state: State | None = None
        self._run: RunTarget | None = None
        self._seen: object = None
        self._pause_s = 0.0
        self._not_before = 0.0

    def wants(self, record: RunRecord) -> bool:
        """Tell whether there is something to do."""
        return self._seen != _signature(record) and time.monotonic() >= self._not_before

    def catch_up(self, record: RunRecord) -> int:
        """Send what the target does not have; returns the number of points."""
        try:
            points = sum(self._send(record))
            if not self._stop.is_set():
                self._seen = _signature(record)
        except BaseException:  # an interrupt, too, closes it
            self.close()
            raise
        return points

    def fail(self) -> None:
        """Wait before the next try, longer each time."""
        self._pause_s = min(2 * self._pause_s or _FIRST_PAUSE_S, _LAST_PAUSE_S)
        self._not_before = time.monotonic() + self._pause_s

    def recovered(self) -> bool:
        """Tell, once, whether it had failed before."""
        failed, self._pause_s, self._not_before = self._pause_s > 0, 0.0, 0.0
        return failed

    def close(self) -> None:
        """Let go of the run; the next pass opens it again."""
        run, self._run, self._state, self._seen = self._run, None, None, None
        try:
            if run is not None:
                with contextlib.suppress(TargetError):
                    run.close()
        finally:
            self._held.close()

    def _send(self, record: RunRecord) -> Iterator[int]:
        state = self._state
        if state is None:
            self._held.enter_context(self._file.locked())
            state = self._state = self._file.load()
        while True:
            # To a target that has nothing yet, there is no start to tell of.
            fresh = not state.cursor and not state.page
            try:
                for page in pages(self._client, record.project, record.canonical_id, self._writer, state):
                    yield self._send_page(state, page, announce=not fresh)
                    if self._stop.is_set():
                        return
                self._end(state, page.record)
                return
            except AnotherRun:
                state = self._begin_anew(record)

    def _send_page(self, state: State, page: Page, *, announce: bool) -> int:
        if len(page.history) or page.starts:
            run = self._open(page.record, state)
            if announce:
                for start in page.starts:
                    run.restart(start.step, start.time_s)
            run.write(rows_of(page.history.series))
            state.memo = dict(run.flush())
        moved = (page.cursor, page.token) != (state.cursor, state.page) or page.news
        state.cursor, state.page, state.created_s = page.cursor, page.token, page.record.created_s
        state.segments += [start.name for start in page.news]
        if moved:
            self._file.save(state)
        return len(page.history)

    def _end(self, state: State, record: RunRecord) -> None:
        """Tell the target of the end of an attempt, once, and let go of a run that does not go on."""
        if record.state == "running":
            return
        ended = f"{record.attempt} {record.state}"
        if state.ended != ended:
            self._open(record, state).end(record)
            state.ended = ended
            self._file.save(state)
        self.close()

    def _begin_anew(self, record: RunRecord) -> State:
        state = self._state = State()
        run = self._open(record, state)
        run.restart(0, record.created_s)
        state.memo = dict(run.flush())
        self._file.save(state)
        return state

    def _open(self, record: RunRecord, state: State) -> RunTarget:
        if self._run is None:
            name = run_name(record.canonical_id, self._writer)
            self._run = self._target.open(record, name, state.memo)
        return self._run


def _signature(record: RunRecord) -> object:
    return record.created_s, record.attempt, record.state, record.points, record.next_step
