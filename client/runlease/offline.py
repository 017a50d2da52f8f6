"""Runs of ``mode="offline"``: all that a run does goes to its spool, and `runlease sync` delivers it later.

Guarantees: what was logged more than `WriterSettings.drain_interval_s` ago survives the death of the process, and with
``spool="always"`` what `log` has returned for. Each start of a run is a segment of its own, which becomes an attempt of
its own; where it starts is decided from earlier offline segments on this disk. Not guaranteed: that nobody else writes
the run meanwhile. There is no lease; only another process on the same disk is noticed.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from runlease.acquisition import acquire_request
from runlease.appendstream import AppendStream, Reply
from runlease.buffer import Buffer, Item
from runlease.client import outcome_symbol
from runlease.disabled import MutedLog, disabled_lease
from runlease.exceptions import CoordinatorUnavailable, InvalidArgument, LeaseHeld, RunExists, RunleaseError
from runlease.holder import Holder
from runlease.ids import MAIN_WRITER, canonical_id
from runlease.logthread import LogThread
from runlease.names import generate_name
from runlease.records import Checkpoint, load_json
from runlease.request import Request
from runlease.runs import Log, Run
from runlease.session import NoSession, update_request
from runlease.spool.files import FOLDER
from runlease.spool.opening import new_header, run_folder
from runlease.spool.reading import Session, find_sessions
from runlease.spool.segments import LocalHistory, known_runs, local_history
from runlease.spool.writing import Spool
from runlease.writersettings import WriterSettings

log = logging.getLogger("runlease")


class OfflineOutlet:
    """Writes the log to the spool, every `drain_interval_s`, and at once what somebody waits for."""

    connected = False

    def __init__(self, settings: WriterSettings, spool: Spool) -> None:
        """Take pace, bounds and disk."""
        self.buffer = Buffer(settings, spool)
        self.last_error = ""
        self._settings = settings
        self._spool = spool
        self._drain_at: float | None = None

    def turn(self, inbox: deque[Item], replies: deque[tuple[AppendStream, Reply]], now: float) -> None:
        """Take in what is there, and write what is due."""
        buffer = self.buffer
        buffer.take_in(inbox)
        due = self._drain_at is not None and now >= self._drain_at
        if due or buffer.urgent or buffer.backlog.unsent:
            buffer.shelve()
            self._drain_at = None
        if buffer.waiting and self._drain_at is None:  # also what the disk did not take
            self._drain_at = now + self._settings.drain_interval_s

    def next_at(self) -> float | None:
        """Return when the next turn is due if nothing comes in before; None: not at all."""
        return self._drain_at

    def throttled_s(self, now: float) -> float:
        """Return 0: nobody holds it back."""
        return 0.0

    def end(self, error: RunleaseError, now: float) -> AppendStream | None:
        """Write what is left."""
        self.buffer.shelve()
        self.buffer.fail(error)
        self._spool.end(delivered=False)
        return None


class OfflineLog(LogThread):
    """The log of an offline run: what it acknowledges is on disk."""

    def __init__(self, name: str, settings: WriterSettings, spool: Spool) -> None:
        """Take what to call the run, pace, bounds and disk, and start the thread."""
        super().__init__(name, OfflineOutlet(settings, spool), settings=settings, spool=spool)
        self.start()


class OfflineSession(NoSession):
    """A run's calls besides its log, kept for the sync."""

    def __init__(self, spool: Spool) -> None:
        """Take the disk."""
        self._spool = spool

    def update(self, timeout_s: float, **changes: Any) -> None:
        """Keep changes of the record."""
        if not self._spool.update(update_request(**changes)):
            raise CoordinatorUnavailable(f"it cannot be written to {self._spool.path}")

    def release(self, outcome: str, timeout_s: float) -> bool:
        """Keep how the run ended."""
        return self._spool.outcome(outcome_symbol(outcome))


