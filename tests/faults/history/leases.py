"""The invariants of leases: who may hold, who was granted, and when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from tests.faults.history.final import FinalRun
from tests.faults.history.records import NEVER, Belief, Call, History
from tests.faults.history.register import Rules, is_linearizable, operations_of, shrink, without_lost_breaks
from tests.faults.history.reinstated import NOTHING, Leases

#: A place in a queue lives this long behind its last refresh (10 s), less what a call may take to refresh it.
_PLACE_S = 9.0
#: Two roundings of milliseconds.
_ROUNDING_S = 0.002


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold, and the part of the history that shows it."""

    invariant: str
    message: str
    shown: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it with its history, line by line."""
        return "\n".join([f"{self.invariant}: {self.message}", *(f"    {line}" for line in self.shown)])


def exclusion(history: History, final: Mapping[str, FinalRun] = NOTHING) -> Iterator[Violation]:
    """I1: no two processes believe in one run at a time; but after a forced break or a proof of death."""
    lease = Leases(history.calls, final).lease
    members = {(call.process, lease(call.run, call.fence)) for call in granted(history.calls, members=True)}
    by_run: dict[str, list[Belief]] = defaultdict(list)
    for belief in history.beliefs:
        if (belief.process, lease(belief.run, belief.fence)) not in members:
            by_run[belief.run].append(belief)
    for run, beliefs in by_run.items():
        forced = _taken_by_force(call for call in history.calls if call.run == run)
        excused = {lease(run, fence) for fence in forced}
        for one, other in combinations(sorted(beliefs, key=lambda belief: belief.fence), 2):
            overlap = min(one.ended, other.ended) - max(one.began, other.began)
            first, second = lease(run, one.fence), lease(run, other.fence)
            if overlap > 0 and first != second and first not in excused:
                yield Violation("I1", f"two processes hold {run} for {overlap:.3f} s", (str(one), str(other)))


def _taken_by_force(calls: Iterable[Call]) -> set[int]:
    found = set()
    for call in calls:
        if call.method == "break" and call.asked["force"]:
            found.add(call.fence)
        elif call.method == "acquire" and call.asked["proof"]:
            found.add(int(call.asked["proof"]))
    return found


def granted(calls: Iterable[Call], *, members: bool = False) -> Iterator[Call]:
    """Yield the calls that were told of a grant, to a holder, or to members."""
    for call in calls:
        if call.method == "acquire" and call.result == "ok" and call.answer["member"] == members:
            yield call


def rising_fences(history: History, final: Mapping[str, FinalRun] = NOTHING) -> Iterator[Violation]:
    """I2: a grant that was asked for when another was known has a higher fence; so has a lease that comes back."""
    leases = Leases(history.calls, final)
    for run in history.runs:
        grants = sorted(granted(call for call in history.calls if call.run == run), key=lambda call: call.ended)
        for number, later in enumerate(grants):
            for earlier in grants[:number]:
                known = earlier.ended < later.began and earlier.asked["nonce"] != later.asked["nonce"]
                if known and later.fence <= earlier.fence:
                    yield Violation("I2", f"the fences of {run} do not rise", (str(earlier), str(later)))
            for back in leases.reinstated(run):
                of_another = leases.lease(run, later.fence) != back.lease
                if of_another and back.ended < later.began and later.fence <= back.fence:
                    yield Violation("I2", f"the fences of {run} do not rise", (back.line, str(later)))
                if of_another and later.ended < back.began and back.fence <= later.fence:
                    yield Violation("I2", f"{run} came back under a fence that is not above", (str(later), back.line))


def one_grant_a_nonce(history: History) -> Iterator[Violation]:
    """I4: one nonce, one grant."""
    first: dict[str, Call] = {}
    fences: dict[tuple[str, int], Call] = {}
    for call in granted(history.calls):
        before = first.setdefault(call.asked["nonce"], call)
        if before.fence != call.fence:
            yield Violation("I4", f"one nonce got two grants of {call.run}", (str(before), str(call)))
        other = fences.setdefault((call.run, call.fence), call)
        if other.asked["nonce"] != call.asked["nonce"]:
            yield Violation("I4", f"two nonces got one grant of {call.run}", (str(other), str(call)))


def register(history: History, final: Mapping[str, FinalRun], rules: Rules) -> Iterator[Violation]:
    """I5, and what it rests on: each run's grants, renewals, ends and refusals have one order that explains them."""
    leases = Leases(history.calls, final)
    for run in history.runs:
        state = final.get(run, FinalRun())
        calls = [call for call in history.calls if call.run == run]
        ops = operations_of(calls, state.granted, leases)
        if rules.lossy:
            ops = without_lost_breaks(ops)
        if not is_linearizable(ops, rules):
            lines = tuple(op.call for op in shrink(ops, rules))
            yield Violation("I5", f"no order of these explains what was answered about {run}", lines)


