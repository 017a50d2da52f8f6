"""Which promises of the README hold with a store as it is: a function of the survey and of what the checks found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from runlease.doctor.finding import Finding

from runlease_coordinator.doctor.survey import Survey

Holds = Literal["holds", "in part", "no"]


@dataclass(frozen=True, slots=True)
class Promise:
    """A fault, what is promised for it, and whether that holds here."""

    fault: str
    promise: str
    holds: Holds
    why: str = ""
    """What it depends on, or why it does not hold."""


#: Checks that must not fail for anything to hold.
_GROUND = ("version", "eviction", "permissions", "opened", "schema", "role", "write", "coverage")


def promises(survey: Survey, findings: Sequence[Finding]) -> Iterator[Promise]:
    """Yield each promise, in the order of the README."""
    broken = sorted({each.name for each in findings if each.verdict == "error" and each.name in _GROUND})
    for fault, promise, judge in _PROMISES:
        holds, why = judge(survey, findings)
        if broken:
            holds, why = "no", f"mend first: {', '.join(broken)}"
        yield Promise(fault, promise, holds, why)


_Judged = tuple[Holds, str]


def _always(survey: Survey, findings: Sequence[Finding]) -> _Judged:
    return "holds", ""


def _one_writer(survey: Survey, findings: Sequence[Finding]) -> _Judged:
    if _failed("replicas", findings) and not survey.wait_replicas:
        return "in part", "not beyond a failover: a primary that was cut off would go on granting"
    return "holds", ""


def _another_coordinator(survey: Survey, findings: Sequence[Finding]) -> _Judged:
    if survey.kind == "embedded":
        return "in part", "one coordinator runs this store: it must be back within half a ttl"
    return "holds", "if another coordinator answers within half a ttl"


def _store_killed(survey: Survey, findings: Sequence[Finding]) -> _Judged:
    worst = _worst("persistence", findings)
    if worst is None:
        return "holds", ""
    return ("in part" if worst.verdict == "warning" else "no"), worst.seen


def _failover(survey: Survey, findings: Sequence[Finding]) -> _Judged:
    replicas = min((len(shard.replicas) for shard in survey.shards), default=0)
    if not replicas and not survey.wait_replicas:
        return "no", "one data node: nothing takes over"
    if _failed("replicas", findings):
        return "no", "the replicas are not those that it was opened for"
    if survey.wait_replicas < 1:
        return "no", "control writes wait for no replica"
    if replicas < 2:
        return "in part", "two data nodes: nothing is lost, but the one that is left refuses to go on alone"
    if survey.kind == "standalone":
        return "in part", "somebody must promote a replica, and tell the coordinators: use Sentinel or a cluster"
    if _failed("sentinels", findings) or _worst("majority", findings):
        return "in part", "a replica may not be promoted: no majority of those who must agree"
    return "holds", ""


def _failed(name: str, findings: Sequence[Finding]) -> bool:
    worst = _worst(name, findings)
    return worst is not None and worst.verdict == "error"


def _worst(name: str, findings: Sequence[Finding]) -> Finding | None:
    found = [each for each in findings if each.name == name and each.verdict != "ok"]
    return min(found, key=lambda each: ("error", "warning").index(each.verdict), default=None)


_PROMISES: tuple[tuple[str, str, Callable[[Survey, Sequence[Finding]], _Judged]], ...] = (
    ("a process is paused, a machine sleeps", "at most one accepted writer", _one_writer),
    ("clocks of trainers or coordinators are wrong", "no effect", _always),
    ("a trainer cannot reach the coordinator", "it suspends itself, a successor follows after expiry", _always),
    ("a coordinator is killed", "no lease is lost", _another_coordinator),
    ("the store is killed", "nothing acknowledged is lost", _store_killed),
    ("the store fails over", "leases, fences and commits survive", _failover),
)
