"""`Client`: the coordinator's calls as typed methods, for tools and for other SDK parts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any
from weakref import WeakSet

from runlease.channel import Caller, coordinator_address, credentials, open_channel
from runlease.exceptions import InvalidArgument, RunleaseError
from runlease.grants import Grant, Renewal, grant_of
from runlease.history import History, PageStream, history_of, history_request
from runlease.holder import this_process
from runlease.ids import canonical_id, check_project
from runlease.limits import Limits, check_owner, limits_change, limits_of
from runlease.records import (
    OUTCOMES,
    STATES,
    RunRecord,
    dump_json,
    holder_message,
    run_of,
    state_name,
    state_symbol,
)
from runlease.v1 import leases_pb2, leases_pb2_grpc, metrics_pb2, metrics_pb2_grpc, runs_pb2, runs_pb2_grpc
from runlease.watch import FROM_THE_START, EventStream

RESUME_MODES = ("never", "allow", "must", "auto")
_READ_TIMEOUT_S = 600.0
#: Runs of one call of a listing: few at first, since most callers look at the newest only.
_FIRST_PAGE, _PAGE = 100, 500


class Client:
    """Calls of one coordinator. Thread-safe; a context manager that closes its connection.

    Every method raises the exceptions of `runlease.exceptions`: InvalidArgument for a malformed value,
    CoordinatorUnavailable where nobody answers within ``timeout_s``, and what its own line says.
    """

    def __init__(self, coordinator: str | None = None, token: str | None = None, *, timeout_s: float = 10.0) -> None:
        """Connect lazily.

        Args:
            coordinator: ``HOST:PORT``, several with commas, or a gRPC target; default `RUNLEASE_COORDINATOR`, else
                localhost:7373.
            token: sent with every call; default `RUNLEASE_TOKEN`.
            timeout_s: how long to try in all while the coordinator is away, in seconds.
        """
        self.coordinator = coordinator_address(coordinator)
        self._channel = open_channel(self.coordinator)
        self._call = Caller(self.coordinator, credentials(token), timeout_s=timeout_s)
        self._leases = leases_pb2_grpc.LeaseServiceStub(self._channel)
        self._runs = runs_pb2_grpc.RunServiceStub(self._channel)
        self._metrics = metrics_pb2_grpc.MetricServiceStub(self._channel)
        self._streams: WeakSet[EventStream] = WeakSet()

    def __enter__(self) -> Client:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection; events end."""
        for stream in list(self._streams):
            stream.close()
        self._channel.close()

    def acquire(
        self,
        project: str,
        id: str,
        *,
        nonce: str,
        resume: str = "never",
        ttl_s: float | None = None,
        resume_step: int | None = None,
        name: str | None = None,
        notes: str | None = None,
        tags: Sequence[str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Grant:
        """Acquire a run's lease, without renewing it; a retry with the same nonce returns the same grant.

        Raises:
            RunExists, LeaseHeld, RunNotFound, RunDeleted, RunIdCollision: as the resume mode says.
            StaleFence: the nonce's attempt has ended.
        """
        if resume not in RESUME_MODES:
            raise InvalidArgument(f"resume={resume!r}: one of {', '.join(RESUME_MODES)}", field="resume")
        request = leases_pb2.AcquireRequest(
            run=run_ref(project, id),
            mode=f"RESUME_MODE_{resume.upper()}",
            nonce=nonce,
            ttl_ms=0 if ttl_s is None else milliseconds(ttl_s, "ttl"),
            holder=holder_message(this_process()),
            resume_step=resume_step,
            name=name or "",
            notes=notes,
            tags=None if tags is None else runs_pb2.Tags(tags=tags),
            config=dump_json(config or {}),
        )
        return grant_of(self._call(self._leases.Acquire, request).grant)

    def renew(
        self, project: str, id: str, fence: int, *, held_by_own_clock: bool = False, incarnation: str = ""
    ) -> Renewal:
        """Extend a lease by its ttl.

        ``incarnation`` is that of the grant or of the last renewal: after a loss of the store's data only who names the
        present one, and holds the lease by its own clock, is believed.

        Raises:
            CoordinatorUnavailable: ``UNCONFIRMED`` where the store has lost data; ``.incarnation`` is the new one.
            StaleFence: a newer fence was granted, or the attempt has ended.
            RunDeleted: the run was deleted.
        """
        request = leases_pb2.RenewRequest(
            run=run_ref(project, id), fence=fence, held_by_own_clock=held_by_own_clock, incarnation=incarnation
        )
        response = self._call(self._leases.Renew, request)
        return Renewal(response.remaining_ms / 1000, response.reinstated, response.incarnation, response.fence)

    def release(self, project: str, id: str, fence: int, outcome: str = "finished") -> str:
        """End an attempt; returns the outcome as recorded. Idempotent.

        Raises:
            StaleFence: a newer fence was granted and this one's attempt was not released.
        """
        request = leases_pb2.ReleaseRequest(run=run_ref(project, id), fence=fence, outcome=outcome_symbol(outcome))
        return state_name(self._call(self._leases.Release, request).outcome)

    def get_run(self, project: str, id: str) -> RunRecord:
        """Read a run with its attempts and checkpoints.

        Raises:
            RunNotFound: there is none.
        """
        return run_of(self._call(self._runs.GetRun, runs_pb2.GetRunRequest(run=run_ref(project, id))).run)

    def list_runs(
        self,
        project: str | None = None,
        *,
        states: Iterable[str] = (),
        tags: Iterable[str] = (),
        text: str = "",
        host: str = "",
    ) -> Iterator[RunRecord]:
        """Yield runs, most recently updated first, without attempts and checkpoints.

        Args:
            project: None: all projects.
            states: only runs in one of these states.
            tags: only runs that have all of these tags.
            text: only runs whose ID or name contains this.
            host: only runs whose last holder was on this host.
        """
        if project is not None:
            check_project(project)
        request = runs_pb2.ListRunsRequest(
            project=project or "",
            states=[_state_symbol(state) for state in states],
            tags=tags,
            text=text,
            host=host,
            page_size=_FIRST_PAGE,
        )
        while True:
            response = self._call(self._runs.ListRuns, request)
            yield from map(run_of, response.runs)
            if not response.next_page_token:
                return
            request.page_token, request.page_size = response.next_page_token, _PAGE

    def update_run(
        self,
        project: str,
        id: str,
        *,
        fence: int = 0,
        config: Mapping[str, Any] | None = None,
        summary: Mapping[str, Any] | None = None,
        notes: str | None = None,
        tags: Sequence[str] | None = None,
        name: str | None = None,
    ) -> RunRecord:
        """Change what people say about a run; None leaves a field alone, config and summary merge by top-level key.

        Raises:
            RunNotFound, RunDeleted.
            StaleFence: ``fence`` is given and no longer the run's.
        """
        request = runs_pb2.UpdateRunRequest(
            run=run_ref(project, id),
            fence=fence,
            config=dump_json(config or {}),
            summary=dump_json(summary or {}),
            notes=notes,
            name=name,
            tags=None if tags is None else runs_pb2.Tags(tags=tags),
        )
        return run_of(self._call(self._runs.UpdateRun, request).run)

    def break_lease(self, project: str, id: str, fence: int, *, reason: str, force: bool = False) -> int:
        """Take a lease away from its holder; returns the fence after that. Idempotent.

        Revoked, it is not renewed any more, and frees when it is released or expires. By force, the attempt ends at
        once under a new fence, and whatever its holder still sends is refused.

        Args:
            project: the project.
            id: the run's ID, in either form.
            fence: the fence of the lease that is meant.
            reason: why, not empty; recorded.
            force: at once.

        Raises:
            RunNotFound, RunDeleted.
            StaleFence: the run was granted since, or (``reason == "LEASE_FREE"``) nobody holds it.
        """
        request = leases_pb2.BreakRequest(run=run_ref(project, id), fence=fence, reason=reason, force=force)
        return self._call(self._leases.Break, request).fence

    def delete_run(self, project: str, id: str, fence: int, *, purge: bool = False, reason: str = "") -> None:
        """Delete a run as the caller saw it: with the fence that it had then. Idempotent.

        Args:
            project: the project.
            id: the run's ID, in either form.
            fence: the run's fence as the caller saw it.
            purge: remove a run that is deleted already, with its data, for good; its ID is free again.
            reason: why; recorded.

        Raises:
            RunNotFound: there is none; of a purge also after it was done.
            LeaseHeld: a live lease is held.
            StaleFence: the run was granted since.
            RunleaseError: a purge of a run that is not deleted, or whose history others show.
        """
        request = runs_pb2.DeleteRunRequest(run=run_ref(project, id), fence=fence, purge=purge, reason=reason)
        self._call(self._runs.DeleteRun, request)

    def undelete_run(self, project: str, id: str, *, reason: str = "") -> RunRecord:
        """Take a deletion back. Idempotent.

        Raises:
            RunNotFound: there is none, or it was purged.
        """
        request = runs_pb2.UndeleteRunRequest(run=run_ref(project, id), reason=reason)
        return run_of(self._call(self._runs.UndeleteRun, request).run)

    def link(self, project: str, id: str, continues: str, step: int | None = None) -> RunRecord:
        """Let a run show another one's history, as it stands now, before its own. Idempotent.

        Args:
            project: the project of both.
            id: the later run.
            continues: the earlier run.
            step: keep its history up to and including this step; None: all of it.

        Raises:
            RunNotFound, RunDeleted: of either run.
            InvalidArgument: the earlier run has not come to that step.
            RunleaseError: a cycle, or the later run continues another one already.
        """
        request = runs_pb2.LinkRequest(run=run_ref(project, id), continues_id=run_ref(project, continues).id, step=step)
        return run_of(self._call(self._runs.Link, request).run)

    def watch(
        self,
        project: str | None = None,
        id: str | None = None,
        after: str | None = None,
        *,
        on_broken: Callable[[RunleaseError], None] | None = None,
    ) -> EventStream:
        """Return an iterator of events as they come, from now on; a context manager that closes it.

        A stream that breaks is opened again where it ended, for as long as it takes. The iteration ends when it or
        the client is closed.

        Args:
            project: None: of all projects.
            id: None: of all runs of the project.
            after: begin behind an event: its ``cursor``.
            on_broken: called with the reason when the stream breaks.
        """
        return self._events(project, id, after or "", follow=True, on_broken=on_broken)

    def events(self, project: str | None = None, id: str | None = None) -> EventStream:
        """Return an iterator of the events that the coordinator still has (about 10 000 a partition), oldest first.

        Of all projects it goes partition by partition. Its ``cursor`` then lets `watch` go on where it ended.
        """
        return self._events(project, id, FROM_THE_START, follow=False)

    def _events(
        self,
        project: str | None,
        id: str | None,
        after: str,
        *,
        follow: bool,
        on_broken: Callable[[RunleaseError], None] | None = None,
    ) -> EventStream:
        if project is not None:
            check_project(project)
        if id is not None:
            canonical_id(id)
            if project is None:
                raise InvalidArgument("id= goes with project= only", field="project")
        stream = EventStream(
            self._runs.Watch,
            runs_pb2.WatchRequest(project=project or "", id=id or "", after=after),
            address=self.coordinator,
            metadata=self._call.metadata,
            timeout_s=self._call.timeout_s,
            follow=follow,
            on_broken=on_broken,
        )
        self._streams.add(stream)
        return stream

    def history(
        self,
        project: str,
        id: str,
        keys: Iterable[str] | None = None,
        min_step: int | None = None,
        max_step: int | None = None,
        max_points: int | None = None,
        superseded: bool = False,
        *,
        writers: Iterable[str] | None = None,
        key_patterns: Iterable[str] | None = None,
        after: str | None = None,
    ) -> History:
        """Read a run's history; steps are inclusive.

        Args:
            project: the project.
            id: the run's ID, in either form.
            keys: exact keys; None, without patterns: all.
            min_step: lowest step.
            max_step: highest step.
            max_points: at most so many points a series, minimum and maximum of each bucket of steps; None: raw.
            superseded: also the points that later attempts replaced.
            writers: None: the holder's, ``main``.
            key_patterns: keys that match, besides ``keys``: `*` is any characters, `/` too, `?` one.
            after: the ``cursor`` of an earlier read: only what came in since, each series in the order in which it did.

        Raises:
            RunNotFound: there is none.
        """
        request = history_request(
            run_ref(project, id),
            keys=keys,
            min_step=min_step,
            max_step=max_step,
            max_points=max_points,
            superseded=superseded,
            writers=writers,
            key_patterns=key_patterns,
            after=after,
        )
        return self._call(self._read_history, request)

    def history_pages(
        self,
        project: str,
        id: str,
        keys: Iterable[str] | None = None,
        *,
        page_points: int = 1_000_000,
        page_token: str = "",
        **options: Any,
    ) -> Iterator[History]:
        """Yield a history in parts of at most ``page_points`` points, by key, then step: for what memory cannot hold.

        All parts are of one moment. ``page_token`` goes on behind an earlier part, by its ``next_page_token``, also of
        another process; the rest must be asked for as it was then. ``options`` are those of `history`.

        Raises:
            RunNotFound: there is none.
            InvalidArgument: points expired while they were read.
        """
        request = history_request(run_ref(project, id), keys=keys, page_points=page_points, **options)
        request.page_token = page_token
        with contextlib.closing(PageStream(self._metrics.History, _READ_TIMEOUT_S)) as pages:
            while True:
                page: History = self._call(pages.read, request)
                yield page
                if not page.next_page_token:
                    return
                request.page_token = page.next_page_token  # where a new stream goes on if this one breaks

    def get_limits(self, project: str, id: str | None = None) -> Limits:
        """Read the rate limits in force for a project (None) or a run, defaults included.

        Raises:
            RunNotFound, RunDeleted: of the run.
        """
        check_owner(project, id)
        return limits_of(
            self._call(self._metrics.GetLimits, metrics_pb2.GetLimitsRequest(project=project, id=id)).limits
        )

    def set_limits(
        self,
        project: str,
        id: str | None = None,
        *,
        run_points: int | None = None,
        run_bytes: int | None = None,
        project_points: int | None = None,
        project_bytes: int | None = None,
        burst_s: float | None = None,
        acquires: int | None = None,
    ) -> Limits:
        """Set rate limits (see `Limits`) of a project (None) or a run, at once; None leaves one alone, 0 is unlimited.

        Returns those in force. A run has no project limits of its own, and follows its project where it has none.

        Raises:
            RunNotFound, RunDeleted: of the run.
        """
        check_owner(project, id)
        change = limits_change(
            run_points=run_points,
            run_bytes=run_bytes,
            project_points=project_points,
            project_bytes=project_bytes,
            burst_s=burst_s,
            acquires=acquires,
        )
        request = metrics_pb2.SetLimitsRequest(project=project, id=id, limits=change)
        return limits_of(self._call(self._metrics.SetLimits, request).limits)

    def _read_history(
        self, request: metrics_pb2.HistoryRequest, *, timeout: float, metadata: tuple[tuple[str, str], ...]
    ) -> History:
        # A long history takes longer than a call's deadline; a dead coordinator shows by keepalive.
        del timeout
        return history_of(self._metrics.History(request, timeout=_READ_TIMEOUT_S, metadata=metadata))


def run_ref(project: str, id: str) -> runs_pb2.RunRef:
    """Check a run's name and return the reference to it.

    Raises:
        InvalidArgument: the project or the ID is malformed.
    """
    check_project(project)
    canonical_id(id)
    return runs_pb2.RunRef(project=project, id=id)


def milliseconds(seconds: float, field: str) -> int:
    """Return a duration as the wire has it.

    Raises:
        InvalidArgument: no number, or not above zero and below a day.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 86_400:
        raise InvalidArgument(f"{field}={seconds!r}: give seconds above 0", field=field)
    return round(seconds * 1000)


def outcome_symbol(outcome: str) -> str:
    """Return the contract's name of an outcome.

    Raises:
        InvalidArgument: not one.
    """
    if outcome not in OUTCOMES:
        raise InvalidArgument(f"outcome={outcome!r}: one of {', '.join(OUTCOMES)}", field="outcome")
    return state_symbol(outcome)


def _state_symbol(state: str) -> str:
    if state not in STATES:
        raise InvalidArgument(f"state {state!r}: one of {', '.join(STATES)}", field="states")
    return state_symbol(state)
