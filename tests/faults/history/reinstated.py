"""Which fences are of one lease: one that comes back behind a loss of the store's data gets a new one.

What names an earlier fence of a lease means the lease all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.faults.history.final import FinalRun
from tests.faults.history.records import NEVER, Call

NOTHING: Mapping[str, FinalRun] = {}


@dataclass(frozen=True, slots=True)
class Reinstatement:
    """A lease that came back under a new fence, at some moment between ``began`` and ``ended``."""

    fence: int
    lease: int
    began: float
    ended: float
    """`NEVER`: nobody was told."""
    line: str


class Leases:
    """The fences of all leases, by what holders were told and by what the store has in the end."""

    def __init__(self, calls: Iterable[Call], final: Mapping[str, FinalRun] = NOTHING) -> None:
        """Take them from answered renewals, and from attempts."""
        self._renewals = [call for call in calls if call.method == "renew"]
        self._final = final
        self._before: dict[tuple[str, int], int] = {}
        for run, state in final.items():
            own = state.fences
            for fence, attempt in state.attempt_of.items():
                if attempt in own and own[attempt] < fence:
                    self._before[run, fence] = own[attempt]
        for call in self._renewals:
            if call.result == "ok" and call.told > call.fence:
                self._before[call.run, call.told] = call.fence

    def lease(self, run: str, fence: int) -> int:
        """Return the fence that a lease was granted under, by any of its fences."""
        while (run, fence) in self._before:
            fence = self._before[run, fence]
        return fence

    def reinstated(self, run: str) -> list[Reinstatement]:
        """Return the reinstatements of a run's leases under new fences, in the order of the fences.

        Each may be the work of any renewal under its lease that got no answer, or got this one.
        """
        state = self._final.get(run, FinalRun())
        told = {event.fence for event in state.events if event.kind == "reinstated"}
        told |= {call.told for call in self._renewals if call.run == run and call.result == "ok"}
        return [self._reinstatement(run, fence) for fence in sorted(told) if (run, fence) in self._before]

    def _reinstatement(self, run: str, fence: int) -> Reinstatement:
        lease = self.lease(run, fence)
        renewals = [call for call in self._renewals if call.run == run and self.lease(run, call.fence) == lease]
        answered = [call for call in renewals if call.result == "ok" and call.told == fence]
        first = min(answered, key=lambda call: call.ended, default=None)
        silent = [call for call in renewals if call.result == "unknown"]
        began = min((call.began for call in (*answered, *silent)), default=-NEVER)
        line = str(first) if first else f"fence {fence} for {lease}, by the audit log"
        return Reinstatement(fence, lease, began, first.ended if first else NEVER, line)
