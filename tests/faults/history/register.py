"""The lease of one run as a register, and whether what clients saw of it is linearizable.

The search is that of Wing and Gong with Lowe's memory: of the calls that may be next, take one, go on; never come
twice to the same (calls taken, state). A call without an answer may take effect at any later moment, or never.

Time enters in one place: a lease does not expire before ``until``, which a client knows from the moment before it asked
and what the store said remained. So a grant beside a lease that nobody ended is wrong where its answer came earlier.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from tests.faults.history.records import NEVER, Call
from tests.faults.history.reinstated import Leases


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that happened to the register at one moment between ``began`` and ``ended``."""

    kind: str
    """``grant``, ``reinstate``, ``renew``, ``release``, ``revoke``, ``break``, or ``see``: a fence that was told to be
    the run's."""
    fence: int
    began: float
    ended: float
    call: str = ""
    until: float = -NEVER
    """Of a grant or renewal: the lease does not expire before."""
    next_fence: int = 0
    """Of a break: the fence behind it; 0: not known."""
    certain: bool = True
    """Whether it took effect."""
    came_from: int = 0
    """The fence that its lease was granted under, where it came back under others; 0: it has one fence."""

    @property
    def lease(self) -> int:
        """What all fences of one lease have in common."""
        return self.came_from or self.fence


class State(NamedTuple):
    """The register: whose fence, whether it was ended or revoked, and when it is free at the earliest."""

    fence: int = 0
    ended: bool = True
    revoked: bool = False
    free_at: float = -NEVER
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """What the store promises."""

    lock_delay_s: float = 0.0
    lossy: bool = False
    """The store may lose what it acknowledged: then a release, revocation or break may be undone, and an older record
    be shown. That newer fences win and leases run out first holds all the same."""
    clock_slack_s: float = 0.0
    """Seconds by which the store's clock may have been set forward, in all."""


def apply(state: State, op: Operation, rules: Rules) -> State | None:
    """Return the state behind an operation, None where it cannot have had its result in this state."""
    match op.kind:
        case "grant":
            free = state.ended or op.ended >= state.free_at - rules.clock_slack_s
            delay = 0.0 if rules.lossy else rules.lock_delay_s
            after = State(op.fence, False, False, op.until + delay, op.lease)
            return after if op.fence > state.fence and free else None
        case "reinstate":
            return _reinstate(state, op, rules)
        case "see":
            return state if rules.lossy or op.fence == state.fence else None
    # A release may name a fence that its lease had before.
    earlier = op.kind == "release" and op.lease == state.lease and op.fence < state.fence
    if op.fence != state.fence and not earlier:
        return None
    match op.kind:
        case "renew":
            if (state.ended or state.revoked) and not rules.lossy:
                return None
            delay = 0.0 if rules.lossy else rules.lock_delay_s
            return State(state.fence, False, False, max(state.free_at, op.until + delay), state.lease)
        case "release":
            return State(state.fence, True, lease=state.lease)
        case "revoke":
            return state._replace(revoked=True)
        case "break":
            after = state.fence if rules.lossy else op.next_fence or state.fence + 1
            return State(after, True, lease=state.lease if rules.lossy else after)
    raise ValueError(op.kind)


def _reinstate(state: State, op: Operation, rules: Rules) -> State | None:
    """Return the state behind a lease that came back under a new fence: as granted, but to the same lease.

    Where a store lost what came after it, that may be an end of it, or another's lease, which has run out since.
    """
    free = state.ended or op.ended >= state.free_at - rules.clock_slack_s
    same = state.lease == op.lease
    alive = same and not state.ended and not state.revoked
    possible = alive or (rules.lossy and (same or free))
    free_at = state.free_at if same else -NEVER
    return State(op.fence, False, False, free_at, op.lease) if op.fence > state.fence and possible else None


def is_linearizable(operations: Iterable[Operation], rules: Rules) -> bool:
    """Tell whether there is an order of the operations, within their times, in which each can have its result."""
    # Of what is not certain, what only narrows what may follow had better not have happened.
    ops = [op for op in operations if op.certain or op.kind in ("grant", "reinstate", "release", "break")]
    ops.sort(key=lambda op: op.began)
    doubts = [(1 << number, op) for number, op in enumerate(ops) if not op.certain]
    needed = sum(1 << number for number, op in enumerate(ops) if op.certain)
    seen: set[tuple[int, State]] = set()
    todo = [(0, State())]
    while todo:
        taken, state = todo.pop()
        if taken & needed == needed:
            return True
        # What ended first must come before whatever began later.
        first_end = min(op.ended for number, op in enumerate(ops) if op.certain and not taken >> number & 1)
        for number in range(_first_free(taken), len(ops)):
            op = ops[number]
            if op.began > first_end:
                break
            if taken >> number & 1 or (after := apply(state, op, rules)) is None:
                continue
            found = (taken | 1 << number | sum(bit for bit, doubt in doubts if _is_past(doubt, after)), after)
            if found not in seen:
                seen.add(found)
                todo.append(found)
    return False


def _is_past(op: Operation, state: State) -> bool:
    """Tell whether an operation cannot change anything any more: then it does not matter whether it is taken."""
    if op.lease != state.lease:
        return op.fence <= state.fence
    return op.fence <= state.fence and (op.kind in ("grant", "reinstate") or state.ended)


def _first_free(taken: int) -> int:
    return (~taken & (taken + 1)).bit_length() - 1


