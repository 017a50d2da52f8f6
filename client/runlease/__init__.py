"""runlease: one writer per training run, every resume exact, no acknowledged metric lost.

Guarantees, under the store's promises (see the README):
- once a newer fence is granted, nothing that carries an older one is accepted: points, commits, renewals;
- `run.step` is exact when `init` returns: the checkpoint's next step, or where the log ended;
- a point that `stats()` counts as acknowledged is in the history, once.

Not guaranteed: that a paused process knows at once that it lost its lease (what it writes is refused all the same),
and anything in stores that do not check the fence.

    with runlease.init(project="demo", id="nbs1e6hk", resume="allow") as run:
        for step in range(run.step, 1000):
            run.log({"loss": 0.1}, step=step)
"""

from __future__ import annotations

import os

# Before grpc is imported: with fork support on, forked data loaders hang or fill stderr; ours use no grpc.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# ruff: noqa: E402
from runlease.client import Client
from runlease.exceptions import (
    CoordinatorUnavailable,
    IncompatibleVersion,
    InvalidArgument,
    InvalidRunId,
    LeaseHeld,
    LeaseLost,
    PermissionDenied,
    RunDeleted,
    RunExists,
    RunIdCollision,
    RunleaseError,
    RunNotFound,
    StaleFence,
    Throttled,
    Unauthenticated,
)
from runlease.history import History
from runlease.ids import generate_id
from runlease.lease import Lease
from runlease.leasestate import LeaseState
from runlease.limits import Limits
from runlease.records import Attempt, Checkpoint, RunRecord
from runlease.runs import Run
from runlease.version import __version__

#: The current run of this process: the last one started and not finished, else None.
run: Run | None = None

from runlease.start import init

__all__ = [
    # start here
    "init",
    "run",
    "generate_id",
    # handles and records
    "Run",
    "Lease",
    "LeaseState",
    "Checkpoint",
    "Attempt",
    "RunRecord",
    "History",
    "Limits",
    "Client",
    # errors
    "RunleaseError",
    "CoordinatorUnavailable",
    "IncompatibleVersion",
    "InvalidArgument",
    "InvalidRunId",
    "LeaseHeld",
    "LeaseLost",
    "PermissionDenied",
    "RunDeleted",
    "RunExists",
    "RunIdCollision",
    "RunNotFound",
    "StaleFence",
    "Throttled",
    "Unauthenticated",
    "__version__",
]
