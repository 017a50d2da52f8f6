"""The checker finds what is wrong with leases, and nothing in what is right: histories written by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.history import leases
from tests.faults.history.final import AuditEvent, FinalRun
from tests.faults.history.records import NEVER, Belief, Call, History
from tests.faults.history.register import Rules, is_linearizable, operations_of, shrink

RUN = "p/r"
STRICT = Rules(lock_delay_s=1.0)


def call(method: str, began: float, ended: float, result: str = "ok", process: str = "a", **facts: Any) -> Call:
    """Return a call; facts that end with an underscore are of its answer."""
    asked: dict[str, Any] = {"nonce": "", "proof": 0, "sync": False, "member": False, "force": False, "fence": 0}
    asked |= {name: value for name, value in facts.items() if not name.endswith("_")}
    answer = {name[:-1]: value for name, value in facts.items() if name.endswith("_")}
    last = ended if result != "unknown" else NEVER
    return Call(process, method, RUN, began, last, result, asked, answer, answered=ended)


def grant(fence: int, began: float, ended: float, *, remaining: float = 5.0, **more: Any) -> Call:
    facts = {"nonce": f"n{fence}", "fence_": fence, "remaining_": remaining, "member_": False} | more
    return call("acquire", began, ended, **facts)


def renew(fence: int, began: float, ended: float, **more: Any) -> Call:
    return call("renew", began, ended, fence=fence, remaining_=5.0, **more)


def release(fence: int, began: float, ended: float, result: str = "ok", **more: Any) -> Call:
    return call("release", began, ended, result, fence=fence, **more)


def explains(calls: Iterable[Call], rules: Rules = STRICT, *audited: int) -> bool:
    return is_linearizable(operations_of(list(calls), audited), rules)


RIGHT = {
    "released, then granted": [grant(10, 0, 1), release(10, 2, 3), grant(20, 4, 5)],
    "expired, then granted": [grant(10, 0, 1), grant(20, 2, 6.1)],
    "renewed, then expired": [grant(10, 0, 1), renew(10, 3, 4), grant(20, 5, 9.1)],
    "released at the same time": [grant(10, 0, 1), release(10, 2, 9), grant(20, 2, 3)],
    "the release's answer is lost": [grant(10, 0, 1), release(10, 2, 3, "unknown"), grant(20, 3, 4)],
    "the release is late": [grant(10, 0, 1), release(10, 2, 3, "unknown"), renew(10, 4, 5), grant(20, 6, 7)],
    "released twice": [grant(10, 0, 1), release(10, 2, 3), grant(20, 4, 5), release(10, 6, 7)],
    "reinstated": [grant(10, 0, 1), renew(10, 20, 21), grant(20, 22, 27)],
    "proved dead": [grant(10, 0, 1), grant(20, 2, 3, proof=10)],
    "proved dead by another": [
        grant(10, 0, 1),
        call("acquire", 2, 3, "refused", proof=10, nonce="n", kind_="LeaseHeld"),
        grant(20, 2, 4),
    ],
    "broken": [grant(10, 0, 1), call("break", 2, 3, fence=10, fence_=15, force=True), grant(20, 3, 4)],
    "broken, its answer lost": [grant(10, 0, 1), call("break", 2, 3, "unknown", fence=10, force=True), grant(20, 3, 4)],
    "revoked": [grant(10, 0, 1), call("break", 2, 3, fence=10, fence_=10), release(10, 4, 5), grant(20, 5, 6)],
    "seen": [grant(10, 0, 1), call("acquire", 2, 3, "refused", kind_="LeaseHeld", fence_=10, nonce="n")],
    "under a new fence": [grant(10, 0, 1), renew(10, 20, 21, fence_=15), renew(15, 22, 23), release(15, 24, 25)],
    "its answer is lost": [
        *(grant(10, 0, 1), call("renew", 20, 21, "unknown", fence=10), renew(10, 22, 23, fence_=15)),
        *(call("acquire", 21, 22, "refused", kind_="LeaseHeld", fence_=15, nonce="n"), release(15, 24, 25)),
    ],
    "released by its old fence": [
        grant(10, 0, 1),
        renew(10, 20, 21, fence_=15),
        release(10, 22, 23),
        grant(20, 24, 25),
    ],
    "released by both": [
        *(grant(10, 0, 1), renew(10, 20, 21, fence_=15), release(15, 22, 23), grant(20, 24, 25), release(10, 26, 27)),
    ],
    "twice under new fences": [
        *(grant(10, 0, 1), renew(10, 20, 21, fence_=15), renew(15, 30, 31, fence_=17), release(10, 32, 33)),
        grant(20, 33, 34),
    ],
}
WRONG = {
    "comes back when released": [grant(10, 0, 1), release(10, 2, 3), renew(10, 20, 21, fence_=15)],
    "comes back when broken": [
        *(grant(10, 0, 1), call("break", 2, 3, fence=10, fence_=12, force=True), renew(10, 20, 21, fence_=15)),
    ],
    "comes back behind a grant": [grant(10, 0, 1), grant(20, 7, 8), renew(10, 20, 21, fence_=25)],
    "comes back under an old fence": [
        *(
            grant(10, 0, 1),
            renew(10, 20, 21, fence_=15),
            release(15, 22, 23),
            grant(20, 24, 25),
            renew(10, 26, 27, fence_=15),
        ),
    ],
    "granted beside one that came back": [grant(10, 0, 1), renew(10, 20, 21, fence_=15), grant(20, 22, 23)],
    "its old fence is shown": [
        *(grant(10, 0, 1), renew(10, 20, 21, fence_=15)),
        call("acquire", 22, 23, "refused", kind_="LeaseHeld", fence_=10, nonce="n"),
    ],
    "granted beside a holder": [grant(10, 0, 1), grant(20, 2, 3)],
    "granted in the lock-delay": [grant(10, 0, 1), grant(20, 5.1, 5.9)],
    "granted beside a renewed one": [grant(10, 0, 1), renew(10, 3, 4), grant(20, 5, 8.9)],
    "the fence falls": [grant(20, 0, 1), release(20, 2, 3), grant(10, 4, 5)],
    "renewed after a grant": [grant(10, 0, 1), release(10, 1, 2), grant(20, 3, 4), renew(10, 5, 6)],
    "renewed after its release": [grant(10, 0, 1), release(10, 1, 2), renew(10, 3, 4)],
    "released after a grant": [grant(10, 0, 1), grant(20, 7, 8), release(10, 9, 10)],
    "an old release frees the run": [grant(10, 0, 1), grant(20, 7, 8), release(10, 9, 10), grant(30, 10, 11)],
    "renewed when revoked": [grant(10, 0, 1), call("break", 2, 3, fence=10, fence_=10), renew(10, 4, 5)],
    "renewed when broken": [grant(10, 0, 1), call("break", 2, 3, fence=10, fence_=15, force=True), renew(10, 4, 5)],
    "the proof names another": [grant(10, 0, 1), release(10, 1, 2), grant(20, 2, 3), grant(30, 4, 5, proof=10)],
    "an old fence is shown": [
        *(grant(10, 0, 1), release(10, 1, 2), grant(20, 2, 3)),
        call("acquire", 4, 5, "refused", kind_="LeaseHeld", fence_=10, nonce="n"),
    ],
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_register(name: str) -> None:
    assert explains(RIGHT[name])


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_register(name: str) -> None:
    history = History(calls=WRONG[name])
    (found,) = leases.register(history, {}, STRICT)
    assert found.invariant == "I5"
    assert found.shown


def test_a_grant_whose_answer_was_lost_explains_what_others_were_told() -> None:
    lost = call("acquire", 0, 1, "unknown", nonce="x")
    told = call("acquire", 2, 3, "refused", kind_="LeaseHeld", fence_=10, nonce="n")
    later = grant(20, 4, 8)
    stale = call("renew", 9, 10, "refused", fence=5, kind_="StaleFence", current_fence_=10)
    assert explains([lost, told, later], STRICT, 10)
    assert not explains([lost, told, later, stale], STRICT, 10)


def test_a_grant_that_was_given_back_explains_who_saw_it_and_asks_whether_its_holder_is_dead() -> None:
    told = call("acquire", 2, 3, "refused", kind_="LeaseHeld", fence_=10, nonce="n")
    asks = call("acquire", 3, 4, "refused", kind_="LeaseHeld", fence_=20, nonce="n", proof=10)
    assert explains([told, asks, grant(20, 2, 4)], STRICT, 10)
    assert not explains([grant(20, 0, 1), told, asks], STRICT, 10)


def test_what_a_store_may_lose_is_no_promise() -> None:
    undone = [*WRONG["renewed when broken"]]
    assert explains(undone, replace(STRICT, lossy=True))
    assert not explains(WRONG["granted beside a holder"], replace(STRICT, lossy=True))


def test_behind_a_loss_a_lease_comes_back_where_a_newer_one_is_lost_and_has_run_out() -> None:
    lossy = replace(STRICT, lossy=True)
    lost = [grant(10, 0, 1), grant(20, 7, 8)]
    assert explains([*lost, renew(10, 13, 14, fence_=25), grant(30, 20, 21)], lossy)
    assert not explains([*lost, renew(10, 10, 11, fence_=25)], lossy)  # its holder may still believe
    assert not explains([*lost, renew(10, 13, 14, fence_=15)], lossy)
    assert not explains([*lost, renew(10, 13, 14, fence_=25), renew(20, 15, 16)], lossy)


def test_a_lease_that_came_back_as_only_the_audit_log_tells() -> None:
    calls = [
        *(grant(10, 0, 1), call("renew", 12, 13, "unknown", fence=10)),
        call("acquire", 14, 15, "refused", kind_="LeaseHeld", fence_=15, nonce="n"),
    ]
    came_back = FinalRun(
        attempts={"1.fence": "10", "fence.10": "1", "fence.15": "1"}, events=[AuditEvent(1, "reinstated", 15, 1, {})]
    )
    assert not [*leases.register(History(calls=calls), {RUN: came_back}, STRICT)]
    assert [*leases.register(History(calls=[*calls, renew(10, 16, 17)]), {RUN: came_back}, STRICT)]


def test_a_break_that_the_store_lost_leaves_its_holder_where_it_was() -> None:
    broken = [grant(10, 0, 1), call("break", 2, 3, fence=10, fence_=15, force=True), grant(20, 3, 4), renew(20, 4, 5)]
    confirmed = [*broken, renew(10, 6, 7), renew(20, 8, 9)]
    assert [*leases.register(History(calls=confirmed), {}, STRICT)]
    assert not [*leases.register(History(calls=confirmed), {}, replace(STRICT, lossy=True))]
    not_broken = [one for one in confirmed if one.method != "break"]
    assert [*leases.register(History(calls=not_broken), {}, replace(STRICT, lossy=True))]


def test_a_clock_set_forward_may_end_a_lease_that_much_earlier() -> None:
    calls = [grant(10, 0, 1), grant(20, 2, 5.6)]
    assert not explains(calls)
    assert explains(calls, replace(STRICT, clock_slack_s=0.5))


def test_shrinking_leaves_what_contradicts_itself() -> None:
    """Of a long history with one wrong renewal, three results are left: nothing else is needed to refute it."""
    calls = []
    for number in range(30):
        began, fence = number * 10.0, 100 * (number + 1)
        calls += [
            grant(fence, began, began + 1),
            renew(fence, began + 2, began + 3),
            release(fence, began + 4, began + 5),
        ]
        calls.append(call("acquire", began + 3, began + 4, "refused", kind_="LeaseHeld", fence_=fence, nonce="n"))
    wrong = renew(1000, 166, 167)
    left = shrink(operations_of([*calls, wrong]), STRICT)
    assert str(wrong) in [op.call for op in left]
    assert len(left) <= 3


def belief(fence: int, began: float, ended: float, process: str = "") -> Belief:
    return Belief(process or f"of {fence}", 1, RUN, fence, began, ended)


def test_two_beliefs() -> None:
    assert not [*leases.exclusion(History(beliefs=[belief(10, 0, 5), belief(20, 5, 9)]))]
    overlapping = [belief(10, 0, 5), belief(20, 4.5, 9)]
    (found,) = leases.exclusion(History(beliefs=overlapping))
    assert "0.500 s" in found.message
    assert not [*leases.exclusion(History(beliefs=[overlapping[0], replace(overlapping[1], run="p/other")]))]
    forced = call("break", 3, 4, fence=10, fence_=15, force=True)
    assert not [*leases.exclusion(History(beliefs=overlapping, calls=[forced]))]
    assert not [*leases.exclusion(History(beliefs=overlapping, calls=[grant(20, 3, 4, proof=10)]))]
    assert [*leases.exclusion(History(beliefs=overlapping, calls=[replace(forced, asked=forced.asked | {"fence": 9})]))]


def test_one_belief_under_two_fences() -> None:
    beliefs = [belief(10, 0, 5, "a"), belief(15, 4, 9, "a"), belief(20, 8, 12)]
    back = renew(10, 3, 4, fence_=15)
    assert [*leases.exclusion(History(beliefs=beliefs[:2]))]
    assert not [*leases.exclusion(History(beliefs=beliefs[:2], calls=[back]))]
    assert [*leases.exclusion(History(beliefs=beliefs, calls=[back]))]
    forced = call("break", 7, 8, fence=15, fence_=16, force=True)
    assert not [*leases.exclusion(History(beliefs=beliefs, calls=[back, forced]))]


def test_fences_that_do_not_rise() -> None:
    lost = [grant(10, 0, 1), grant(20, 2, 3)]
    assert not [*leases.rising_fences(History(calls=[*lost, renew(10, 4, 5, fence_=25)]))]
    assert [*leases.rising_fences(History(calls=[*lost, renew(10, 4, 5, fence_=15)]))]
    assert [*leases.rising_fences(History(calls=[lost[0], renew(10, 4, 5, fence_=25), grant(20, 6, 7)]))]
    assert not [*leases.rising_fences(History(calls=[grant(10, 0, 1), grant(20, 2, 3)]))]
    assert not [*leases.rising_fences(History(calls=[grant(20, 0, 3), grant(10, 2, 4)]))]
    assert [*leases.rising_fences(History(calls=[grant(20, 0, 1), grant(10, 2, 3)]))]
    assert [*leases.rising_fences(History(calls=[grant(20, 0, 1), grant(20, 2, 3, nonce="other")]))]


def test_nonces() -> None:
    assert not [*leases.one_grant_a_nonce(History(calls=[grant(10, 0, 1), grant(10, 2, 3)]))]
    assert [*leases.one_grant_a_nonce(History(calls=[grant(10, 0, 1), grant(20, 2, 3, nonce="n10")]))]
    assert [*leases.one_grant_a_nonce(History(calls=[grant(10, 0, 1), grant(10, 2, 3, nonce="other")]))]
    member = grant(10, 2, 3, nonce="other", member_=True)
    assert not [*leases.one_grant_a_nonce(History(calls=[grant(10, 0, 1), member]))]


def test_deadlines() -> None:
    def history(until: float, held: float) -> History:
        deadline = ("a", {"t": 3.0, "run": RUN, "fence": 10, "until": until})
        return History(
            calls=[grant(10, 0, 2)],
            deadlines=[deadline],
            held=[("a", {"t": held, "to": held, "run": RUN, "fence": 10})],
        )

    assert not [*leases.deadlines(history(4.7, 4.6))]
    assert [*leases.deadlines(history(6.7, 4.6))]  # from the moment of the answer
    assert [*leases.deadlines(history(4.7, 5.1))]
    assert [*leases.deadlines(replace(history(4.7, 4.6), calls=[]))]
    back = replace(history(24.7, 4.6), calls=[grant(10, 0, 2), renew(10, 20, 21, fence_=15)])
    back.deadlines[0][1]["t"] = 21.0
    assert not [*leases.deadlines(back)]
    back.held[0][1].update({"t": 24.6, "to": 24.6, "fence": 15})
    assert not [*leases.deadlines(back)]
    back.held[0][1].update({"t": 25.1, "to": 25.1})
    assert [*leases.deadlines(back)]


def wait(began: float, ended: float, nonce: str, place: int, **more: Any) -> Call:
    return call("acquire", began, ended, "refused", nonce=nonce, kind_="LeaseHeld", place_=place, **more)


def test_first_come_first_served() -> None:
    first = [wait(1, 3, "n1", 1), wait(3, 5, "n1", 1), wait(5, 7, "n1", 1), grant(40, 7, 8, nonce="n1")]
    second = [wait(3.5, 5.5, "n2", 2), grant(30, 5.5, 6, nonce="n2")]
    (found,) = leases.first_come_first_served(History(calls=[*first, *second]), STRICT)
    assert found.invariant == "I9"
    in_order = [*first[:3], grant(40, 7, 8, nonce="n1"), wait(3.5, 5.5, "n2", 2), grant(50, 9, 10, nonce="n2")]
    assert not [*leases.first_come_first_served(History(calls=in_order), STRICT)]
    cut = [*first[:1], call("acquire", 3, 5, "unknown", nonce="n1"), *first[2:]]
    assert not [*leases.first_come_first_served(History(calls=[*cut, *second]), STRICT)]  # it may have lost its place
    slow = [first[0], grant(40, 13, 14, nonce="n1")]
    later = [wait(3.5, 12, "n2", 2), grant(30, 12, 12.5, nonce="n2")]
    assert not [*leases.first_come_first_served(History(calls=[*slow, *later]), STRICT)]
    last = [wait(1, 3, "n1", 1, last=True), *first[1:]]
    assert not [*leases.first_come_first_served(History(calls=[*last, *second]), STRICT)]
    gave_up = [*first[:3]]
    assert not [*leases.first_come_first_served(History(calls=[*gave_up, *second]), STRICT)]


def test_grants_in_a_quarantine() -> None:
    quarantine = {"e": "quarantine", "project": "p", "began_us": 1_000_000, "until_us": 8_000_000}
    inside = FinalRun(events=[AuditEvent(2_000_000, "granted", 10, 1, {})])
    behind = FinalRun(events=[AuditEvent(8_000_000, "granted", 10, 1, {}), AuditEvent(2_000_000, "released", 9, 1, {})])
    history = History(runner=[quarantine])

    def found(run: str, state: FinalRun) -> list[leases.Violation]:
        return [*leases.no_grant_in_quarantine(history, {run: state}, STRICT)]

    assert found(RUN, inside)
    assert not found(RUN, behind)
    assert not found("other/r", inside)
    own = {"1.fence": "10", "fence.10": "1", "fence.15": "1"}
    assert not found(RUN, FinalRun(attempts=own, events=[AuditEvent(2_000_000, "reinstated", 10, 1, {})]))
    assert found(RUN, FinalRun(attempts=own, events=[AuditEvent(2_000_000, "reinstated", 15, 1, {})]))
    assert not found(RUN, FinalRun(attempts=own, events=[AuditEvent(8_000_000, "reinstated", 15, 1, {})]))


@pytest.mark.parametrize(("took", "right"), [(3.0, True), (9.0, False), (None, False)])
def test_recovery(took: float | None, right: bool) -> None:
    history = History(runner=[{"e": "recovery", "run": RUN, "took": took, "bound": 8.0}])
    assert [*leases.recoveries(history)] == [] or not right
    assert bool([*leases.recoveries(history)]) is not right


def test_renewals_under_limits() -> None:
    limits = {"e": "only_limits", "began": 0.0, "ended": 10.0}
    throttled = call("renew", 1, 2, "refused", kind_="Throttled", fence=10)
    silent = call("renew", 3, 6, "unknown", fence=10)
    assert [*leases.renewals_pass(History(calls=[throttled]))]
    assert [*leases.renewals_pass(History(calls=[silent], runner=[limits]))]
    assert not [*leases.renewals_pass(History(calls=[silent]))]
    assert not [*leases.renewals_pass(History(calls=[renew(10, 3, 4)], runner=[limits]))]
