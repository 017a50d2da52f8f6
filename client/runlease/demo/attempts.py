"""What the demo shows and verifies about the attempts of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from runlease.demo import screen
from runlease.demo.histories import Check, Point

if TYPE_CHECKING:
    from runlease.records import RunRecord


def table(runs: Sequence[RunRecord], everything: Mapping[str, Sequence[Point]]) -> list[str]:
    """Lay out the attempts; the last step is that of the points which are really there, by run ID."""
    rows = []
    for run in runs:
        for held in run.attempts:
            steps = [point.step for point in everything[run.id] if point.attempt == held.attempt]
            rows.append(
                [
                    run.id,
                    str(held.attempt),
                    str(held.fence),
                    str(held.holder.pid),
                    str(held.starting_step),
                    str(max(steps)) if steps else "-",
                    str(held.outcome),
                ]
            )
    return screen.table(["run", "attempt", "fence", "process", "from", "to", "ended"], rows)


def resumed_once(run: RunRecord, *, pids: tuple[int, int], starts: tuple[int, int]) -> Check:
    """Check that the run had two attempts, by these processes and from these steps."""
    fences = [held.fence for held in run.attempts]
    return _check(
        f"{run.id}: two attempts, rising fences, the second starts where the checkpoint ends",
        {
            "holders": ([held.holder.pid for held in run.attempts], list(pids)),
            "starting steps": ([held.starting_step for held in run.attempts], list(starts)),
            "ends": ([str(held.outcome) for held in run.attempts], ["crashed", "finished"]),
            "fences": (fences, sorted(set(fences))),
        },
    )


def complete(runs: Sequence[RunRecord], *, steps: int) -> Check:
    """Check that the runs finished after this many steps."""
    facts: dict[str, tuple[object, object]] = {}
    for run in runs:
        facts[f"{run.id}, state"] = (str(run.state), "finished")
        facts[f"{run.id}, next step"] = (run.next_step, steps)
    return _check(f"both runs are finished, after {steps} steps", facts)


def _check(claim: str, facts: Mapping[str, tuple[object, object]]) -> Check:
    return Check(
        claim,
        tuple(f"{what}: {found}, not {wanted}" for what, (found, wanted) in facts.items() if found != wanted),
    )
