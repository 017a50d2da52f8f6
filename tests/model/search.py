"""Breadth-first search: the first violation that it finds has the shortest trace."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.model.bounds import Bounds
from tests.model.clients import Clients
from tests.model.cluster import Step
from tests.model.rules import Rules
from tests.model.scripts import append_accepted
from tests.model.state import START, State

#: What must never be; README.md says what each is.
INVARIANTS = {
    "I1": "two clients are HELD by their own deadlines",
    "I2": "a grant's fence is not above all earlier ones",
    "I3": "an append under this fence would be accepted, though a higher one was granted, or another's",
    "I4": "one nonce gets two grants",
    "I5": "a token changes another's record, or one below the last grant's gets no fence above it",
    "I11": "a grant within the quarantine",
}


@dataclass(frozen=True)
class Result:
    """What a search found; `violated`: the invariant, or '' where none was."""

    violated: str
    trace: tuple[tuple[int, str], ...]
    states: int
    seconds: float


class Model(Clients):
    """The whole model: what may happen next, and what must never."""

    def steps(self, state: State) -> Iterator[Step]:
        """Yield everything that may happen next."""
        if state.now < START + self.bounds.ticks:
            yield Step("", self.tick(state))
        yield from self.calls(state)
        yield from self.faults(state)

    def violated(self, state: State) -> str:
        """Name the invariant that a state breaks: I1 or I3."""
        first, second = state.clients
        if state.held(first) and state.held(second) and min(first.token, second.token).nonce not in state.broken:
            return "I1"
        elected = state.elected
        if not self.answers(state, len(state.primaries) - 1):
            return ""
        record, incarnation = elected.dataset.record, self.incarnation(elected)
        for fence, nonce in state.granted:
            own = fence == record.fence or nonce == record.nonce
            accepted = append_accepted(self.rules, elected.dataset, incarnation, fence)
            if accepted and not (own and record.fence >= state.newest[0]) and not self.excused(state, nonce):
                return "I3"
        return ""


def search(rules: Rules, bounds: Bounds, *, only: str = "", goal: Callable[[State], bool] = lambda _: False) -> Result:
    """Search all interleavings; stop at the first violation (of the invariant ``only``, where it is given).

    A state that meets the ``goal`` ends the search, too, as "reached".
    """
    started = time.monotonic()
    model, start = Model(rules, bounds), bounds.start(rules)
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        for label, after, wrong in model.steps(state):
            new = after not in came_from
            for found in (wrong, model.violated(after) if new else "", "reached" if goal(after) else ""):
                if found and only in ("", found):
                    trace = (*_trace(came_from, state), (state.now, label))
                    return Result(found, trace, len(came_from), time.monotonic() - started)
            if new:
                came_from[after] = (state, label)
                queue.append(after)
    return Result("", (), len(came_from), time.monotonic() - started)


def _trace(came_from: dict[State, tuple[State, str] | None], state: State) -> tuple[tuple[int, str], ...]:
    steps = []
    step = came_from[state]
    while step is not None:
        state, label = step
        if label:
            steps.append((state.now, label))
        step = came_from[state]
    return tuple(reversed(steps))
