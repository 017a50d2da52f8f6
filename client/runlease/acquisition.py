"""Acquiring a lease: retries while the coordinator is away, waits its turn, proves a dead holder dead."""

from __future__ import annotations

import random
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import tenacity

from runlease.channel import CALL_TIMEOUT_S, Caller
from runlease.client import milliseconds, run_ref
from runlease.clock import suspend_aware
from runlease.exceptions import CoordinatorUnavailable, LeaseHeld, RunNotFound, StaleFence, Throttled
from runlease.grants import Grant, grant_of
from runlease.holder import Holder
from runlease.liveness import is_dead
from runlease.records import holder_message
from runlease.request import RESUME_MODES, Request
from runlease.settings import read_environment
from runlease.v1 import leases_pb2, leases_pb2_grpc, runs_pb2

#: One call waits on the server for at most this long (the API's bound is 20 s).
_WAIT_A_CALL_S = 20.0
#: Where the holder is on this machine a call is shorter: between calls we look whether it still lives.
_WAIT_BESIDE_HOLDER_S = 2.0
#: Beyond ttl and lock-delay, where somebody of our own job holds the run.
_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Acquired:
    """A grant, when its request was sent by the suspend-aware clock, how long its answer took, in seconds.

    ``wish`` is the request.
    """

    grant: Grant
    sent_at: float
    took_s: float
    wish: leases_pb2.AcquireRequest


