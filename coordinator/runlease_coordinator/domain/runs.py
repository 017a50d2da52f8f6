"""A run as the coordinator knows it: record, attempts, segments, checkpoints. Times are microseconds of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class RunState(StrEnum):
    """How a run stands, or how an attempt ended; judged by store time when it is read."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CRASHED = "crashed"
    PREEMPTED = "preempted"
    KILLED = "killed"
    DELETED = "deleted"


#: What a release may say.
OUTCOMES = frozenset((RunState.FINISHED, RunState.FAILED, RunState.CRASHED, RunState.PREEMPTED, RunState.KILLED))


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds, held or asks for a lease."""

    host: str = ""
    pid: int = 0
    user: str = ""
    job_id: str = ""
    group: str = ""
    sdk_version: str = ""
    boot_id: str = ""
    pid_namespace: str = ""
    process_started: int = 0

    def __str__(self) -> str:
        """Return ``host:pid``."""
        return f"{self.host or '?'}:{self.pid}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A committed pointer; ``metadata`` maps top-level keys to JSON texts."""

    step: int
    uri: str
    metadata: Mapping[str, str]
    fence: int
    attempt: int
    committed_us: int
    writer: str
    superseded: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """Part of an attempt that starts at a step; an empty ``writer`` means all writers of the attempt."""

    attempt: int
    segment: int
    writer: str
    start: int
    counts: bool

    @property
    def order(self) -> tuple[int, int]:
        """Position among all segments of the run."""
        return self.attempt, self.segment


@dataclass(frozen=True, slots=True)
class Parent:
    """Whose history a run shows before its own, as it stood then.

    ``segments`` are the parent's that counted, ``last_entry`` the last of its log, ``continues`` its own parent ('' if
    it had none). ``spared_by``: the run's own segments that counted already: they hide nothing of the parent's.
    """

    canonical_id: str
    step: int
    attempt: int
    segments: Sequence[Segment]
    last_entry: str
    continues: str
    spared_by: frozenset[Segment]


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """A top-level config key that a resume changed; JSON texts, ``before`` empty where the key is new."""

    key: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one grant wrote; ``ended_us`` is 0 and ``outcome`` RUNNING while it goes on."""

    attempt: int
    fence: int
    holder: Holder
    starting_step: int
    granted_us: int
    ended_us: int
    outcome: RunState
    points: int
    last_step: int
    segments: Sequence[Segment]
    config_changes: Sequence[ConfigChange]


@dataclass(frozen=True, slots=True)
class Run:
    """One run's record as of ``now_us``."""

    project: str
    id: str
    canonical_id: str
    name: str
    state: RunState
    created_us: int
    updated_us: int
    attempt: int
    fence: int
    holder: Holder
    ttl_us: int
    remaining_us: int
    lock_delay_us: int
    next_step: int
    last_step: int
    last_log_us: int
    points: int
    runtime_us: int
    granted_us: int
    now_us: int
    notes: str = ""
    tags: Sequence[str] = ()
    config: Mapping[str, str] = field(default_factory=dict)
    summary: Mapping[str, str] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    revoked: bool = False
    parent: Parent | None = None
    attempts: Sequence[Attempt] = ()
    checkpoints: Sequence[Checkpoint] = ()

    @property
    def path(self) -> str:
        """``PROJECT/RUN``, as people write it."""
        return f"{self.project}/{self.id}"
