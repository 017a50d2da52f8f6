"""What is searched: scenarios that must be safe, what each rule keeps from happening, and where promises end."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.model.bounds import Bounds
from tests.model.scripts import Timing
from tests.model.state import Budget

_GUARDED = Timing(lock_delay=1, slack=1)

#: Small bounds: each is searched within seconds.
SMALL = {
    "calm": Bounds("delays, lost replies, repeated nonces, releases", ticks=4, nonces=(2, 1), releases=True),
    "operator": Bounds(
        "revoke or break by force, releases", ticks=4, budget=Budget(breaks=1), revokes=True, releases=True
    ),
    "taken-back": Bounds(
        "a grant that did not reach its caller is taken back; the store dies, and starts from an older state",
        ticks=2,
        calls=2,
        budget=Budget(restarts=1),
        restart_from=("disk",),
        renews=(0,),
    ),
    "restart": Bounds("the store dies, and starts empty or from an older state", ticks=5, budget=Budget(restarts=1)),
    "restart-skewed": Bounds(
        "the same, its clock ahead or behind", ticks=4, budget=Budget(restarts=1), new_skews=(-1, 2), renews=(0,)
    ),
    "clock": Bounds(
        "the store's clock steps twice, back or forward",
        ticks=3,
        timing=_GUARDED,
        budget=Budget(clock_steps=2),
        steps=(-2, 1, 2),
    ),
    "restart-clock": Bounds(
        "the store dies, starts from an older state, and its clock steps within the quarantine",
        ticks=4,
        timing=_GUARDED,
        budget=Budget(restarts=1, clock_steps=1),
        steps=(-2, 1, 2),
        restart_from=("disk",),
    ),
    "failover-3": Bounds(
        "3 nodes, W = 1: any replica is promoted, the old primary goes on",
        nodes=3,
        ticks=4,
        budget=Budget(promotions=1),
        renews=(0,),
    ),
    "failover-4": Bounds("4 nodes, W = 2: the same", nodes=4, ticks=4, budget=Budget(promotions=1), renews=(0,)),
    "fail-back": Bounds(
        "3 nodes: two failovers, back to a server that was demoted",
        nodes=3,
        ticks=3,
        budget=Budget(promotions=2),
        old_primary_answers=False,
    ),
    "going-back": Bounds(
        "3 nodes: a primary that was cut off, and never demoted, is named again",
        nodes=3,
        ticks=3,
        budget=Budget(promotions=1, goings_back=1),
        renews=(0,),
    ),
}

#: For longer searches: more time, more grants, more faults; minutes each.
LARGER = {
    "calm": replace(SMALL["calm"], ticks=7, nonces=(2, 2)),
    "operator": replace(SMALL["operator"], ticks=6, nonces=(2, 1), budget=Budget(breaks=2)),
    "operator-restart": Bounds("break by force, and the store dies", ticks=5, budget=Budget(restarts=1, breaks=1)),
    "restart": replace(SMALL["restart"], ticks=6, nonces=(1, 2)),
    "restart-ttl-3": replace(
        SMALL["restart-skewed"], ticks=6, timing=Timing(ttl=3, max_ttl=3), new_skews=(-2, -1, 0, 1, 2, 3)
    ),
    "restart-skewed": replace(SMALL["restart-skewed"], ticks=5, renews=(0, 1), releases=True),
    "restart-clock": replace(SMALL["restart-clock"], ticks=5, restart_from=("empty", "disk")),
    "taken-back": replace(SMALL["taken-back"], ticks=4, restart_from=("empty", "disk")),
    "clock": replace(SMALL["clock"], ticks=5, steps=(-3, -2, -1, 1, 2, 3)),
    "failover-3": replace(SMALL["failover-3"], ticks=6, renews=(0, 1)),
    "failover-3-grants": replace(SMALL["failover-3"], ticks=5, nonces=(2, 2), renews=(0, 1)),
    "failover-3-skewed": replace(SMALL["failover-3"], renews=(0, 1), new_skews=(-1, 0, 1, 2, 3)),
    "failover-3-operator": replace(
        SMALL["failover-3"], budget=Budget(promotions=1, breaks=1), releases=True, revokes=True
    ),
    "failover-3-clock": replace(
        SMALL["failover-3"], timing=_GUARDED, budget=Budget(promotions=1, clock_steps=1), steps=(-2, 1, 2)
    ),
    "restart-3": Bounds(
        "3 nodes, W = 1: the primary dies and starts empty, or another one is promoted",
        nodes=3,
        ticks=5,
        budget=Budget(promotions=1, restarts=1),
        restart_from=("empty",),
        renews=(0,),
    ),
    "failover-4": replace(SMALL["failover-4"], ticks=5, renews=(0, 1)),
    "fail-back": replace(SMALL["fail-back"], ticks=4, old_primary_answers=True),
    "going-back": replace(SMALL["going-back"], ticks=5),
    "going-back-both": replace(SMALL["going-back"], ticks=4, renews=(0, 1)),
}


@dataclass(frozen=True)
class Case:
    """Rules switched off together, the scenario, and the invariant that is then broken.

    `beside` names rules that do the same work by other means: they are off as well, to show what this one is for.
    """

    rule: str
    scenario: str
    breaks: str
    beside: tuple[str, ...] = ()

    @property
    def off(self) -> tuple[str, ...]:
        """The rules that are off."""
        return (self.rule, *self.beside)


CASES = (
    Case("fence_follows_clock", "restart", "I2"),
    Case("quarantine", "restart", "I1"),
    Case("quarantine_lasts_max_ttl", "restart", "I1"),
    Case("quarantine_covers_slack", "restart-clock", "I1"),
    Case("incarnation_is_replid", "fail-back", "I1"),
    Case("replicas_before_quarantine", "failover-3", "I1"),
    Case("wait", "failover-3", "I1"),
    Case("wait_is_half", "failover-4", "I1"),
    Case("claim_in_quarantine", "restart", "I3"),
    Case("claim_names_incarnation", "restart", "I3"),
    Case("late_reply_discarded", "restart", "I1", beside=("claim_names_incarnation",)),
    Case("reinstated_under_new_fence", "restart", "I3"),
    Case("reinstated_behind_quarantine", "restart", "I1"),
    Case("reinstatement_is_guarded", "restart-clock", "I1", beside=("guard_in_every_script",)),
    Case("alias_is_of_same_attempt", "restart", "I5"),
    Case("alias_is_since_grant", "fail-back", "I3"),
    Case("retry_needs_confirmed", "restart-skewed", "I1"),
    Case("append_checks_incarnation", "restart", "I3"),
    Case("deadline_from_sending", "calm", "I1"),
    Case("retry_keeps_expiry", "calm", "I1"),
    Case("retry_is_a_write", "failover-3", "I1"),
    Case("nonce_known", "calm", "I4"),
    Case("remaining_within_ttl", "clock", "I1"),
    Case("release_names_fence", "calm", "I5"),
    Case("release_ends_belief", "calm", "I1"),
    Case("abandon_names_call", "taken-back", "I1"),
    Case("renewal_is_delivery", "taken-back", "I1"),
    Case("lock_delay", "clock", "I1"),
    Case("clock_guard", "clock", "I1"),
    Case("guard_in_every_script", "clock", "I1", beside=("guard_remembers",)),
    Case("guard_remembers", "clock", "I1"),
    Case("full_sync_is_loss", "going-back", "I1"),
)

#: Where the promises end: with every rule on, these are broken.
BOUNDARIES = {
    "clock-behind": (
        "the store loses its data, and its clock is Q or more behind",
        replace(SMALL["restart-skewed"], new_skews=(-2,)),
        "I2",
    ),
    "new-coordinator": (
        "the store's clock steps forward, and a coordinator decides that never saw it before",
        replace(SMALL["clock"], steps=(2,), budget=Budget(clock_steps=1, coordinators=1)),
        "I1",
    ),
    "lost-break": (
        "a break by force, and the grant behind it, are lost with the data; the broken holder still believes",
        Bounds("", ticks=4, budget=Budget(restarts=1, breaks=1), judges_broken=True),
        "I3",
    ),
}