def shrink(operations: Iterable[Operation], rules: Rules) -> list[Operation]:
    """Return the fewest results that cannot all be, in their order: of the others it does not matter whether they were.

    What is left out still may have happened (else the lack of a release would make a right grant look wrong).
    """
    ops = sorted(operations, key=lambda op: op.began)
    ends = sorted(op.ended for op in ops if op.certain)
    first = bisect_left(ends, True, key=lambda end: not is_linearizable(_until(ops, end), rules))
    ops = _until(ops, ends[first])
    for number, op in enumerate(ops):
        doubted = [*ops[:number], _doubt(op), *ops[number + 1 :]]
        if op.certain and not is_linearizable(doubted, rules):
            ops = doubted
    return [op for op in ops if op.certain]


def _until(ops: Iterable[Operation], end: float) -> list[Operation]:
    """Return what was known at a moment."""
    return [op if op.ended <= end else _doubt(op) for op in ops if op.began <= end]


def _doubt(op: Operation) -> Operation:
    return replace(op, ended=NEVER, until=-NEVER, certain=False)


def without_lost_breaks(operations: Iterable[Operation]) -> list[Operation]:
    """Leave out the renewals of leases that were to be ended by force: a store that loses that promises nothing.

    Their holders, who have not been told, confirm them, also beside the grant behind the break, if that is lost, too
    (`lost-break` in tests/model/README.md).
    """
    ops = list(operations)
    broken: dict[int, float] = {}
    for op in ops:
        if op.kind == "break":
            broken[op.fence] = min(op.began, broken.get(op.fence, NEVER))
    return [op for op in ops if op.kind != "renew" or op.ended < broken.get(op.fence, NEVER)]


def operations_of(calls: Iterable[Call], audited: Iterable[int] = (), leases: Leases | None = None) -> list[Operation]:
    """Return what a run's calls did or may have done to its register.

    Args:
        calls: of one run.
        audited: the fences that the audit log says were granted, also where nobody was told: the answer was lost, and
            perhaps the grant given back.
        leases: which fences are of one lease; None: as the calls say.
    """
    calls = list(calls)
    leases = leases or Leases(calls)
    found = _grants(calls, leases)
    told = {op.fence for op in found}
    found += [
        Operation("grant", fence, -NEVER, NEVER, f"grant of {fence}, by the audit log", certain=False)
        for fence in audited
        if fence not in told
    ]
    found += _ends(calls, leases)
    for run in {call.run for call in calls}:
        for back in leases.reinstated(run):
            certain = back.ended < NEVER
            facts = (back.fence, back.began, back.ended, back.line)
            found.append(Operation("reinstate", *facts, certain=certain, came_from=back.lease))
    for call in calls:
        if call.method == "acquire" and (dead := int(call.asked.get("proof", 0))):  # it may be another's turn then
            found.append(Operation("release", dead, call.began, NEVER, f"proof of death by {call}", certain=False))
        if call.method == "renew" and call.result == "ok":
            until = call.began + call.answer["remaining"]
            lease = leases.lease(call.run, call.fence)
            found.append(Operation("renew", call.told, call.began, call.ended, str(call), until, came_from=lease))
    # What a question names may never have been granted.
    known = {op.fence for op in found if op.kind in ("grant", "reinstate")} | {op.next_fence for op in found}
    found += [op for op in _sights(calls) if op.fence in known]
    return found


def _ends(calls: list[Call], leases: Leases) -> Iterable[Operation]:
    """Yield releases, by whatever fence of a lease, revocations and breaks."""
    named: dict[tuple[str, int], list[Call]] = {}
    for call in calls:
        if call.result == "refused":
            continue
        if call.method == "release":
            named.setdefault(("release", leases.lease(call.run, call.fence)), []).append(call)
        elif call.method == "break":
            named.setdefault(("break" if call.asked.get("force") else "revoke", call.fence), []).append(call)
    for (kind, fence), group in named.items():
        yield _once(kind, fence, group)


def _grants(calls: list[Call], leases: Leases) -> list[Operation]:
    nonces: dict[str, list[Call]] = {}
    for call in calls:
        if call.method == "acquire":
            nonces.setdefault(call.asked["nonce"], []).append(call)
    found = []
    for group in nonces.values():
        began = min(call.began for call in group)
        for call in group:
            if call.result == "ok" and not call.answer["member"]:
                until = call.began + call.answer["remaining"]
                fence = leases.lease(call.run, call.fence)  # a repetition may be answered when it has come back
                found.append(Operation("grant", fence, began, call.ended, str(call), until))
                break
    return found


def _once(kind: str, fence: int, group: list[Call]) -> Operation:
    """Return a call and its repetitions, by whomever, as the one operation that they are."""
    answered = [call for call in group if call.result == "ok"]
    first = min(answered, key=lambda call: call.ended, default=group[0])
    began = min(call.began for call in group)
    next_fence = int(first.answer.get("fence", 0)) if kind == "break" else 0
    certain = bool(answered)
    ended = first.ended if certain else NEVER
    return Operation(kind, fence, began, ended, str(first), next_fence=next_fence, certain=certain)


def _sights(calls: list[Call]) -> Iterable[Operation]:
    for call in calls:
        told = 0
        if call.result == "ok" and call.method == "acquire" and call.answer["member"]:
            told = call.fence
        elif call.result == "refused" and call.answer.get("kind") == "LeaseHeld":
            told = int(call.answer.get("fence", 0))
        elif call.result == "refused" and call.answer.get("kind") == "StaleFence":
            told = int(call.answer.get("current_fence", 0))
        if told:
            yield Operation("see", told, call.began, call.ended, str(call))
