"""Requests for leases and what comes of them. Durations are microseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from runlease_coordinator.domain.errors import InvalidField
from runlease_coordinator.domain.runs import Checkpoint, ConfigChange, Holder, Run, RunState

DEFAULT_TTL_US = 30_000_000
MIN_TTL_US = 5_000_000


class ResumeMode(StrEnum):
    """What to do with a run that exists already, or does not."""

    NEVER = "never"
    ALLOW = "allow"
    MUST = "must"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class ProofOfDeath:
    """A process of the holder's machine says that the holder of ``fence`` is gone."""

    fence: int
    boot_id: str
    pid_namespace: str
    pid: int
    process_started: int


@dataclass(frozen=True, slots=True)
class Fork:
    """A new run whose history up to and including ``step`` is its parent's."""

    parent_id: str
    step: int


@dataclass(frozen=True, slots=True)
class Acquisition:
    """One wish for a lease; a retry carries the same ``nonce``. None leaves a field of the record alone.

    ``rewinds``: `resume_step` comes from ``resume_from``, so it hides what follows at once. ``member``: only join the
    holder's group; ``holds``: never join it. ``auto_keys`` are bound to the run; with ``auto_search`` they choose it.
    ``sync``: hold the run for what its ended attempts bring in, and open none.
    """

    project: str
    id: str
    canonical_id: str
    mode: ResumeMode
    nonce: str
    ttl_us: int
    holder: Holder
    resume_step: int | None = None
    name: str | None = None
    notes: str | None = None
    tags: Sequence[str] | None = None
    config: Mapping[str, str] = field(default_factory=dict)
    rewinds: bool = False
    fork: Fork | None = None
    member: bool = False
    holds: bool = False
    proof: ProofOfDeath | None = None
    auto_keys: Sequence[str] = ()
    auto_search: bool = False
    sync: bool = False


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call may wait for a lease; ``last``: its caller does not come back for another try."""

    wait_us: int = 0
    last: bool = True


@dataclass(frozen=True, slots=True)
class Grant:
    """A granted lease (of a sync: ``attempt`` 0), or, with ``member``, membership in the group that holds it."""

    fence: int
    attempt: int
    ttl_us: int
    remaining_us: int
    resumed: bool
    previous_state: RunState | None
    next_step: int
    starting_step: int
    checkpoint: Checkpoint | None
    config_changes: Sequence[ConfigChange]
    run: Run
    member: bool = False
    incarnation: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A holder's word that it holds its lease by its own clock, in the ``incarnation`` of the store's data.

    ``wish`` is what it had asked for (None: it does not say), and what it was granted, should the store have lost that.
    """

    incarnation: str
    wish: Acquisition | None = None
    attempt: int = 0
    next_step: int = 0
    starting_step: int = 0


@dataclass(frozen=True, slots=True)
class Renewal:
    """An extended lease; ``reinstated`` where it had expired, then perhaps under another ``fence`` than was named."""

    remaining_us: int
    reinstated: bool
    incarnation: str
    fence: int


def checked_ttl_us(ttl_ms: int, max_ttl_us: int) -> int:
    """Return the ttl to grant in microseconds; 0 asks for the default.

    Raises:
        InvalidField: below 5 s or above the coordinator's maximum.
    """
    if ttl_ms == 0:
        return min(DEFAULT_TTL_US, max_ttl_us)
    ttl_us = ttl_ms * 1000
    if not MIN_TTL_US <= ttl_us <= max_ttl_us:
        raise InvalidField(
            "ttl_ms",
            f"{ttl_us / 1e6:g} s is outside {MIN_TTL_US / 1e6:g}..{max_ttl_us / 1e6:g} s (the coordinator's --max-ttl)",
        )
    return ttl_us