def deadlines(history: History, final: Mapping[str, FinalRun] = NOTHING) -> Iterator[Violation]:
    """I8: nobody is HELD behind what the store said remained, counted from before the question."""
    lease = Leases(history.calls, final).lease
    members = {(call.process, lease(call.run, call.fence)) for call in granted(history.calls, members=True)}
    latest: dict[tuple[str, int], list[tuple[float, float, Call]]] = defaultdict(list)
    for call in history.calls:
        if call.result == "ok" and call.method in ("acquire", "renew"):
            answer = (call.ended, call.began + call.answer["remaining"], call)
            latest[call.process, lease(call.run, call.fence)].append(answer)
    # (known until when, believes until when)
    named = [(process, record, record["t"], record["until"]) for process, record in history.deadlines]
    named += [(process, record, record["to"], record["t"]) for process, record in history.held]
    moments = [(process, lease(record["run"], record["fence"]), t, until) for process, record, t, until in named]
    for process, fence, t, until in moments:
        if until is None or (process, fence) in members:
            continue
        answers = [answer for answer in latest[process, fence] if answer[0] <= t]
        allowed = max((answer[1] for answer in answers), default=-NEVER)
        if until > allowed + _ROUNDING_S:
            what = f"{process} believes in fence {fence} until {until:.3f}, {until - allowed:.3f} s too long"
            yield Violation("I8", f"at {t:.3f} {what}", tuple(str(answer[2]) for answer in answers[-3:]))
            return  # one is like the other


def first_come_first_served(history: History, rules: Rules) -> Iterator[Violation]:
    """I9: nobody is granted a run while one waits for it who was told a place before the other asked.

    Judged where the earlier one surely kept its place: all its calls were answered, the last not long ago.
    """
    if rules.lossy:
        return  # a queue is no promise
    for run in history.runs:
        waits: dict[str, list[Call]] = defaultdict(list)
        for call in history.calls:
            if call.run == run and call.method == "acquire":
                waits[call.asked["nonce"]].append(call)
        grants = [call for call in granted(history.calls) if call.run == run and not call.asked["sync"]]
        for grant in grants:
            asked = min(call.began for call in waits[grant.asked["nonce"]])
            for nonce, calls in waits.items():
                if nonce != grant.asked["nonce"] and (seen := _in_place(calls, asked, grant)):
                    yield Violation("I9", f"{run} was granted past one who waited", (*map(str, seen), str(grant)))


def _in_place(calls: list[Call], asked: float, grant: Call) -> list[Call]:
    """Return what shows that a waiter was before the one granted, all the time until then; else nothing."""
    before = sorted((call for call in calls if call.began < grant.ended), key=lambda call: call.began)
    goes_on = any(call.began >= grant.ended or call.result == "ok" for call in calls)
    # Behind the last call of a wait the place is given up, though a lock-delay may be waited out by another one.
    told = [call for call in before if call.answer.get("place") and call.ended < asked and not call.asked.get("last")]
    if not told or any(call.result == "unknown" for call in before):
        return []
    after = [call for call in before if call.began >= told[0].began]
    last = after[-1]
    waits_on = all(
        call.answer.get("kind") == "LeaseHeld" and call.answer.get("place") and not call.asked.get("last")
        for call in after[:-1]
    )
    in_flight = last.ended > grant.ended and last.answer.get("kind") in ("LeaseHeld", None)
    lively = all(
        later.began - earlier.began < _PLACE_S for earlier, later in zip(after, [*after[1:], grant], strict=True)
    )
    return [told[0], last] if goes_on and waits_on and in_flight and lively else []


def no_grant_in_quarantine(history: History, final: Mapping[str, FinalRun], rules: Rules) -> Iterator[Violation]:
    """I11: no grant within a quarantine, by the store's own clock; nor a lease that comes back under a new fence.

    A store that lost that may be told of it again in the next quarantine, by who is held under that fence.
    """
    for run, state in final.items():
        windows = [
            (int(record["began_us"]), int(record["until_us"]))
            for record in history.of_runner("quarantine")
            if run.partition("/")[0] == record["project"]
        ]
        for event in state.events:
            back = event.kind == "reinstated" and state.fences.get(event.attempt) != event.fence and not rules.lossy
            if back or event.kind in ("granted", "created", "sync_began"):
                for began, until in windows:
                    if began < event.time_us < until:
                        ago = (event.time_us - began) / 1e6
                        yield Violation("I11", f"{run} was granted (fence {event.fence}) {ago:.3f} s into a quarantine")


def recoveries(history: History) -> Iterator[Violation]:
    """I10: once faults stop, each run is granted within the bound that follows from the settings."""
    for record in history.of_runner("recovery"):
        if record["took"] is None or record["took"] > record["bound"]:
            took = "nobody" if record["took"] is None else f"after {record['took']:.1f} s"
            yield Violation("I10", f"{record['run']} was granted to {took}, not within {record['bound']:.1f} s")


def renewals_pass(history: History) -> Iterator[Violation]:
    """I12: no rate limit refuses a renewal, and where limits are all that goes on, each renewal is answered."""
    calm = [(record["began"], record["ended"]) for record in history.of_runner("only_limits")]
    for call in history.calls:
        if call.method != "renew":
            continue
        if call.answer.get("kind") == "Throttled":
            yield Violation("I12", "a renewal was throttled", (str(call),))
        within = any(began <= call.began and call.answered <= ended for began, ended in calm)
        if within and call.result == "unknown":
            yield Violation("I12", "a renewal got no answer while nothing but limits was set", (str(call),))
