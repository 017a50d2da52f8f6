"""Runs in the store: read, list, update, delete."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runlease_coordinator.domain.errors import (
    BadBranch,
    InvalidField,
    LeaseHeld,
    RunDeleted,
    RunIdCollision,
    RunNotFound,
    Unavailable,
)
from runlease_coordinator.domain.limits import BOUNDS, Bounds
from runlease_coordinator.domain.runs import Checkpoint, Run, RunState
from runlease_coordinator.store.keys import run_keys
from runlease_coordinator.store.leases import given, refuse_fence
from runlease_coordinator.store.limits import limit_reached
from runlease_coordinator.store.listing import ListPosition, RunListing, Wanted
from runlease_coordinator.store.records import attempts_of, checkpoint_of, fields_of, run_of
from runlease_coordinator.store.store import Store

__all__ = ["ListPosition", "RunStore", "Snapshot"]

#: A link is tried again where others were made in the project meanwhile.
_LINK_TRIES = 8


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run in full as of one moment, and the ID of the last entry of its log then ('' if none)."""

    run: Run
    last_entry: str


class RunStore:
    """The run operations, one script each."""

    def __init__(self, store: Store, bounds: Bounds = BOUNDS) -> None:
        """Take the store, and how large a record may become."""
        self._store = store
        self._bounds = bounds
        self._listing = RunListing(store)

    async def get_run(self, project: str, run_id: str, canonical_id: str, *, full: bool = True) -> Snapshot:
        """Read a run, deleted ones too; ``full`` adds attempts and checkpoints.

        Raises:
            RunNotFound: there is none.
            RunIdCollision: ``run_id`` is neither the canonical form nor the form as first typed.
            Unavailable.
        """
        keys = run_keys(project, canonical_id)
        verdict, rest = await self._store.run(
            "get_run",
            (keys.partition.meta, keys.run, keys.attempts, keys.ckpt, keys.ckptdoc, keys.log),
            ("1" if full else "0",),
            on=self._store.reads,
        )
        if verdict == "ABSENT":
            raise RunNotFound(project, run_id)
        now_us = self._store.clock_of(project).seen_us
        flat_record, flat_attempts, visible, documents, last_entry, top = rest
        record = fields_of(flat_record)
        if run_id not in (record["id"], canonical_id):
            raise RunIdCollision(project, run_id, record["id"])
        run = run_of(
            project,
            canonical_id,
            record,
            now_us,
            checkpoint=checkpoint_of(top),
            attempts=attempts_of(fields_of(flat_attempts), record) if full else (),
            checkpoints=_checkpoints(visible, documents),
        )
        return Snapshot(run, last_entry.decode())

    async def list_runs(
        self,
        project: str,
        states: frozenset[RunState],
        tags: frozenset[str],
        size: int,
        after: ListPosition,
        *,
        text: str = "",
        host: str = "",
    ) -> tuple[list[Run], ListPosition | None]:
        """Return up to ``size`` runs, most recently updated first, and where the list goes on; see `RunListing`."""
        return await self._listing.page(project, Wanted(states, tags, text, host), size, after)

    async def update_run(
        self,
        project: str,
        canonical_id: str,
        fence: int,
        *,
        name: str | None,
        notes: str | None,
        tags: Sequence[str] | None,
        config: Mapping[str, str],
        summary: Mapping[str, str],
    ) -> None:
        """Change what people say about a run; None leaves a field alone, ``fence`` 0 names none.

        Raises:
            RunNotFound, RunDeleted, Unavailable.
            LimitReached: the record would become too large.
            Stale: the fence is not the run's.
        """
        keys = run_keys(project, canonical_id)
        pairs = [(f"config.{key}", value) for key, value in config.items()]
        pairs += [(f"summary.{key}", value) for key, value in summary.items()]
        verdict, rest = await self._store.run(
            "update_run",
            (keys.partition.meta, keys.run, keys.attempts, keys.runs, keys.partition.events),
            (
                project,
                canonical_id,
                fence,
                given(name),
                given(notes),
                given(None if tags is None else json.dumps(list(tags), ensure_ascii=False)),
                self._bounds.record_bytes,
                *(item for pair in pairs for item in pair),
            ),
        )
        match verdict:
            case "UPDATED":
                return
            case "FULL":
                raise limit_reached("record", project, canonical_id, self._bounds)
            case "ABSENT":
                raise RunNotFound(project, canonical_id)
            case "DELETED":
                raise RunDeleted(project, canonical_id)
        refuse_fence(verdict, rest, project, canonical_id, fence, self._store)

    async def delete_run(self, project: str, run_id: str, canonical_id: str, fence: int, reason: str) -> None:
        """Mark a run deleted, if ``fence`` is still its last. Idempotent.

        Raises:
            RunNotFound, Unavailable.
            LeaseHeld: a live lease is held.
            Stale: the run was granted since the caller saw it.
        """
        keys = run_keys(project, canonical_id)
        partition = keys.partition
        verdict, rest = await self._store.run(
            "delete_run",
            (partition.meta, keys.run, keys.attempts, partition.live, keys.runs, partition.events, keys.auto),
            (project, canonical_id, fence, reason),
        )
        match verdict:
            case "DELETED":
                return
            case "ABSENT":
                raise RunNotFound(project, run_id)
            case "HELD":
                raise LeaseHeld(
                    run_of(project, canonical_id, fields_of(rest[0]), self._store.clock_of(project).seen_us)
                )
        refuse_fence(verdict, rest, project, canonical_id, fence, self._store)

    async def undelete_run(self, project: str, run_id: str, canonical_id: str, reason: str) -> None:
        """Take a deletion back. Idempotent.

        Raises:
            RunNotFound: there is none, or it was purged.
        """
        keys = run_keys(project, canonical_id)
        verdict, _ = await self._store.run(
            "undelete_run",
            (keys.partition.meta, keys.run, keys.runs, keys.partition.events),
            (project, canonical_id, reason),
        )
        if verdict == "ABSENT":
            raise RunNotFound(project, run_id)

    async def purge_run(self, project: str, run_id: str, canonical_id: str, fence: int, reason: str) -> None:
        """Remove a deleted run for good.

        Raises:
            RunNotFound: there is none (any more).
            BadBranch: it is not deleted yet, or other runs show its history.
            Stale: the run was granted since the caller saw it.
        """
        keys = run_keys(project, canonical_id)
        parent = (await self.get_run(project, run_id, canonical_id, full=False)).run.parent
        parent_run = run_keys(project, parent.canonical_id).run if parent else keys.run
        verdict, rest = await self._store.run(
            "purge_run",
            (
                keys.partition.meta,
                keys.run,
                keys.attempts,
                keys.ckpt,
                keys.ckptdoc,
                keys.log,
                keys.seq,
                keys.wait,
                keys.waitx,
                keys.partition.events,
                parent_run,
                keys.limits,
                keys.parts,
                keys.partition.hot,
                keys.partition.garbage,
                keys.names,
            ),
            (project, canonical_id, fence, reason),
        )
        path = f"{project}/{run_id}"
        match verdict:
            case "PURGED":
                return
            case "ABSENT":
                raise RunNotFound(project, run_id)
            case "ALIVE":
                raise BadBranch(project, run_id, "NOT_DELETED", f"run {path} is not deleted: delete it first")
            case "REFERENCED":
                message = f"{int(rest[0])} runs show the history of run {path}: purge them first"
                raise BadBranch(project, run_id, "REFERENCED", message)
        refuse_fence(verdict, rest, project, canonical_id, fence, self._store)

    async def link(self, project: str, run_id: str, canonical_id: str, parent_id: str, step: int | None) -> None:
        """Let a run show a parent's history, up to ``step`` (None: all), before its own. Idempotent.

        Raises:
            RunNotFound, RunDeleted: of either run.
            BadBranch: a cycle, or the run is linked elsewhere already.
            InvalidField: the step is not below the parent's next step.
        """
        keys, parent = run_keys(project, canonical_id), run_keys(project, parent_id)
        partition = keys.partition
        for _ in range(_LINK_TRIES):
            counter = await self._store.reads.call("HGET", partition.links, project)
            await self._refuse_cycle(project, run_id, canonical_id, parent_id)
            verdict, rest = await self._store.run(
                "link",
                (
                    partition.meta,
                    keys.run,
                    keys.attempts,
                    keys.ckpt,
                    keys.ckptdoc,
                    keys.runs,
                    partition.events,
                    parent.run,
                    parent.attempts,
                    parent.ckpt,
                    parent.ckptdoc,
                    parent.log,
                    partition.links,
                ),
                (project, canonical_id, parent_id, "" if step is None else step, (counter or b"0").decode()),
            )
            if verdict != "RACED":
                break
        match verdict:
            case "LINKED":
                return
            case "ABSENT" | "PARENT_ABSENT":
                raise RunNotFound(project, run_id if verdict == "ABSENT" else parent_id)
            case "DELETED" | "PARENT_DELETED":
                raise RunDeleted(project, run_id if verdict == "DELETED" else parent_id)
            case "PARENT_STEP":
                raise InvalidField("step", f"below the next step of run {project}/{parent_id}, {int(rest[0])}")
            case "LINKED_ALREADY":
                message = f"run {project}/{run_id} continues {rest[0].decode()} (step {int(rest[1])}) already"
                raise BadBranch(project, run_id, "LINKED_ALREADY", message)
        raise Unavailable("RACED", "other links were made meanwhile: try again")

    async def _refuse_cycle(self, project: str, run_id: str, canonical_id: str, parent_id: str) -> None:
        ancestor: str | None = parent_id
        while ancestor is not None:
            if ancestor == canonical_id:
                message = f"run {project}/{parent_id} continues run {project}/{run_id} itself: that would be a cycle"
                raise BadBranch(project, run_id, "CYCLE", message)
            run = (await self.get_run(project, ancestor, ancestor, full=False)).run
            ancestor = run.parent.canonical_id if run.parent else None


def _checkpoints(visible: Sequence[bytes], documents: Sequence[bytes]) -> list[Checkpoint]:
    shown = set(visible)
    found = [
        checkpoint_of(document, superseded=name not in shown)
        for name, document in zip(documents[::2], documents[1::2], strict=True)
    ]
    return sorted((c for c in found if c is not None), key=lambda c: (c.step, c.fence))
