"""The rules are safe within small bounds, and each of them is needed: `python -m tests.model` searches further."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.model.rules import NAMES, Rules
from tests.model.scenarios import BOUNDARIES, CASES, SMALL, Case
from tests.model.search import search
from tests.model.state import State


@pytest.mark.parametrize("scenario", SMALL)
def test_all_rules_together_are_safe(scenario: str) -> None:
    result = search(Rules(), SMALL[scenario])
    assert not result.violated, result.trace
    assert result.states > 1000, "the scenario's bounds leave nothing to search"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_each_rule_is_needed(case: Case) -> None:
    result = search(Rules().without(*case.off), SMALL[case.scenario], only=case.breaks)
    assert result.violated == case.breaks


def test_every_rule_has_a_case() -> None:
    assert [case.rule for case in CASES] == list(NAMES)


@pytest.mark.parametrize("name", BOUNDARIES)
def test_where_the_promises_end(name: str) -> None:
    _, bounds, breaks = BOUNDARIES[name]
    assert search(Rules(), bounds, only=breaks).violated == breaks


def test_the_shortest_trace_is_found() -> None:
    # Given a store without a quarantine, when it loses a grant, then the next one needs nothing in between.
    result = search(Rules().without("quarantine"), SMALL["restart"], only="I1")
    assert [label.split(",")[0] for _, label in result.trace] == [
        "A: a grant to client 1 (nonce 2)",
        "client 1 gets the grant of fence 100: HELD until 12",
        "A dies and starts again with nothing",
        "A: a grant to client 2 (nonce 3)",
        "client 2 gets the grant of fence 100: HELD until 12",
    ]


def renewed_after_a_loss(state: State) -> bool:
    """The first grant's holder is HELD under a record that was renewed in the new incarnation."""
    first = state.clients[0]
    return state.held(first) and state.elected.dataset.record.fence == first.fence


def granted_after_a_loss(state: State) -> bool:
    """A grant of the new incarnation reached the second client; the first one's lease is over."""
    first, second = state.clients
    return 0 < first.fence < second.fence == state.elected.dataset.record.fence


def reinstated_after_a_loss(state: State) -> bool:
    """The first grant's holder was suspended, and is HELD under a fence of its own that no grant had before."""
    first = state.clients[0]
    fences = [fence for fence, nonce in state.granted if nonce == first.token.nonce]
    return state.held(first) and len(fences) == 2 and first.fence == max(fences) == state.elected.dataset.record.fence


@pytest.mark.parametrize("scenario", ["restart", "failover-3", "failover-4", "going-back"])
@pytest.mark.parametrize("goal", [renewed_after_a_loss, granted_after_a_loss, reinstated_after_a_loss])
def test_the_rules_are_not_safe_by_doing_nothing(scenario: str, goal: Callable[[State], bool]) -> None:
    rules, bounds = Rules(), SMALL[scenario]
    opened = bounds.start(rules).elected.dataset.meta.incarnation

    def reached(state: State) -> bool:
        return opened < state.elected.dataset.record.opened_in == state.elected.dataset.meta.incarnation and goal(state)

    assert search(rules, bounds, goal=reached).violated == "reached"
