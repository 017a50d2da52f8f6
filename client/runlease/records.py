"""Runs, attempts and checkpoints as the SDK shows them; times are UNIX seconds of the store's clock."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runlease.holder import Holder
from runlease.v1 import runs_pb2 as pb

STATES = ("running", "finished", "failed", "crashed", "preempted", "killed", "deleted")
_STATE_OF: dict[int, str] = {int(pb.RunState.Value(f"RUN_STATE_{state.upper()}")): state for state in STATES}
#: What a release may say.
OUTCOMES = ("finished", "failed", "crashed", "preempted", "killed")


def state_name(number: int) -> str:
    """Return a state's word; of a newer coordinator's, its number."""
    return _STATE_OF.get(number, "" if number == 0 else f"state-{number}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A committed pointer to a checkpoint: training goes on at ``step + 1``; the bytes lie at ``uri``."""

    step: int
    uri: str
    metadata: Mapping[str, Any]
    fence: int
    attempt: int
    committed_s: float
    superseded: bool
    writer: str


@dataclass(frozen=True, slots=True)
class Segment:
    """Part of an attempt that starts at a step; an empty ``writer`` means all writers."""

    segment: int
    writer: str
    start: int
    counts: bool


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """A top-level config key that a resume changed; ``before`` is None where the key is new."""

    key: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one grant wrote; ``ended_s`` is None while it goes on, ``last_step`` -1 before its first point."""

    attempt: int
    fence: int
    holder: Holder
    starting_step: int
    granted_s: float
    ended_s: float | None
    outcome: str
    segments: tuple[Segment, ...]
    config_changes: tuple[ConfigChange, ...]
    points: int
    last_step: int


@dataclass(frozen=True, slots=True)
class Parent:
    """The run whose history, up to and including ``step``, comes before a run's own.

    It counts as it stood at its segment ``segment`` of attempt ``attempt``: what it does later changes nothing.
    """

    id: str
    step: int
    attempt: int
    segment: int


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the audit log; ``cursor`` is the position behind it, for ``watch(after=)``.

    ``kind`` is created, granted, reinstated, released, expired, proved-dead, given-back, revoked, broken, updated,
    linked, limits, deleted, undeleted, purged, points_expired, sync_began, sync_ended, outcome (of an ended attempt, by
    a sync) or points_lost. ``id`` is the run's canonical ID, '' for limits of a project.
    """

    cursor: str
    time_s: float
    project: str
    id: str
    kind: str
    fence: int
    attempt: int
    details: Mapping[str, Any]

    @property
    def path(self) -> str:
        """``PROJECT/RUN``, as the command line takes it; ``PROJECT`` where an event concerns no run."""
        return f"{self.project}/{self.id}" if self.id else self.project


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run's record at ``store_time_s``; ``last_step`` is -1 and ``last_log_s`` None before the first point."""

    project: str
    id: str
    canonical_id: str
    name: str
    state: str
    created_s: float
    updated_s: float
    attempt: int
    fence: int
    holder: Holder
    ttl_s: float
    remaining_s: float
    lock_delay_s: float
    next_step: int
    checkpoint: Checkpoint | None
    last_step: int
    last_log_s: float | None
    points: int
    notes: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    runtime_s: float
    store_time_s: float
    attempts: tuple[Attempt, ...]
    checkpoints: tuple[Checkpoint, ...]
    #: An operator wants it back: it is not renewed any more, and frees at release or expiry.
    revoked: bool = False
    parent: Parent | None = None

    @property
    def path(self) -> str:
        """``PROJECT/RUN``, as the command line takes it."""
        return f"{self.project}/{self.id}"


def state_symbol(state: str) -> str:
    """Return the contract's name of a state, as messages take it."""
    return f"RUN_STATE_{state.upper()}"


def dump_json(values: Mapping[str, Any]) -> dict[str, str]:
    """Return each top-level value as JSON text on one line.

    Raises:
        TypeError, ValueError: a value is no JSON.
    """
    return {str(key): json.dumps(value, ensure_ascii=False, allow_nan=False) for key, value in values.items()}


