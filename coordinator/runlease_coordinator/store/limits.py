"""Rate limits in the store: read, set. `append.lua` reads them with every batch, so a change holds at once."""

from __future__ import annotations

from dataclasses import asdict

from runlease_coordinator.domain.errors import LimitReached, RunDeleted, RunNotFound
from runlease_coordinator.domain.limits import DEFAULTS, Bounds, Limits, LimitsChange
from runlease_coordinator.store.keys import run_keys
from runlease_coordinator.store.store import Store

#: The defaults of metrics as the scripts take them.
DEFAULT_ARGS = (
    DEFAULTS.run_points,
    DEFAULTS.run_bytes,
    DEFAULTS.project_points,
    DEFAULTS.project_bytes,
    int(DEFAULTS.burst_s * 1e6),
)


def limit_reached(what: str, project: str, run_id: str, bounds: Bounds) -> LimitReached:
    """Return the refusal of a script that says what there is enough of."""
    run = f"run {project}/{run_id}"
    message = {
        "projects": f"the partition of project {project} has {bounds.projects} projects: use one that is there",
        "runs": f"project {project} has {bounds.runs} runs: delete old ones, or use another project",
        "attempts": f"{run} has had {bounds.attempts} attempts: go on in a new run (fork_from)",
        "record": f"config and summary of {run} would have more than {bounds.record_bytes} bytes: "
        "put what is large into a file, and its path there",
    }[what]
    return LimitReached(project, run_id, message)


class LimitStore:
    """Limits of a project (``canonical_id`` ''), which are its runs' too, and of single runs."""

    def __init__(self, store: Store) -> None:
        """Take the store."""
        self._store = store

    async def get(self, project: str, run_id: str, canonical_id: str) -> Limits:
        """Return the limits in force.

        Raises:
            RunNotFound, RunDeleted, Unavailable.
        """
        return await self.set(project, run_id, canonical_id, LimitsChange())

    async def set(self, project: str, run_id: str, canonical_id: str, change: LimitsChange) -> Limits:
        """Set what the change names, an event of the audit log; returns the limits in force.

        Raises:
            RunNotFound, RunDeleted, Unavailable.
        """
        keys = run_keys(project, canonical_id)
        pairs = {name: value for name, value in asdict(change).items() if value is not None}
        if "burst_s" in pairs:
            pairs["burst_us"] = int(pairs.pop("burst_s") * 1e6)
        verdict, rest = await self._store.run(
            "limits",
            (keys.partition.meta, keys.limits, keys.run, keys.partition.events),
            (
                project,
                canonical_id,
                *DEFAULT_ARGS,
                DEFAULTS.acquires,
                *(item for pair in pairs.items() for item in pair),
            ),
        )
        match verdict:
            case "ABSENT":
                raise RunNotFound(project, run_id)
            case "DELETED":
                raise RunDeleted(project, run_id)
        run_points, run_bytes, project_points, project_bytes, burst_us, acquires = map(int, rest)
        return Limits(
            run_points=run_points,
            run_bytes=run_bytes,
            project_points=project_points,
            project_bytes=project_bytes,
            burst_s=burst_us / 1e6,
            acquires=acquires,
        )
