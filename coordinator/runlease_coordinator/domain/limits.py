"""Rate limits: what holds where nobody has set anything, and what a change may say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Rates per second, 0 for unlimited; as defaults the one place that states them.

    A run that logs 100 metrics a step at 100 steps a second makes 10 000 points a second: a twentieth of its limit.
    Ten runs of a project can be at theirs at once. They stop a runaway loop, not a training.
    """

    run_points: int = 200_000
    """Points of one run."""

    run_bytes: int = 16 << 20
    """Bytes of one run's packed points."""

    project_points: int = 2_000_000
    """Points of all runs of a project together."""

    project_bytes: int = 128 << 20
    """Bytes of all runs of a project together."""

    burst_s: float = 10.0
    """How far above a rate of metrics a burst may go, in seconds' worth."""

    acquires: int = 2_000
    """Calls of Acquire in a project.

    About half of what one coordinator serves, so that a storm of retries in one project leaves room for the others'
    renewals. A job of 20 000 processes may start at once; 500 that wait for one run make at most 250 calls a second.
    """


#: How far above its rate a burst of acquires may go, in seconds' worth.
ACQUIRES_BURST_S = 10.0
DEFAULTS = Limits()
#: The largest batch that is taken in (`rpc/entries.py`, and gRPC's bound of a message): no honest debt is above it.
LARGEST_POINTS, LARGEST_BYTES = 100_000, 4 << 20
#: Exact in the scripts' doubles, and far above anything real.
MAX_RATE = 10**12
MAX_BURST_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much there may be of what only grows: far above anything real, and what a store and its readers can bear.

    Judged in the scripts that add to it. What is there stays, and goes on being renewed, logged to and read.
    """

    projects: int = 10_000
    """Projects of one partition of the store: 640 000 in all, if they are spread evenly."""

    runs: int = 1_000_000
    """Runs of a project, without deleted ones."""

    attempts: int = 10_000
    """Attempts of a run: each read of the run carries all of them."""

    waiters: int = 10_000
    """Places in the queue for a run."""

    record_bytes: int = 8 << 20
    """Bytes of a run's config and summary, names included: what one request may bring of each is below the half."""

    checkpoint_bytes: int = 32 << 20
    """Bytes of all checkpoints of a run, as they are stored: each read of the run carries them."""

    names: int = 200_000
    """Names of metrics of a run. Counted to within a few per cent, and a batch may lead beyond it."""


BOUNDS = Bounds()


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsChange:
    """What to set; None leaves it as it is."""

    run_points: int | None = None
    run_bytes: int | None = None
    project_points: int | None = None
    project_bytes: int | None = None
    burst_s: float | None = None
    acquires: int | None = None
