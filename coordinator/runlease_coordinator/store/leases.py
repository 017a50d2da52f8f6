"""Leases in the store: acquire, renew, release, break."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import count
from secrets import token_hex
from typing import Any, NoReturn

from runlease.names import generate_name

from runlease_coordinator.domain.errors import (
    InvalidField,
    LeaseHeld,
    NoHolder,
    Overloaded,
    RunDeleted,
    RunExists,
    RunIdCollision,
    RunNotFound,
    Stale,
    Throttled,
    Unavailable,
    Unconfirmed,
)
from runlease_coordinator.domain.leases import Acquisition, Claim, Grant, Patience, Renewal
from runlease_coordinator.domain.limits import ACQUIRES_BURST_S, BOUNDS, DEFAULTS, Bounds
from runlease_coordinator.domain.runs import Holder, RunState
from runlease_coordinator.store.keys import RunKeys, run_keys
from runlease_coordinator.store.limits import limit_reached
from runlease_coordinator.store.records import changes_of, checkpoint_of, fields_of, holder_list, run_of
from runlease_coordinator.store.store import Store
from runlease_coordinator.store.wakeups import Waiter, Wakeups

#: A place in a queue lives this long past its call's last refresh; a call refreshes it about three times as often.
PLACE_LIFE_US = 10_000_000
_REFRESH_S = 3.0
#: Automatic keys that nobody came back with are forgotten after 30 days.
AUTO_KEY_LIFE_US = 30 * 86_400 * 1_000_000
_REBINDS_AT_MOST = 5
#: Requests for a lease that reached the store later than its clock can be judged by, one after the other.
_CLOCK_TRIES = 3


class _Rebound(Exception):
    """Another process has bound the automatic keys meanwhile."""


class LeaseStore:
    """The lease operations, one script each."""

    def __init__(self, store: Store, wakeups: Wakeups, lock_delay_us: int, bounds: Bounds = BOUNDS) -> None:
        """Take the store, its wake-ups, how long an expired run stays closed to others (us), how much there may be."""
        self._store = store
        self._bounds = bounds
        self._bounds_given = asdict(bounds)
        self._wakeups = wakeups
        self._lock_delay_us = lock_delay_us
        prefix = token_hex(4)
        self._calls = (f"{prefix}.{number}" for number in count())
        self._cleanups: set[asyncio.Task[bool]] = set()
        self._draining = False

    def drain(self) -> None:
        """Let those who wait go: they come back, here or elsewhere, and keep their places."""
        self._draining = True
        self._wakeups.wake_all()

    async def acquire(self, wish: Acquisition, patience: Patience = Patience()) -> Grant:  # noqa: B008 - immutable
        """Decide the resume and grant the lease, in one round trip; or wait for it, first come, first served.

        Raises:
            RunExists, LeaseHeld, NoHolder, RunNotFound, RunDeleted, RunIdCollision: as the decision table says.
            BadBranch, InvalidField: what ``fork`` or ``rewinds`` names is not there.
            Stale: the nonce's attempt has ended.
            Throttled: the project acquires too fast.
            LimitReached, Overloaded: there are too many of something; too many wait.
            Unavailable: the store cannot decide now.
        """
        request = self._request(wish, next(self._calls))
        for _ in range(_REBINDS_AT_MOST):
            keys, found = await self._choose(wish)
            try:
                return await self._acquire(wish, keys, found, request, patience)
            except _Rebound:
                continue
        raise Unavailable("REBOUND", "other processes keep binding the same automatic keys: try again")

    async def _choose(self, wish: Acquisition) -> tuple[RunKeys, str]:
        """Return the run to ask for, and the automatic key that chose it, if one did."""
        if wish.auto_search:
            found, run_id = await self._store.resolve_auto(wish.project, wish.auto_keys)
            if found:
                return run_keys(wish.project, run_id), found
        return run_keys(wish.project, wish.canonical_id), ""

    async def _acquire(
        self, wish: Acquisition, keys: RunKeys, found: str, request: dict[str, Any], patience: Patience
    ) -> Grant:
        call = request["call"]
        request |= {"typed": wish.id, "id": wish.canonical_id}
        request.pop("auto_found", None)
        if found:
            request |= {"auto_found": found, "typed": keys.canonical_id, "id": keys.canonical_id}
        if patience.wait_us:
            request["wait"] = PLACE_LIFE_US
        try:
            if not patience.wait_us:
                return await self._try(wish, keys, request)
            return await self._wait(wish, keys, request, patience)
        except asyncio.CancelledError:  # the caller is gone
            self._abandon(keys, wish, call)
            raise
        except (LeaseHeld, NoHolder, _Rebound) as refusal:
            if patience.wait_us and (patience.last or isinstance(refusal, _Rebound)):
                self._abandon(keys, wish, call)
            raise

    async def _wait(self, wish: Acquisition, keys: RunKeys, request: dict[str, Any], patience: Patience) -> Grant:
        deadline = time.monotonic() + patience.wait_us / 1e6
        # Members that search by their group's key wait for the run that it will be bound to.
        topics = (keys.path, f"{wish.project}/*") if wish.auto_search else (keys.path,)
        with self._wakeups.waiting(topics, wish.nonce) as waiter:
            while True:
                waiter.clear()
                try:
                    return await self._try(wish, keys, request)
                except (LeaseHeld, NoHolder) as refusal:
                    if self._draining:
                        raise Unavailable("DRAINING", "this coordinator is stopping: call again", 50) from None
                    left_s = deadline - time.monotonic()
                    if left_s <= 0:
                        raise
                    await _sleep(waiter, refusal, left_s)

    async def _try(self, wish: Acquisition, keys: RunKeys, request: dict[str, Any]) -> Grant:
        request["latest"] = self._store.clock_of(wish.project).latest_us()
        verdict, rest = await self._guarded(
            "acquire",
            _acquire_keys(keys, wish),
            lambda guard_us: (json.dumps(request | {"guard": guard_us}),),
        )
        request.pop("acquires", None)  # of one call only the first look counts
        if verdict == "REBOUND":
            raise _Rebound
        if verdict not in ("GRANTED", "MEMBER"):
            self._refuse(verdict, rest, wish, keys)
        return _grant(verdict, rest, keys)

    async def _guarded(
        self, script: str, keys: tuple[str, ...], args: Callable[[int], tuple[Any, ...]]
    ) -> tuple[str, Sequence[Any]]:
        """Run a script that may grant; ``args`` gets the latest TIME at which it may, as the clock's guard believes."""
        meta = keys[0]
        for _ in range(_CLOCK_TRIES):
            verdict, rest = await self._store.run(script, keys, args(self._store.believable_us(meta)))
            if verdict != "CLOCK":
                return verdict, rest
            await self._store.judge_clock(meta)
        raise Unavailable("CLOCK", "requests reach the store too slowly to judge its clock: try again")

    def _request(self, wish: Acquisition, call: str) -> dict[str, Any]:
        request: dict[str, Any] = {
            "project": wish.project,
            "mode": wish.mode.value,
            "nonce": wish.nonce,
            "call": call,
            "ttl": wish.ttl_us,
            "lock_delay": self._lock_delay_us,
            "holder": _holder_text(wish.holder),
            "new_name": generate_name(),
            "acquires": DEFAULTS.acquires,
            "acquires_burst": int(ACQUIRES_BURST_S * 1e6),
            "bounds": self._bounds_given,
        }
        if wish.sync:  # nobody is a member of a sync
            request |= {"sync": True, "holder": _holder_text(replace(wish.holder, group=""))}
        elif wish.holder.group:
            request["group"] = wish.holder.group
        for name in ("name", "notes", "resume_step"):
            if (value := getattr(wish, name)) is not None:
                request[name] = value
        if wish.tags is not None:
            request["tags"] = json.dumps(list(wish.tags), ensure_ascii=False)
        if wish.config:
            request["config"] = [item for pair in wish.config.items() for item in pair]
        if wish.rewinds:
            request["rewinds"] = True
        for flag in ("member", "holds"):
            if getattr(wish, flag):
                request[flag] = True
        if wish.fork is not None:
            request |= {"fork_id": wish.fork.parent_id, "fork_step": wish.fork.step}
        if wish.proof is not None:
            proof = wish.proof
            request["proof"] = {
                "fence": str(proof.fence),
                "boot_id": proof.boot_id,
                "pid_namespace": proof.pid_namespace,
                "pid": proof.pid,
                "process_started": proof.process_started,
            }
        if wish.auto_keys:
            request["auto_keys"] = list(wish.auto_keys)
            request["auto_until"] = self._store.clock_of(wish.project).latest_us() + AUTO_KEY_LIFE_US
        if wish.auto_search:
            request["auto_search"] = True
        return request

    def _abandon(self, keys: RunKeys, wish: Acquisition, call: str) -> None:
        """Give a place up, and a grant back that its caller never got; goes on by itself."""
        parent = run_keys(wish.project, wish.fork.parent_id) if wish.fork else keys
        cleanup = asyncio.create_task(self.abandon(keys, parent, nonce=wish.nonce, call=call), name="abandon")
        self._cleanups.add(cleanup)
        cleanup.add_done_callback(self._cleaned)

    def _cleaned(self, cleanup: asyncio.Task[bool]) -> None:
        self._cleanups.discard(cleanup)
        if not cleanup.cancelled():
            cleanup.exception()  # the store is away: the place and the lease expire by themselves

    async def give_back(self, project: str, run_id: str, fence: int) -> bool:
        """Take a grant back that its caller says it never used; returns whether there was one to take back."""
        keys = run_keys(project, run_id)
        parent_id = await self._store.reads.call("HGET", keys.run, "parent")
        parent = run_keys(project, parent_id.decode()) if parent_id else keys
        return await self.abandon(keys, parent, fence=fence)

    async def abandon(
        self, keys: RunKeys, parent: RunKeys, *, nonce: str = "", call: str = "", fence: int | None = None
    ) -> bool:
        """Give a place up and take a grant back that was never delivered; returns whether there was one."""
        partition = keys.partition
        verdict, _ = await self._store.run(
            "abandon",
            (
                partition.meta,
                keys.run,
                keys.attempts,
                partition.live,
                keys.runs,
                partition.events,
                keys.wait,
                keys.waitx,
                keys.auto,
                keys.ckpt,
                keys.ckptdoc,
                parent.run,
            ),
            (keys.project, keys.canonical_id, nonce, call, "" if fence is None else fence),
        )
        return verdict == "TAKEN_BACK"

    async def renew(self, project: str, run_id: str, fence: int, claim: Claim | None = None) -> Renewal:
        """Extend the lease of ``fence`` by its ttl; without a claim its holder does not hold it by its own clock.

        Raises:
            Unconfirmed: the store has lost data since; it says under which incarnation a claim counts now.
            Stale: a newer fence was granted, the lease was revoked, or the attempt has ended.
            RunDeleted: the run was deleted.
            Unavailable: the store cannot say.
        """
        keys = run_keys(project, run_id)
        partition = keys.partition
        claimed_in = claim.incarnation if claim else ""
        verdict, rest = await self._guarded(
            "renew",
            (partition.meta, keys.run, keys.attempts, partition.live, keys.runs, partition.events),
            lambda guard_us: (project, run_id, fence, self._lock_delay_us, claimed_in, guard_us),
        )
        if verdict == "LOST" and claim is not None:
            if claim.wish is None:
                raise Unconfirmed(rest[0].decode())
            verdict, rest = await self._rebuild(claim, claim.wish, keys, fence)
        if verdict != "RENEWED":
            refuse_fence(verdict, rest, project, run_id, fence, self._store)
        return Renewal(
            remaining_us=int(rest[0]), reinstated=rest[1] == 1, incarnation=rest[2].decode(), fence=int(rest[3])
        )

    async def _rebuild(self, claim: Claim, wish: Acquisition, keys: RunKeys, fence: int) -> tuple[str, Sequence[Any]]:
        request = self._request(wish, "") | {"typed": wish.id, "id": wish.canonical_id}
        args = (json.dumps(request), fence, claim.incarnation, claim.attempt, claim.next_step, claim.starting_step)
        return await self._store.run("rebuild", _acquire_keys(keys, wish), args)

    async def release(self, project: str, run_id: str, fence: int, outcome: RunState) -> RunState:
        """End the attempt of ``fence``, or the sync; returns the outcome as recorded, or the run's. Idempotent.

        Raises:
            Stale: a newer fence was granted and this one's attempt was not released.
            RunDeleted: the run was deleted.
            Unavailable: the store cannot say.
        """
        keys = run_keys(project, run_id)
        partition = keys.partition
        verdict, rest = await self._store.run(
            "release",
            (
                partition.meta,
                keys.run,
                keys.attempts,
                partition.live,
                keys.runs,
                partition.events,
                keys.wait,
                keys.waitx,
                keys.auto,
            ),
            (project, run_id, fence, outcome.value),
        )
        if verdict != "RELEASED":
            refuse_fence(verdict, rest, project, run_id, fence, self._store)
        return RunState(rest[0].decode())

    async def break_lease(self, project: str, run_id: str, fence: int, *, force: bool, reason: str, by: str) -> int:
        """Revoke the lease of ``fence``, or, forced, end its attempt under a new fence; returns the fence now.

        Raises:
            RunNotFound, RunDeleted, Unavailable.
            Stale: the run was granted since, or (LEASE_FREE) nobody holds it.
        """
        keys = run_keys(project, run_id)
        partition = keys.partition
        verdict, rest = await self._store.run(
            "break",
            (
                partition.meta,
                keys.run,
                keys.attempts,
                partition.live,
                keys.runs,
                partition.events,
                keys.wait,
                keys.waitx,
            ),
            (project, run_id, fence, "1" if force else "0", reason, by),
        )
        match verdict:
            case "BROKEN":
                return int(rest[0])
            case "ABSENT":
                raise RunNotFound(project, run_id)
            case "FREE":
                raise Stale("LEASE_FREE", f"nobody holds run {project}/{run_id}: there is nothing to break")
        refuse_fence(verdict, rest, project, run_id, fence, self._store)

    def _refuse(self, verdict: str, rest: Sequence[Any], wish: Acquisition, keys: RunKeys) -> NoReturn:
        project, run_id = wish.project, wish.id
        run = None
        if verdict in ("EXISTS", "HELD", "LOCK_DELAY", "QUEUED", "NO_HOLDER") and rest[0]:
            run = run_of(project, keys.canonical_id, fields_of(rest[0]), self._store.clock_of(project).seen_us)
        match verdict:
            case "EXISTS" if run:
                raise RunExists(run)
            case "HELD" | "LOCK_DELAY" | "QUEUED" if run:
                raise LeaseHeld(run, int(rest[1]))
            case "NO_HOLDER":
                raise NoHolder(project, run_id, run)
            case "COLLISION":
                raise RunIdCollision(project, run_id, rest[0].decode())
            case "NOT_FOUND":
                raise RunNotFound(project, run_id)
            case "THROTTLED":
                raise Throttled(project, "acquires", int(rest[0]), int(rest[1]))
            case "FULL" if rest[0] == b"waiters":
                message = f"{self._bounds.waiters} wait for run {project}/{run_id} already"
                raise Overloaded("TOO_MANY_WAITERS", message, int(_REFRESH_S * 1000))
            case "FULL":
                raise limit_reached(rest[0].decode(), project, run_id, self._bounds)
            case "NONCE_ENDED":
                message = "the attempt of this nonce has ended: acquire with a new nonce"
                raise Stale("NONCE_ENDED", message, attempt=int(rest[0]))
            case "PARENT_ABSENT" if wish.fork:
                raise RunNotFound(project, wish.fork.parent_id)
            case "PARENT_DELETED" if wish.fork:
                raise RunDeleted(project, wish.fork.parent_id)
            case "PARENT_STEP":
                field = "fork_from.step" if wish.fork else "resume_from.step"
                raise InvalidField(field, f"below the run's next step, {int(rest[0])}")
        refuse_fence(verdict, rest, project, keys.canonical_id, 0, self._store)


