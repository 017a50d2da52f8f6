"""Reads the scripts' field lists into the domain's records, and writes what the scripts store as one field."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runlease_coordinator.domain.runs import (
    Attempt,
    Checkpoint,
    ConfigChange,
    Holder,
    Parent,
    Run,
    RunState,
    Segment,
)

Fields = dict[str, str]


def fields_of(flat: Sequence[bytes]) -> Fields:
    """Turn ``[field, value, ...]`` into a mapping."""
    decoded = [item.decode() for item in flat]
    return dict(zip(decoded[::2], decoded[1::2], strict=True))


def holder_list(holder: Holder) -> list[str | int]:
    """Return a holder as the compact list that the store keeps (a short one keeps the record small)."""
    return [
        holder.host,
        holder.pid,
        holder.user,
        holder.job_id,
        holder.group,
        holder.sdk_version,
        holder.boot_id,
        holder.pid_namespace,
        holder.process_started,
    ]


def holder_of(text: str) -> Holder:
    """Read what became of `holder_list` in the store."""
    return Holder(*json.loads(text))


def checkpoint_json(step: int, fence: int, uri: str, metadata: Mapping[str, str]) -> bytes:
    """Return what the append script files as a checkpoint's document, behind attempt, time and writer."""
    return json.dumps([step, fence, uri, dict(metadata)], ensure_ascii=False, separators=(",", ":")).encode()


def checkpoint_of(document: bytes, *, superseded: bool = False) -> Checkpoint | None:
    """Read a checkpoint's document; None where there is none."""
    if not document:
        return None
    attempt, committed_us, writer, text = document.decode().split(" ", 3)
    step, fence, uri, metadata = json.loads(text)
    return Checkpoint(step, uri, metadata, fence, int(attempt), int(committed_us), writer, superseded)


def run_of(
    project: str,
    canonical_id: str,
    record: Fields,
    now_us: int,
    *,
    checkpoint: Checkpoint | None = None,
    attempts: Sequence[Attempt] = (),
    checkpoints: Sequence[Checkpoint] = (),
) -> Run:
    """Read a record as of store time ``now_us``."""
    expiry, avail = int(record["expiry"]), int(record["avail"])
    running = record["end"] == "" and now_us < expiry
    state = RunState.RUNNING if running else RunState(record["end"] or RunState.CRASHED)
    granted_us, runtime_us = int(record["granted"]), int(record["runtime"])
    if record["end"] == "" and record.get("sync") != record["fence"]:  # a sync is no time that the run runs
        runtime_us += min(now_us, expiry) - granted_us
    return Run(
        project=project,
        id=record["id"],
        canonical_id=canonical_id,
        name=record["name"],
        state=RunState.DELETED if "deleted" in record else state,
        created_us=int(record["created"]),
        updated_us=int(record["updated"]),
        attempt=int(record["attempt"]),
        fence=int(record["fence"]),
        holder=holder_of(record["holder"]),
        ttl_us=int(record["ttl"]),
        remaining_us=expiry - now_us if running else 0,
        lock_delay_us=max(0, avail - max(now_us, expiry if running else 0)),
        next_step=int(record["next"]),
        last_step=int(record["last"]),
        last_log_us=int(record["last_log"]),
        points=int(record["points"]),
        runtime_us=runtime_us,
        granted_us=granted_us,
        now_us=now_us,
        notes=record["notes"],
        tags=tuple(json.loads(record["tags"])),
        config=_prefixed(record, "config."),
        summary=_prefixed(record, "summary."),
        checkpoint=checkpoint,
        revoked="revoked" in record,
        parent=_parent(record),
        attempts=attempts,
        checkpoints=checkpoints,
    )


def _parent(record: Fields) -> Parent | None:
    if "parent" not in record:
        return None
    return Parent(
        canonical_id=record["parent"],
        step=int(record["parent_step"]),
        attempt=int(record["parent_attempt"]),
        segments=_counting(record["parent_segments"]),
        last_entry=record["parent_entry"],
        continues=record["parent_continues"],
        spared_by=frozenset(_counting(record["parent_own"])),
    )


def _counting(lines: str) -> list[Segment]:
    segments = []
    for line in filter(None, lines.split("\n")):
        attempt, segment, start, writer = line.split(" ", 3)
        segments.append(Segment(int(attempt), int(segment), writer, int(start), counts=True))
    return segments


def _prefixed(record: Fields, prefix: str) -> Fields:
    return {key.removeprefix(prefix): value for key, value in record.items() if key.startswith(prefix)}


def attempts_of(flat: Fields, record: Fields) -> list[Attempt]:
    """Read the attempts hash; the record still counts the points of the last one."""
    grouped: dict[int, Fields] = {}
    for name, value in flat.items():
        number, _, field = name.partition(".")
        if number.isdigit():
            grouped.setdefault(int(number), {})[field] = value
    last = int(record["attempt"])
    if last in grouped:
        grouped[last] |= {"points": record["a_points"], "last": record["a_last"]}
    return [_attempt(number, grouped[number]) for number in sorted(grouped)]


def _attempt(number: int, fields: Fields) -> Attempt:
    starting_step = int(fields["start"])
    segments = [Segment(number, 0, "", starting_step, fields.get("counts") == "1")]
    for name, start in _prefixed(fields, "segment.").items():
        segment, _, writer = name.partition(".")
        segments.append(Segment(number, int(segment), writer, int(start), counts=True))
    return Attempt(
        attempt=number,
        fence=int(fields["fence"]),
        holder=holder_of(fields["holder"]),
        starting_step=starting_step,
        granted_us=int(fields["granted"]),
        ended_us=int(fields.get("ended", 0)),
        outcome=RunState(fields.get("end", RunState.RUNNING)),
        points=int(fields.get("points", 0)),
        last_step=int(fields.get("last", -1)),
        segments=sorted(segments, key=lambda s: (s.segment, s.writer)),
        config_changes=[
            ConfigChange(key, *text.split("\n", 1)) for key, text in sorted(_prefixed(fields, "config.").items())
        ],
    )


def changes_of(flat: Iterable[bytes]) -> list[ConfigChange]:
    """Read ``[key, before, after, ...]``."""
    texts: list[Any] = [item.decode() for item in flat]
    return [ConfigChange(*texts[i : i + 3]) for i in range(0, len(texts), 3)]