class PatientAcquirer:
    """One way to a lease; a retry carries the nonce of the try before."""

    #: Whether a nonce whose attempt has ended is followed by another try, as somebody else.
    _takes_new_nonces = False

    def __init__(
        self,
        message: leases_pb2.AcquireRequest,
        this: Holder,
        channel: grpc.Channel,
        address: str,
        metadata: Sequence[tuple[str, str]],
        *,
        wait_s: float | None,
        connect_timeout_s: float,
    ) -> None:
        """Take the wish, who wishes, the way to the coordinator, and how long to wait for others and for it.

        ``wait_s`` None means the default, which depends on who holds the run.
        """
        self._message = message
        self._this = this
        self._call = Caller(address, metadata)
        self._stub = leases_pb2_grpc.LeaseServiceStub(channel)
        self._wait_s, self._connect_timeout_s = wait_s, connect_timeout_s
        self._started = time.monotonic()
        self._held_until: float | None = None if wait_s is None else self._started + wait_s
        self._away_until: float | None = None
        self._throttled_until: float | None = None
        self._disproved: set[int] = set()
        self._said: tuple[object, ...] = ()
        self._backoff = tenacity.wait_random_exponential(multiplier=0.1, max=2.0)

    def acquire(self) -> Acquired:
        """Acquire the lease.

        Raises:
            LeaseHeld: not within the time that the request may wait; the message names the holder.
            StaleFence: the attempt of the request's own nonce has ended (`init` takes another one).
            Throttled: the project's processes acquired too fast, all the time.
            RunExists, RunNotFound, RunDeleted, RunIdCollision: as the resume mode says.
            CoordinatorUnavailable: nobody answered in time.
        """
        wait_s = self._connect_timeout_s if self._message.member else 0.0
        if self._wait_s is not None:
            wait_s = self._wait_s
        if wait_s:
            # The first look is short: its holder may be dead, on this machine, and people want to know who it is.
            self._plan_wait(wait_s, local=True)
        retrying = tenacity.Retrying(
            retry=self._worth_another_try, wait=self._pause, stop=tenacity.stop_never, reraise=True
        )
        return retrying(self._try)

    def _try(self) -> Acquired:
        sent_at = suspend_aware()
        timeout_s = CALL_TIMEOUT_S + self._message.wait_ms / 1000
        try:
            response = self._call.once(self._stub.Acquire, self._message, timeout_s)
        except StaleFence:  # the attempt of an earlier try has ended meanwhile
            if self._takes_new_nonces:
                self._message.nonce = secrets.token_hex(16)
            raise
        except RunNotFound as error:
            raise self._not_found(error) from error
        return Acquired(grant_of(response.grant), sent_at, suspend_aware() - sent_at, self._message)

    def _not_found(self, error: RunNotFound) -> RunNotFound:
        return error

    def _worth_another_try(self, state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        now = time.monotonic()
        if isinstance(error, LeaseHeld):
            self._away_until = None
            return self._prove_dead(error) or self._wait_on(error, now)
        if isinstance(error, CoordinatorUnavailable):
            if self._away_until is None:
                self._away_until = now + self._connect_timeout_s
            if now >= self._away_until:
                return False
            self._say_away(error, self._away_until - now)
            return True
        if isinstance(error, Throttled):
            if self._throttled_until is None:
                self._throttled_until = now + max(self._connect_timeout_s, self._wait_s or 0.0)
            return now < self._throttled_until
        return isinstance(error, StaleFence) and self._takes_new_nonces

    def _prove_dead(self, error: LeaseHeld) -> bool:
        """Say with the next try that the holder is dead, if we can tell; once for each of its leases."""
        holder = error.holder
        self._message.ClearField("proof_of_death")
        if holder is None or error.fence in self._disproved or not is_dead(holder, self._this):
            return False
        self._disproved.add(error.fence)
        self._message.proof_of_death.CopyFrom(
            leases_pb2.ProofOfDeath(
                fence=error.fence,
                boot_id=holder.boot_id,
                pid_namespace=holder.pid_namespace,
                pid=holder.pid,
                process_started=holder.process_started,
            )
        )
        return True

    def _wait_on(self, error: LeaseHeld, now: float) -> bool:
        if self._held_until is None:
            self._held_until = self._started + self._default_wait_s(error)
        left_s = self._held_until - now
        if error.in_lock_delay:  # always waited out
            left_s = max(left_s, error.retry_after_s + 1.0)
        gives_up = left_s <= 0
        if gives_up and (not error.place or self._message.last_call):
            return False
        holder = error.holder
        self._plan_wait(left_s, local=holder is not None and holder.boot_id == self._this.boot_id != "")
        # A look of its own gives the place up, which others would wait for. No call before it does: a lock-delay may
        # follow, and it is waited out in this place.
        self._message.last_call = gives_up
        self._say(error)
        return True

    def _default_wait_s(self, error: LeaseHeld) -> float:
        return error.ttl_s + error.lock_delay_s + _GRACE_S

    def _plan_wait(self, left_s: float, *, local: bool) -> None:
        call_s = min(left_s, _WAIT_BESIDE_HOLDER_S if local else _WAIT_A_CALL_S)
        self._message.wait_ms = milliseconds(max(0.001, call_s), "wait")

    def _pause(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Throttled):  # jitter, or all that were refused come back at once
            return error.retry_after_s * random.Random().uniform(
                1.0, 1.5
            )  # the global one is the training's, and seeded
        if not isinstance(error, CoordinatorUnavailable):  # the server waits for us
            return 0.0
        left_s = max(0.0, self._away_until - time.monotonic()) if self._away_until is not None else 0.0
        return min(max(self._backoff(state), error.retry_after_s), left_s)

    def _say(self, error: LeaseHeld) -> None:
        """Tell a person what is waited for, whenever that changes."""
        shown = (error.reason, error.fence, error.place)
        if shown == self._said or read_environment().silent:
            return
        self._said = shown
        path = f"{error.project}/{error.run_id}"
        since = time.strftime("%H:%M:%S", time.localtime(error.since_s))
        match error.reason:
            case "LEASE_HELD":
                what = f"held by {error.holder} since {since}, {error.retry_after_s:.0f} s left"
            case "LOCK_DELAY":
                what = f"in lock-delay for {error.retry_after_s:.0f} s, its holder {error.holder} did not release it"
            case "LEASE_QUEUED":
                what = "free, but others wait for it"
            case _:
                what = "the process of this group that shall hold it has not started it yet"
        place = f", place {error.place}" if error.place else ""
        print(f"runlease: waiting for {path}, {what}{place}", file=sys.stderr, flush=True)

    def _say_away(self, error: CoordinatorUnavailable, left_s: float) -> None:
        """Tell a person why nothing happens, once for each reason: a quarantine may last longer than their patience."""
        if (error.reason,) == self._said or read_environment().silent:
            return
        self._said = (error.reason,)
        print(f"runlease: trying again, for up to {left_s:.0f} s: {error}", file=sys.stderr, flush=True)


class Acquirer(PatientAcquirer):
    """One `init`'s way to its lease."""

    _takes_new_nonces = True

    def __init__(
        self,
        request: Request,
        this: Holder,
        auto_keys: Sequence[str],
        channel: grpc.Channel,
        address: str,
        metadata: Sequence[tuple[str, str]],
    ) -> None:
        """Take the wish, who wishes, the automatic keys to bind or to search by, and the way to the coordinator."""
        message, patience_s = acquire_request(request, this, auto_keys), request.connect_timeout_s
        super().__init__(message, this, channel, address, metadata, wait_s=request.wait_s, connect_timeout_s=patience_s)
        self._request = request

    def _not_found(self, error: RunNotFound) -> RunNotFound:
        request = self._request
        if request.fork_from is not None:
            return error
        no_mode = f"{request.id!r} is no mode ({', '.join(RESUME_MODES)}), so it names a run that must exist"
        how = "resume_from" if request.resume_from else f"resume={no_mode if request.by_id else 'must'}"
        return RunNotFound(
            f'run {request.project}/{request.id} does not exist ({how}); resume="allow" creates it',
            project=request.project,
            run_id=request.id,
        )

    def _default_wait_s(self, error: LeaseHeld) -> float:
        request, holder = self._request, error.holder
        if error.reason == "NO_HOLDER":
            return request.connect_timeout_s
        ours = holder is not None and (
            (holder.job_id != "" and holder.job_id == request.job_id)
            or (holder.group != "" and holder.group == request.group)
        )
        return super()._default_wait_s(error) if ours or request.resume == "auto" else 0.0


def acquire_request(request: Request, this: Holder, auto_keys: Sequence[str]) -> leases_pb2.AcquireRequest:
    """Return the message that asks for what `init` was asked for, under a nonce of its own."""
    rewind, fork = request.resume_from, request.fork_from
    return leases_pb2.AcquireRequest(
        run=run_ref(request.project, request.id),
        mode=f"RESUME_MODE_{request.resume.upper()}",
        nonce=secrets.token_hex(16),
        ttl_ms=milliseconds(request.ttl_s, "ttl") if request.ttl_s else 0,
        holder=holder_message(this),
        resume_step=request.resume_step,
        resume_from=leases_pb2.HistoryPoint(id=rewind.id, step=rewind.step) if rewind else None,
        fork_from=leases_pb2.HistoryPoint(id=fork.id, step=fork.step) if fork else None,
        name=request.name or "",
        notes=request.notes,
        tags=None if request.tags is None else runs_pb2.Tags(tags=request.tags),
        config=request.config,
        auto_keys=auto_keys,
        # The one that shall hold starts the run that the others find.
        auto_search=request.auto or (request.shares_id and not request.holds),
        member=request.member,
        holds=request.holds,
    )