def offline_run(
    request: Request, this: Holder, keys: Sequence[str], config: dict[str, Any], on_finish: Callable[[Run], None]
) -> Run:
    """Start an offline segment of a run.

    Args:
        request: what `init` was asked for.
        this: this process.
        keys: automatic keys, for the sync; earlier segments are found by them, too.
        config: what `init` was given.
        on_finish: called when the run is finished.

    Raises:
        LeaseHeld: another process on this disk writes the run, or delivers it.
        RunExists: ``resume="never"``, and there are offline segments of it already.
        InvalidArgument: it starts from another run's history, which only the coordinator has.
        RunleaseError: the spool cannot be written.
    """
    _check_branches(request)
    if request.auto:
        request = replace(request, id=_found_by(keys, request) or request.id)
    folder = run_folder(request.directory, request.project, request.id)
    sessions = find_sessions(folder).sessions
    history = LocalHistory() if request.member else local_history(folder, sessions)
    _check_exclusive(request, sessions, history)
    start = request.resume_step if request.resume_step is not None else history.starting_step
    name = request.name or history.name or generate_name()
    writer: Log
    if request.member:
        lease = disabled_lease(request.project, request.id)
        writer, session = MutedLog(lease, "it is offline, where only the holder of a group logs"), NoSession()
    else:
        spool = _spool(request, this, keys, start, "" if history.segments else name)
        writer = OfflineLog(f"{request.project}/{request.id}", WriterSettings(), spool)
        lease, session = disabled_lease(request.project, request.id), OfflineSession(spool)
    return Run(
        project=request.project,
        id=request.id,
        name=name,
        resumed=bool(history.segments),
        previous_state=history.outcome,
        starting_step=start,
        attempt=history.segments + 1,
        checkpoint=_checkpoint(history, start),
        config=load_json(history.config) | config,
        summary=load_json(history.summary),
        member=request.member,
        auto_keys=keys,
        lease=lease,
        writer=writer,
        session=session,
        strict=request.strict,
        on_finish=on_finish,
    )


def _check_branches(request: Request) -> None:
    for field, point in (("fork_from", request.fork_from), ("resume_from", request.resume_from)):
        if point is not None:
            raise InvalidArgument(
                f"{field} needs the coordinator, which alone knows what {point.id!r} holds: start online, or start "
                "a run of its own offline and link it later (runlease link)",
                field=field,
            )


def _check_exclusive(request: Request, sessions: Sequence[Session], history: LocalHistory) -> None:
    path = f"{request.project}/{request.id}"
    for session in sessions:
        if not request.member and session.offline and session.locked:
            raise LeaseHeld(
                f"run {path} is being written offline, or delivered, by another process: {session.path} is locked; "
                "wait for its end, or give another id=",
                project=request.project,
                run_id=request.id,
            )
    if request.resume == "never" and history.segments:
        raise RunExists(
            f'run {path} has {history.segments} offline segments on this disk: resume="allow" goes on with it',
            project=request.project,
            run_id=request.id,
        )


def _found_by(keys: Sequence[str], request: Request) -> str | None:
    """Return the run that earlier offline segments with one of the keys belong to; a finished one is left alone."""
    folder = request.directory / FOLDER / request.project
    runs = [
        (session.header.created, tuple(session.header.acquire.auto_keys), session.outcome or "", session.header.run.id)
        for session in find_sessions(folder).sessions
        if session.offline
    ]
    runs += [(known.created, known.auto_keys, known.outcome, known.run_id) for known in known_runs(folder)]
    for _, its_keys, outcome, run_id in sorted(runs, key=lambda run: run[0], reverse=True):
        if not set(keys).isdisjoint(its_keys):
            return None if outcome == "finished" else run_id
    return None


def _spool(request: Request, this: Holder, keys: Sequence[str], start: int, name: str) -> Spool:
    acquire = acquire_request(request, this, keys)
    acquire.resume_step = start
    acquire.name = request.name or name
    acquire.ClearField("holder")  # who delivers it holds it then
    header = new_header(request.project, request.id, this, writer=MAIN_WRITER, starting_step=start, acquire=acquire)
    spool = Spool(request.directory, header, always=request.spool == "always", max_bytes=WriterSettings().spool_bytes)
    if not spool.make():
        raise RunleaseError(
            f'mode="{request.mode}" without a coordinator writes to {spool.path}, which cannot be made: '
            "set RUNLEASE_DIR to a directory that can be written",
            project=request.project,
            run_id=request.id,
        )
    return spool


def _checkpoint(history: LocalHistory, start: int) -> Checkpoint | None:
    found = history.checkpoint_below(start)
    if found is None:
        return None
    commit = found.read()
    return Checkpoint(
        step=commit.step,
        uri=commit.uri,
        metadata=load_json(commit.metadata),
        fence=0,
        attempt=found.segment,
        committed_s=found.created,
        superseded=False,
        writer=MAIN_WRITER,
    )


def entry_line(run: Run, request: Request) -> str:
    """Return what an offline start says: where it writes, and how that is delivered."""
    what = (
        f"resuming run {run.id} ({run.name}) at step {run.starting_step}"
        if run.resumed
        else (f"starting run {run.id} ({run.name})")
    )
    folder = run_folder(request.directory, run.project, canonical_id(run.id))
    return f"runlease: offline: {what}, in {folder}; deliver it later: runlease sync {folder}"


def warn_of_fallback(request: Request, error: CoordinatorUnavailable) -> None:
    """Say that a run of mode online-or-offline goes on without its coordinator."""
    log.warning(
        "runlease: %s/%s starts offline, without a lease, since the coordinator cannot be reached: %s",
        request.project,
        request.id,
        error,
    )
