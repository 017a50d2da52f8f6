"""Domain records as protobuf messages, and the parts of requests as domain values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from runlease.v1 import runs_pb2 as pb

from runlease_coordinator.domain.events import Event
from runlease_coordinator.domain.runs import Attempt, Checkpoint, ConfigChange, Holder, Parent, Run, RunState
from runlease_coordinator.rpc import fields

STATES: dict[RunState, Any] = {state: pb.RunState.Value(f"RUN_STATE_{state.name}") for state in RunState}
STATES_BY_NUMBER = {int(number): state for state, number in STATES.items()}

#: Of each text of a holder: a refusal that names the holder must fit into gRPC's 8 KiB of trailing metadata, in which
#: each of these bytes takes about 15.
MAX_HOLDER_BYTES = 256


def holder_of(message: pb.Holder, path: str) -> Holder:
    """Check and read a holder."""
    texts = {
        name: fields.short_line(getattr(message, name), f"{path}.{name}", MAX_HOLDER_BYTES)
        for name in ("host", "user", "job_id", "group", "sdk_version", "boot_id", "pid_namespace")
    }
    return Holder(pid=message.pid, process_started=message.process_started, **texts)


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


def checkpoint_message(checkpoint: Checkpoint | None) -> pb.Checkpoint | None:
    """Return a checkpoint as a message."""
    if checkpoint is None:
        return None
    return pb.Checkpoint(
        step=checkpoint.step,
        uri=checkpoint.uri,
        metadata=checkpoint.metadata,
        fence=checkpoint.fence,
        attempt=checkpoint.attempt,
        committed_us=checkpoint.committed_us,
        superseded=checkpoint.superseded,
        writer=checkpoint.writer,
    )


def change_messages(changes: Iterable[ConfigChange]) -> list[pb.ConfigChange]:
    """Return config changes as messages."""
    return [pb.ConfigChange(key=c.key, before=c.before, after=c.after) for c in changes]


def attempt_message(attempt: Attempt) -> pb.Attempt:
    """Return an attempt as a message."""
    return pb.Attempt(
        attempt=attempt.attempt,
        fence=attempt.fence,
        holder=holder_message(attempt.holder),
        starting_step=attempt.starting_step,
        granted_us=attempt.granted_us,
        ended_us=attempt.ended_us,
        outcome=STATES[attempt.outcome],
        segments=[
            pb.Segment(segment=s.segment, writer=s.writer, start=s.start, counts=s.counts) for s in attempt.segments
        ],
        config_changes=change_messages(attempt.config_changes),
        points=attempt.points,
        last_step=attempt.last_step,
    )


def _parent_message(parent: Parent | None) -> pb.Parent | None:
    if parent is None:
        return None
    last = max((segment.segment for segment in parent.segments if segment.attempt == parent.attempt), default=0)
    return pb.Parent(id=parent.canonical_id, step=parent.step, attempt=parent.attempt, segment=last)


def run_message(run: Run) -> pb.Run:
    """Return a record as a message."""
    return pb.Run(
        project=run.project,
        id=run.id,
        canonical_id=run.canonical_id,
        name=run.name,
        state=STATES[run.state],
        created_us=run.created_us,
        updated_us=run.updated_us,
        attempt=run.attempt,
        fence=run.fence,
        holder=holder_message(run.holder),
        ttl_ms=run.ttl_us // 1000,
        remaining_ms=run.remaining_us // 1000,
        lock_delay_ms=run.lock_delay_us // 1000,
        next_step=run.next_step,
        checkpoint=checkpoint_message(run.checkpoint),
        last_step=run.last_step,
        last_log_us=run.last_log_us,
        points=run.points,
        notes=run.notes,
        tags=run.tags,
        config=run.config,
        summary=run.summary,
        runtime_ms=run.runtime_us // 1000,
        store_time_us=run.now_us,
        revoked=run.revoked,
        parent=_parent_message(run.parent),
        attempts=[attempt_message(attempt) for attempt in run.attempts],
        checkpoints=[message for c in run.checkpoints if (message := checkpoint_message(c))],
    )


def event_message(event: Event, cursor: str) -> pb.Event:
    """Return an entry of the audit log as a message; the cursor is the position behind it."""
    return pb.Event(
        cursor=cursor,
        time_us=event.time_us,
        project=event.project,
        id=event.canonical_id,
        kind=event.kind,
        fence=event.fence,
        attempt=event.attempt,
        details=event.details,
    )