def _holder_text(holder: Holder) -> str:
    return json.dumps(holder_list(holder), ensure_ascii=False, separators=(",", ":"))


async def _sleep(waiter: Waiter, refusal: LeaseHeld | NoHolder, left_s: float) -> None:
    until_s = min(left_s, _REFRESH_S)
    if isinstance(refusal, LeaseHeld) and refusal.place == 1:
        run = refusal.run
        # The head sleeps until the lease can be free at the earliest, and a moment.
        until_s = min(until_s, (run.remaining_us + run.lock_delay_us) / 1e6 + 0.002)
    await waiter.sleep(until_s)


def _grant(verdict: str, rest: Sequence[Any], keys: RunKeys) -> Grant:
    fence, attempt, remaining, resumed, previous, next_step, start, document, changes, record = rest
    fields = fields_of(record)
    remaining_us = int(remaining)
    checkpoint = checkpoint_of(document)
    now_us = int(fields["expiry"]) - remaining_us
    return Grant(
        fence=int(fence),
        attempt=int(attempt),
        ttl_us=int(fields["ttl"]),
        remaining_us=remaining_us,
        resumed=resumed == 1,
        previous_state=RunState(previous.decode()) if previous else None,
        next_step=int(next_step),
        starting_step=int(start),
        checkpoint=checkpoint,
        config_changes=changes_of(changes),
        run=run_of(keys.project, keys.canonical_id, fields, now_us, checkpoint=checkpoint),
        member=verdict == "MEMBER",
        incarnation=fields["epoch"],
    )


