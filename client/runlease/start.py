"""`init`: acquire a run's lease and return the `Run` to write through."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import tenacity

import runlease
from runlease import exits
from runlease.channel import Caller, close_channel, coordinator_address, credentials, open_channel
from runlease.client import Grant, grant_of, milliseconds, outcome_symbol, run_ref
from runlease.clock import suspend_aware
from runlease.disabled import DisabledLog, disabled_lease
from runlease.exceptions import CoordinatorUnavailable, LeaseHeld, LeaseLost, RunNotFound, StaleFence
from runlease.holder import this_process
from runlease.ids import MAIN_WRITER, canonical_id
from runlease.lease import Lease, Renewer
from runlease.leasestate import LeaseMachine, Loss
from runlease.names import generate_name
from runlease.records import holder_message
from runlease.request import DEFAULT_TTL_S, RESUME_MODES, Request, resolve
from runlease.runs import Run
from runlease.settings import read_environment
from runlease.v1 import leases_pb2, leases_pb2_grpc, runs_pb2, runs_pb2_grpc
from runlease.writer import LogWriter

log = logging.getLogger("runlease")

#: A grant that took longer than this part of its ttl to arrive is confirmed before it is believed.
_CONFIRM_AFTER = 1 / 6


def init(
    project: str | None = None,
    id: str | None = None,
    *,
    resume: str | bool | None = None,
    resume_step: int | None = None,
    name: str | None = None,
    notes: str | None = None,
    tags: Sequence[str] | None = None,
    config: Mapping[str, Any] | None = None,
    wait: float | None = None,
    connect_timeout: float | None = None,
    ttl: float | None = None,
    on_lost: str | Callable[[LeaseLost], None] = "raise",
    mode: str | None = None,
    strict: bool = False,
    coordinator: str | None = None,
    token: str | None = None,
) -> Run:
    """Acquire a run and return its handle; use it as a context manager.

    Args:
        project: namespace; default `RUNLEASE_PROJECT`, `WANDB_PROJECT`, else ``default``.
        id: the run's ID; default `RUNLEASE_RUN_ID`, `WANDB_RUN_ID`, else generated.
        resume: ``never`` (the default: the run must be new), ``allow`` (create or resume), ``must`` (resume only),
            ``auto`` or True, or the ID of a run that must exist. Default `RUNLEASE_RESUME`, `WANDB_RESUME`.
        resume_step: the next step to log, where you know better than the checkpoints.
        name: for people; generated for a new run.
        notes: free text; not given leaves the run's notes alone, as for tags.
        tags: words to find the run by.
        config: JSON values by top-level key, merged over what the run has.
        wait: seconds to wait while another process holds the run; default 0. Lock-delay is always waited out.
        connect_timeout: seconds to try while the coordinator is away; default 120.
        ttl: seconds after which the lease expires if this process dies; 5 up to the coordinator's maximum, default 30.
        on_lost: ``raise`` (LeaseLost from the next call), ``terminate`` (SIGTERM to this process, SIGKILL after 30 s)
            or a callable that gets the LeaseLost.
        mode: ``online`` or ``disabled`` (same API, no server, nothing written); default `RUNLEASE_MODE`.
        strict: raise for values that are no numbers, instead of leaving them out.
        coordinator: ``HOST:PORT``, several with commas; default `RUNLEASE_COORDINATOR`, else localhost:7373.
        token: sent with every call; default `RUNLEASE_TOKEN`.

    Raises:
        LeaseHeld: another process holds the run; the message names it.
        RunExists, RunNotFound, RunDeleted, RunIdCollision: as the resume mode says.
        InvalidArgument: a value is malformed.
        CoordinatorUnavailable: nobody answered in time.
    """
    environment = read_environment()
    request = resolve(
        environment,
        project=project,
        id=id,
        resume=resume,
        resume_step=resume_step,
        name=name,
        notes=notes,
        tags=tags,
        config=config,
        wait=wait,
        connect_timeout=connect_timeout,
        ttl=ttl,
        on_lost=on_lost,
        mode=mode,
        strict=strict,
    )
    if request.mode == "disabled":
        return _enter(_disabled_run(request, config or {}))
    for run in exits.active():
        if (run.project, canonical_id(run.id)) == (request.project, canonical_id(request.id)):
            return run  # the same run again in one process is the same handle
    address, metadata = coordinator_address(coordinator), credentials(token)
    run = _online_run(request, address, metadata)
    os.environ["RUNLEASE_FENCE"] = str(run.fence)
    if not environment.silent:
        print(_entry_line(run), file=sys.stderr, flush=True)
    return _enter(run)


def _enter(run: Run) -> Run:
    exits.watch(run)
    runlease.run = run
    return run


def _leave(run: Run) -> None:
    if runlease.run is run:
        runlease.run = None


def _entry_line(run: Run) -> str:
    who = f"{run.id} ({run.name})"
    if not run.resumed:
        return f"runlease: starting new run {who}"
    line = f"runlease: resuming run {who} at step {run.starting_step}, attempt {run.attempt}"
    notes = []
    if run.checkpoint and run.starting_step != run.checkpoint.step + 1:
        notes.append(f"{run.starting_step - run.checkpoint.step - 1} steps after its checkpoint")
    if run.previous_state == "finished":
        notes.append("it had finished")
    return line + (f" ({', '.join(notes)})" if notes else "")


def _disabled_run(request: Request, config: Mapping[str, Any]) -> Run:
    return Run(
        project=request.project,
        id=request.id,
        name=request.name or generate_name(),
        resumed=False,
        previous_state="",
        starting_step=request.resume_step or 0,
        attempt=1,
        fence=0,
        checkpoint=None,
        config=config,
        summary={},
        lease=disabled_lease(request.project, request.id),
        writer=DisabledLog(),
        session=_NoSession(),
        strict=request.strict,
        on_finish=_leave,
    )


def _online_run(request: Request, address: str, metadata: Sequence[tuple[str, str]]) -> Run:
    channel = open_channel(address)
    try:
        grant, sent_at, took_s = _acquire(request, channel, address, metadata)
    except BaseException:
        channel.close()
        raise
    machine = LeaseMachine(grant.ttl_s, sent_at, grant.remaining_s)
    lease = Lease(request.project, request.id, grant.fence, machine, request.on_lost)
    renewer = Renewer(lease, address, metadata)
    if took_s > grant.ttl_s * _CONFIRM_AFTER:
        renewer.renew()
        lease.check()
    renewer.start()
    writer = LogWriter(
        channel,
        request.project,
        request.id,
        grant.fence,
        writer=MAIN_WRITER,
        metadata=metadata,
        on_stale=lambda error: _stale_log(lease, renewer, error),
    )
    return Run(
        project=grant.run.project,
        id=grant.run.id,
        name=grant.run.name,
        resumed=grant.resumed,
        previous_state=grant.previous_state,
        starting_step=grant.starting_step,
        attempt=grant.attempt,
        fence=grant.fence,
        checkpoint=grant.checkpoint,
        config=grant.run.config,
        summary=grant.run.summary,
        lease=lease,
        writer=writer,
        session=OnlineSession(lease, renewer, channel, address, metadata),
        strict=request.strict,
        on_finish=_leave,
    )


def _stale_log(lease: Lease, renewer: Renewer, error: runlease.RunleaseError) -> None:
    # Of a fence that is old the log's answer tells all; of anything else a renewal tells whether the lease is, too.
    if lease.lose_by(error) or not renewer.renew():
        return
    if isinstance(error, StaleFence):
        lease.lose(Loss("taken over", str(error)))
    else:
        log.error("runlease: nothing more of %s/%s is delivered: %s", lease.project, lease.run_id, error)


class OnlineSession:
    """The calls of a held run: update, release, and the end of its connections."""

    def __init__(
        self,
        lease: Lease,
        renewer: Renewer,
        channel: grpc.Channel,
        address: str,
        metadata: Sequence[tuple[str, str]],
    ) -> None:
        """Take the lease, what renews it, and the channel of everything else."""
        self._lease, self._renewer, self._channel = lease, renewer, channel
        self._address, self._metadata = address, metadata
        self._leases = leases_pb2_grpc.LeaseServiceStub(channel)
        self._runs = runs_pb2_grpc.RunServiceStub(channel)
        self._ref = run_ref(lease.project, lease.run_id)

    def _caller(self, timeout_s: float) -> Caller:
        return Caller(self._address, self._metadata, timeout_s=timeout_s)

    def update(self, timeout_s: float, **changes: Any) -> None:
        """Send changes of the record under the fence; same errors as `Client.update_run`."""
        tags = changes.pop("tags", None)
        request = runs_pb2.UpdateRunRequest(
            run=self._ref, fence=self._lease.fence, tags=None if tags is None else runs_pb2.Tags(tags=tags), **changes
        )
        self._caller(timeout_s)(self._runs.UpdateRun, request)

    def release(self, outcome: str, timeout_s: float) -> bool:
        """Stop renewing and release the lease; same errors as `Client.release`."""
        self._renewer.stop()
        request = leases_pb2.ReleaseRequest(run=self._ref, fence=self._lease.fence, outcome=outcome_symbol(outcome))
        self._caller(timeout_s)(self._leases.Release, request)
        return True

    def close(self) -> None:
        """Close the connections."""
        self._renewer.stop()
        close_channel(self._channel)


class _NoSession:
    def update(self, timeout_s: float, **changes: Any) -> None:
        """Do nothing."""

    def release(self, outcome: str, timeout_s: float) -> bool:
        """Return at once."""
        return True

    def close(self) -> None:
        """Do nothing."""


def _acquire(
    request: Request, channel: grpc.Channel, address: str, metadata: Sequence[tuple[str, str]]
) -> tuple[Grant, float, float]:
    """Acquire with retries; returns the grant, when its request was sent, and how long it took, in seconds."""
    contention = _Contention(request)
    call = Caller(address, metadata)
    stub = leases_pb2_grpc.LeaseServiceStub(channel)
    message = _message(request)

    def attempt() -> tuple[Grant, float, float]:
        sent_at = suspend_aware()
        try:
            response = call.once(stub.Acquire, message)
        except StaleFence:  # the attempt of an earlier try has ended meanwhile
            message.nonce = secrets.token_hex(16)
            raise
        except RunNotFound as error:
            modes = ", ".join(RESUME_MODES)
            what = (
                f"{request.id!r} is no mode ({modes}), so it names a run that must exist" if request.by_id else "must"
            )
            raise RunNotFound(
                f'run {request.project}/{request.id} does not exist (resume={what}); resume="allow" creates it',
                project=request.project,
                run_id=request.id,
            ) from error
        return grant_of(response.grant), sent_at, suspend_aware() - sent_at

    retrying = tenacity.Retrying(
        retry=contention.worth_another_try, wait=contention.pause, stop=tenacity.stop_never, reraise=True
    )
    return retrying(attempt)


def _message(request: Request) -> leases_pb2.AcquireRequest:
    return leases_pb2.AcquireRequest(
        run=run_ref(request.project, request.id),
        mode=f"RESUME_MODE_{request.resume.upper()}",
        nonce=secrets.token_hex(16),
        ttl_ms=milliseconds(request.ttl_s or DEFAULT_TTL_S, "ttl") if request.ttl_s else 0,
        holder=holder_message(this_process()),
        resume_step=request.resume_step,
        name=request.name or "",
        notes=request.notes,
        tags=None if request.tags is None else runs_pb2.Tags(tags=request.tags),
        config=request.config,
    )


class _Contention:
    """When another try for a lease is worth it, and after which pause (tenacity's hooks)."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._held_until: float | None = None
        self._away_until: float | None = None
        self._said = False
        self._backoff = tenacity.wait_random_exponential(multiplier=0.1, max=2.0)

    def worth_another_try(self, state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        now = time.monotonic()
        if isinstance(error, LeaseHeld):
            self._away_until = None
            if self._held_until is None:
                self._held_until = now + self._request.wait_s
            self._say(error)
            return error.in_lock_delay or now < self._held_until
        if isinstance(error, CoordinatorUnavailable):
            if self._away_until is None:
                self._away_until = now + self._request.connect_timeout_s
            return now < self._away_until
        return isinstance(error, StaleFence)

    def pause(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        backoff = self._backoff(state)
        until = self._held_until if isinstance(error, LeaseHeld) else self._away_until
        left = max(0.0, until - time.monotonic()) if until is not None else backoff
        if isinstance(error, LeaseHeld):
            # At the moment when the lease can be free at the earliest, or sooner: its holder may release it.
            soon = error.retry_after_s + 0.05 if error.in_lock_delay else min(error.retry_after_s + 0.05, 0.5 + backoff)
            return soon if error.in_lock_delay else min(soon, left)
        if isinstance(error, CoordinatorUnavailable):
            return min(max(backoff, error.retry_after_s), left)
        return 0.0

    def _say(self, error: LeaseHeld) -> None:
        if self._said or not (error.in_lock_delay or self._request.wait_s) or read_environment().silent:
            return
        self._said = True
        what = "in lock-delay" if error.in_lock_delay else f"held by {error.holder}"
        path = f"{error.project}/{error.run_id}"
        print(f"runlease: waiting for {path}, {what}, {error.retry_after_s:.0f} s left", file=sys.stderr, flush=True)
