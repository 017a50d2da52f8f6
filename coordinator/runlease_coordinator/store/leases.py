"""Leases in the store: acquire, renew, release, and the sweep of expired ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, NoReturn

from runlease.names import generate_name

from runlease_coordinator.domain.errors import (
    LeaseHeld,
    RunDeleted,
    RunExists,
    RunIdCollision,
    RunNotFound,
    Stale,
)
from runlease_coordinator.domain.leases import Acquisition, Grant, Renewal
from runlease_coordinator.domain.runs import Run, RunState
from runlease_coordinator.store.keys import PARTITIONS, partition_keys, run_keys
from runlease_coordinator.store.records import changes_of, checkpoint_of, fields_of, holder_json, run_of
from runlease_coordinator.store.store import Store

#: Expired runs that one sweep of a partition turns over at most.
_SWEEP_AT_MOST = 500


class LeaseStore:
    """The lease operations, one script each."""

    def __init__(self, store: Store, lock_delay_us: int) -> None:
        """Take the store and the time that an expired run stays closed to others, in microseconds."""
        self._store = store
        self._lock_delay_us = lock_delay_us

    async def acquire(self, wish: Acquisition) -> Grant:
        """Decide the resume and grant the lease, in one round trip.

        Raises:
            RunExists, LeaseHeld, RunNotFound, RunDeleted, RunIdCollision: as the decision table says.
            Stale: the nonce's attempt has ended.
            Unavailable: the store cannot decide now.
        """
        keys, project, run_id = run_keys(wish.project, wish.canonical_id), wish.project, wish.canonical_id
        partition = keys.partition
        config = [item for pair in wish.config.items() for item in pair]
        verdict, rest = await self._store.run(
            "acquire",
            (
                partition.meta,
                keys.run,
                keys.attempts,
                keys.ckpt,
                keys.ckptdoc,
                partition.live,
                keys.runs,
                partition.projects,
                partition.events,
            ),
            (
                project,
                wish.id,
                run_id,
                wish.mode.value,
                wish.nonce,
                wish.ttl_us,
                self._lock_delay_us,
                holder_json(wish.holder),
                generate_name(),
                given(wish.name),
                given(wish.notes),
                given(None if wish.tags is None else json.dumps(list(wish.tags), ensure_ascii=False)),
                "" if wish.resume_step is None else wish.resume_step,
                self._store.clock.latest_us(),
                *config,
            ),
        )
        if verdict != "GRANTED":
            self._refuse(verdict, rest, project, wish.id, run_id)
        return self._grant(rest, wish)

    def _grant(self, rest: Sequence[Any], wish: Acquisition) -> Grant:
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
            run=run_of(wish.project, wish.canonical_id, fields, now_us, checkpoint=checkpoint),
        )

    async def renew(self, project: str, run_id: str, fence: int) -> Renewal:
        """Extend the lease of ``fence`` by its ttl.

        Raises:
            Stale: a newer fence was granted, or the attempt has ended.
            RunDeleted: the run was deleted.
            Unavailable: the store cannot say.
        """
        keys = run_keys(project, run_id)
        partition = keys.partition
        verdict, rest = await self._store.run(
            "renew",
            (partition.meta, keys.run, keys.attempts, partition.live, keys.runs, partition.events),
            (project, run_id, fence, self._lock_delay_us),
        )
        if verdict != "RENEWED":
            self._refuse(verdict, rest, project, run_id, run_id, fence)
        return Renewal(remaining_us=int(rest[0]), reinstated=rest[1] == 1)

    async def release(self, project: str, run_id: str, fence: int, outcome: RunState) -> RunState:
        """End the attempt of ``fence``; returns the outcome as recorded. Idempotent.

        Raises:
            Stale: a newer fence was granted and this one's attempt was not released.
            RunDeleted: the run was deleted.
            Unavailable: the store cannot say.
        """
        keys = run_keys(project, run_id)
        partition = keys.partition
        verdict, rest = await self._store.run(
            "release",
            (partition.meta, keys.run, keys.attempts, partition.live, keys.runs, partition.events),
            (project, run_id, fence, outcome.value),
        )
        if verdict != "RELEASED":
            self._refuse(verdict, rest, project, run_id, run_id, fence)
        return RunState(rest[0].decode())

    async def sweep(self) -> int:
        """Turn expired runs of all partitions into crashed ones; returns how many."""
        return sum(await asyncio.gather(*(self._sweep_partition(number) for number in range(PARTITIONS))))

    async def _sweep_partition(self, number: int) -> int:
        partition = partition_keys(number)
        _, due = await self._store.run("due", (partition.meta, partition.live), (_SWEEP_AT_MOST,))
        expired = 0
        for member in due:
            project, _, run_id = member.decode().partition("/")
            keys = run_keys(project, run_id)
            verdict, _ = await self._store.run(
                "expire",
                (partition.meta, keys.run, keys.attempts, partition.live, keys.runs, partition.events),
                (project, run_id),
            )
            expired += verdict == "EXPIRED"
        return expired

    def _run(self, project: str, canonical_id: str, record: Sequence[bytes]) -> Run:
        now_us = self._store.clock.seen_us
        return run_of(project, canonical_id, fields_of(record), now_us)

    def _refuse(
        self, verdict: str, rest: Sequence[Any], project: str, run_id: str, canonical_id: str, fence: int = 0
    ) -> NoReturn:
        match verdict:
            case "EXISTS":
                raise RunExists(self._run(project, canonical_id, rest[0]))
            case "HELD" | "LOCK_DELAY":
                raise LeaseHeld(self._run(project, canonical_id, rest[0]))
            case "COLLISION":
                raise RunIdCollision(project, run_id, rest[0].decode())
            case "NOT_FOUND":
                raise RunNotFound(project, run_id)
            case "NONCE_ENDED":
                raise Stale("NONCE_ENDED", "the attempt of this nonce has ended: acquire with a new nonce")
        refuse_fence(verdict, rest, project, canonical_id, fence, self._store)


def refuse_fence(
    verdict: str, rest: Sequence[Any], project: str, canonical_id: str, fence: int, store: Store
) -> NoReturn:
    """Raise what a script's verdict on a named fence means."""
    match verdict:
        case "STALE":
            run = run_of(project, canonical_id, fields_of(rest[0]), store.clock.seen_us)
            raise Stale("STALE_FENCE", f"fence {fence} of run {run.path} is old, {run.fence} was granted since", run)
        case "ENDED":
            raise Stale("LEASE_ENDED", f"the attempt of fence {fence} has ended ({rest[0].decode()})")
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