def _acquire_keys(keys: RunKeys, wish: Acquisition) -> tuple[str, ...]:
    partition = keys.partition
    parent = run_keys(wish.project, wish.fork.parent_id) if wish.fork else keys
    return (
        partition.meta,
        keys.run,
        keys.attempts,
        keys.ckpt,
        keys.ckptdoc,
        partition.live,
        keys.runs,
        partition.projects,
        partition.events,
        keys.wait,
        keys.waitx,
        keys.auto,
        parent.run,
        parent.attempts,
        parent.ckpt,
        parent.ckptdoc,
        parent.log,
        keys.limits,
        keys.gcra,
    )


def refuse_fence(
    verdict: str, rest: Sequence[Any], project: str, canonical_id: str, fence: int, store: Store
) -> NoReturn:
    """Raise what a script's verdict on a named fence means."""
    match verdict:
        case "STALE":
            run = run_of(project, canonical_id, fields_of(rest[0]), store.clock_of(project).seen_us)
            raise Stale("STALE_FENCE", f"fence {fence} of run {run.path} is old, {run.fence} was granted since", run)
        case "ENDED":
            raise Stale("LEASE_ENDED", f"the attempt of fence {fence} has ended ({rest[0].decode()})")
        case "REVOKED":
            raise Stale("REVOKED", f"an operator has revoked the lease of fence {fence}: it is not renewed any more")
        case "ABSENT":
            raise Stale("RUN_GONE", f"run {project}/{canonical_id} does not exist")
        case "DELETED":
            raise RunDeleted(project, canonical_id)
        case "SESSION":
            raise Stale("SESSION_TAKEN", "another process has opened this writer since")
    raise AssertionError(f"unknown verdict {verdict}")


def given(value: str | None) -> str:
    """Mark a value as given for a script; absent is the empty string."""
    return "" if value is None else "=" + value
