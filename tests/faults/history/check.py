"""All invariants over one history."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from tests.faults.history import leases, logs
from tests.faults.history.final import FinalRun
from tests.faults.history.leases import Violation
from tests.faults.history.logs import Account
from tests.faults.history.records import History
from tests.faults.history.register import Rules

#: Violations of one invariant that are told: the others are mostly more of the same.
_TOLD = 3


def check(history: History, final: Mapping[str, FinalRun], rules: Rules) -> tuple[list[Violation], Account]:
    """Return what does not hold, I1 to I13 (I8 of a child under `runlease run --strict` comes with that command)."""
    account = Account()
    found = chain(
        leases.exclusion(history, final),
        leases.rising_fences(history, final),
        logs.fencing(history, final, rules),
        leases.one_grant_a_nonce(history),
        leases.register(history, final, rules),
        logs.attempts(history, final, rules),
        logs.points(history, final, rules, account),
        logs.checkpoints(history, final, rules),
        leases.deadlines(history, final),
        leases.first_come_first_served(history, rules),
        leases.recoveries(history),
        leases.no_grant_in_quarantine(history, final, rules),
        leases.renewals_pass(history),
        logs.admission(history, rules),
    )
    told: dict[str, int] = {}
    kept = []
    for violation in found:
        told[violation.invariant] = told.get(violation.invariant, 0) + 1
        if told[violation.invariant] <= _TOLD:
            kept.append(violation)
    return kept, account