def load_json(texts: Mapping[str, str]) -> dict[str, Any]:
    """Read what `dump_json` wrote, by key."""
    return {key: json.loads(texts[key]) for key in sorted(texts)}


def holder_message(holder: Holder) -> pb.Holder:
    """Return a holder as a message."""
    return pb.Holder(
        host=holder.host,
        pid=holder.pid,
        user=holder.user,
        job_id=holder.job_id,
        group=holder.group,
        sdk_version=holder.sdk_version,
        boot_id=holder.boot_id,
        pid_namespace=holder.pid_namespace,
        process_started=holder.process_started,
    )


def holder_of(message: pb.Holder) -> Holder:
    """Read a holder."""
    return Holder(
        host=message.host,
        pid=message.pid,
        user=message.user,
        job_id=message.job_id,
        group=message.group,
        sdk_version=message.sdk_version,
        boot_id=message.boot_id,
        pid_namespace=message.pid_namespace,
        process_started=message.process_started,
    )


def checkpoint_of(message: pb.Checkpoint) -> Checkpoint:
    """Read a checkpoint."""
    return Checkpoint(
        step=message.step,
        uri=message.uri,
        metadata=load_json(message.metadata),
        fence=message.fence,
        attempt=message.attempt,
        committed_s=message.committed_us / 1e6,
        superseded=message.superseded,
        writer=message.writer,
    )


def change_of(message: pb.ConfigChange) -> ConfigChange:
    """Read a config change."""
    before = json.loads(message.before) if message.before else None
    return ConfigChange(message.key, before, json.loads(message.after))


def attempt_of(message: pb.Attempt) -> Attempt:
    """Read an attempt."""
    return Attempt(
        attempt=message.attempt,
        fence=message.fence,
        holder=holder_of(message.holder),
        starting_step=message.starting_step,
        granted_s=message.granted_us / 1e6,
        ended_s=message.ended_us / 1e6 if message.ended_us else None,
        outcome=state_name(message.outcome),
        segments=tuple(Segment(s.segment, s.writer, s.start, s.counts) for s in message.segments),
        config_changes=tuple(change_of(change) for change in message.config_changes),
        points=message.points,
        last_step=message.last_step,
    )


def run_of(message: pb.Run) -> RunRecord:
    """Read a run."""
    return RunRecord(
        project=message.project,
        id=message.id,
        canonical_id=message.canonical_id,
        name=message.name,
        state=state_name(message.state),
        created_s=message.created_us / 1e6,
        updated_s=message.updated_us / 1e6,
        attempt=message.attempt,
        fence=message.fence,
        holder=holder_of(message.holder),
        ttl_s=message.ttl_ms / 1000,
        remaining_s=message.remaining_ms / 1000,
        lock_delay_s=message.lock_delay_ms / 1000,
        next_step=message.next_step,
        checkpoint=checkpoint_of(message.checkpoint) if message.HasField("checkpoint") else None,
        last_step=message.last_step,
        last_log_s=message.last_log_us / 1e6 if message.last_log_us else None,
        points=message.points,
        notes=message.notes,
        tags=tuple(message.tags),
        config=load_json(message.config),
        summary=load_json(message.summary),
        runtime_s=message.runtime_ms / 1000,
        store_time_s=message.store_time_us / 1e6,
        attempts=tuple(attempt_of(attempt) for attempt in message.attempts),
        checkpoints=tuple(checkpoint_of(checkpoint) for checkpoint in message.checkpoints),
        revoked=message.revoked,
        parent=_parent_of(message.parent) if message.HasField("parent") else None,
    )


def _parent_of(message: pb.Parent) -> Parent:
    return Parent(message.id, message.step, message.attempt, message.segment)


def event_of(message: pb.Event, cursor: str) -> Event:
    """Read an entry of the audit log."""
    return Event(
        cursor=cursor,
        time_s=message.time_us / 1e6,
        project=message.project,
        id=message.id,
        kind=message.kind,
        fence=message.fence,
        attempt=message.attempt,
        details=load_json(message.details),
    )
