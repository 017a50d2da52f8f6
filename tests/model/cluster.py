"""The store's nodes: what every script passes, how a write becomes durable, and the faults."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from typing import NamedTuple

from tests.model.bounds import Bounds, incarnation_of
from tests.model.rules import Rules
from tests.model.scripts import Gate
from tests.model.state import EMPTY, Client, Dataset, Meta, Primary, Replica, State


class Step(NamedTuple):
    """What happens next; `broken`: the invariant that it breaks, or ''."""

    label: str
    state: State
    violated: str = ""


class Written(NamedTuple):
    """A state after a control write; `acked`: WAIT was satisfied; `by`: by how many replicas."""

    state: State
    acked: bool
    by: int


class Cluster:
    """Data nodes under the rules and bounds of one search."""

    def __init__(self, rules: Rules, bounds: Bounds) -> None:
        self.rules, self.bounds, self.timing = rules, bounds, bounds.timing
        self.wait = max(0, bounds.nodes // 2 - (0 if rules.wait_is_half else 1)) if rules.wait else 0
        self.quarantine = bounds.timing.max_ttl - (0 if rules.quarantine_lasts_max_ttl else 1)
        if rules.quarantine_covers_slack:
            self.quarantine += bounds.timing.slack
        self.counts_syncs = rules.full_sync_is_loss and bounds.budget.goings_back > 0

    def incarnation(self, primary: Primary) -> int:
        return incarnation_of(primary, self.rules.incarnation_is_replid, self.counts_syncs)

    def followers(self, state: State, primary: Primary) -> list[int]:
        return [i for i, replica in enumerate(state.replicas) if replica.leader == primary.replid]

    def answers(self, state: State, index: int) -> bool:
        """Whether a script on this primary does more than refuse.

        A primary that was cut off may list replicas that have left, so it never refuses for want of them; what it
        writes without W of them is never acknowledged and never seen, unless it is elected again.
        """
        primary = state.primaries[index]
        enough = len(self.followers(state, primary)) >= self.wait
        if index == len(state.primaries) - 1:
            return enough or not self.rules.replicas_before_quarantine
        return self.bounds.old_primary_answers and (enough or not self.rules.retry_is_a_write)

    # Every script begins here.

    def pass_gate(self, state: State, index: int, *, grants: bool = False) -> tuple[State, Gate]:
        """Return the state and the findings behind the gate; ``grants``: of a script that may grant."""
        primary = state.primaries[index]
        now, incarnation, meta = state.now + primary.skew, self.incarnation(primary), primary.dataset.meta
        latest = self._latest_skew(state) + self.timing.slack
        judged = grants or self.rules.guard_in_every_script
        stepped = self.rules.clock_guard and judged and primary.skew > latest
        if meta.incarnation != incarnation:
            until = now + self.quarantine if self.rules.quarantine else now
            meta = Meta(incarnation, until)
        elif stepped:
            meta = Meta(incarnation, now + self.quarantine)
        state = self._sighted(state, primary.skew)
        if meta != primary.dataset.meta:
            state = self._opened(self.put(state, index, primary.dataset._replace(meta=meta)), incarnation)
        return state, Gate(now, now < meta.quarantine_until, incarnation)

    def _latest_skew(self, state: State) -> int:
        if self.rules.guard_remembers:
            return min(skew for _, skew in state.sightings)
        return state.sightings[-1][1]

    def _sighted(self, state: State, skew: int) -> State:
        """Remember a TIME that the coordinator saw: for as long as a quarantine, at least the last one."""
        if not self.bounds.steps and self.bounds.new_skews == (0,):
            return state
        if not self.rules.guard_remembers:
            return state._replace(sightings=((0, skew),))
        kept = [(at, seen) for at, seen in state.sightings if at >= state.now - self.timing.max_ttl and seen < skew]
        return state._replace(sightings=(*kept, (state.now, skew)))

    def _opened(self, state: State, incarnation: int) -> State:
        bit = 1 << incarnation
        clients = tuple(
            client._replace(claims=client.claims | bit) if state.held(client) else client for client in state.clients
        )
        return state._replace(opened=state.opened | bit, clients=clients)

    @staticmethod
    def put(state: State, index: int, dataset: Dataset) -> State:
        primaries = list(state.primaries)
        primaries[index] = primaries[index]._replace(dataset=dataset)
        return state._replace(primaries=tuple(primaries))

    def write(self, state: State, index: int, dataset: Dataset) -> Iterator[Written]:
        """Write, and let any of the followers have it: replication is asynchronous, WAIT counts."""
        state = self.put(state, index, dataset)
        followers = self.followers(state, state.primaries[index])
        seen = set()
        for count in range(len(followers) + 1):
            for chosen in combinations(followers, count):
                replicas = list(state.replicas)
                for i in chosen:
                    replicas[i] = replicas[i]._replace(dataset=dataset)
                replicas.sort()
                after = state._replace(replicas=tuple(replicas))
                if after not in seen:
                    seen.add(after)
                    yield Written(after, count >= self.wait, count)

    # Faults.

    def faults(self, state: State) -> Iterator[Step]:
        """Yield what may go wrong with the store next."""
        yield from self._promotions(state)
        yield from self._joins(state)
        yield from self._restarts(state)
        yield from self._clock_steps(state)
        yield from self._goings_back(state)
        yield from self._coordinators(state)

    def _promotions(self, state: State) -> Iterator[Step]:
        if not state.budget.promotions:
            return
        budget = state.budget._replace(promotions=state.budget.promotions - 1)
        for i, replica in enumerate(state.replicas):
            if replica in state.replicas[:i]:
                continue
            names = {primary.name for primary in state.primaries} | {each.name for each in state.replicas}
            name = replica.name or next(letter for letter in "ABCDEF" if letter not in names)
            for skew in self.bounds.new_skews:
                primary = Primary(name, self._new_replid(state), skew, state.now, 0, replica.dataset, EMPTY)
                rest = state.replicas[:i] + state.replicas[i + 1 :]
                after = self._tidied(
                    state._replace(
                        primaries=(*state.primaries, primary), replicas=rest, budget=budget, losses=state.losses + 1
                    )
                )
                clock = f", its clock {skew:+d}" if skew else ""
                yield Step(
                    f"failover: {name} is promoted with {_brief(replica.dataset)}{clock}; {state.elected.name} does"
                    " not know yet",
                    after,
                )

    def _joins(self, state: State) -> Iterator[Step]:
        """Yield replicas and former primaries that turn to the elected primary, and take its data."""
        elected = state.elected
        for i, replica in enumerate(state.replicas):
            if replica.leader == elected.replid or replica in state.replicas[:i]:
                continue
            rest = state.replicas[:i] + state.replicas[i + 1 :]
            full = replica.dataset != elected.dataset
            yield Step(
                f"a replica{' ' + replica.name if replica.name else ''} turns to {elected.name}"
                + (" (full sync)" if full else ""),
                self._joined(state._replace(replicas=rest), replica.name, full=full),
            )
        for i, old in enumerate(state.primaries[:-1]):
            rest_primaries = state.primaries[:i] + state.primaries[i + 1 :]
            yield Step(
                f"{old.name} learns that it is no longer primary, and becomes a replica of {elected.name} (full sync)",
                self._joined(state._replace(primaries=rest_primaries), old.name, full=True),
            )

    def _joined(self, state: State, name: str, *, full: bool) -> State:
        elected = state.elected
        if full and self.counts_syncs:
            elected = elected._replace(syncs=elected.syncs + 1)
        kept = name if not self.rules.incarnation_is_replid else ""
        replicas = sorted((*state.replicas, Replica(elected.replid, kept, elected.dataset)))
        return self._tidied(state._replace(primaries=(*state.primaries[:-1], elected), replicas=tuple(replicas)))

    def _tidied(self, state: State) -> State:
        """Forget what a primary holds that can neither acknowledge nor be elected again."""
        if self.bounds.budget.goings_back:
            return state
        primaries = [
            primary if self.answers(state, i) else primary._replace(skew=0, since=0, dataset=EMPTY, disk=EMPTY)
            for i, primary in enumerate(state.primaries[:-1])
        ]
        return state._replace(primaries=(*primaries, state.elected))

    def _restarts(self, state: State) -> Iterator[Step]:
        if not state.budget.restarts:
            return
        elected = state.elected
        if elected.disk != elected.dataset and "disk" in self.bounds.restart_from:
            primary = elected._replace(disk=elected.dataset)
            yield Step(
                f"{elected.name} writes its data to disk", state._replace(primaries=(*state.primaries[:-1], primary))
            )
        budget = state.budget._replace(restarts=state.budget.restarts - 1)
        for found, skew in product(self.bounds.restart_from, self.bounds.new_skews):
            dataset = elected.disk if found == "disk" else EMPTY
            primary = Primary(elected.name, self._new_replid(state), skew, state.now, 0, dataset, dataset)
            after = state._replace(primaries=(*state.primaries[:-1], primary), budget=budget, losses=state.losses + 1)
            clock = f", its clock {skew:+d}" if skew else ""
            yield Step(f"{elected.name} dies and starts again with {_brief(dataset)}{clock}", after)

    def _clock_steps(self, state: State) -> Iterator[Step]:
        if not state.budget.clock_steps:
            return
        budget = state.budget._replace(clock_steps=state.budget.clock_steps - 1)
        elected = state.elected
        for step in self.bounds.steps:
            primary = elected._replace(skew=elected.skew + step)
            yield Step(
                f"{elected.name}'s clock steps by {step:+d}",
                state._replace(primaries=(*state.primaries[:-1], primary), budget=budget),
            )

    def _goings_back(self, state: State) -> Iterator[Step]:
        """Yield an old primary that is named again before it was ever demoted: its replid stays."""
        if not state.budget.goings_back:
            return
        budget = state.budget._replace(goings_back=state.budget.goings_back - 1)
        for i, old in enumerate(state.primaries[:-1]):
            primaries = (*state.primaries[:i], *state.primaries[i + 1 :], old)
            yield Step(
                f"{old.name}, which was never demoted, is named primary again, with {_brief(old.dataset)}",
                state._replace(primaries=primaries, budget=budget, losses=state.losses + 1),
            )

    def _coordinators(self, state: State) -> Iterator[Step]:
        """Yield a coordinator that has seen no TIME before this one, and decides from now on."""
        if state.budget.coordinators:
            budget = state.budget._replace(coordinators=state.budget.coordinators - 1)
            sightings = ((state.now, state.elected.skew),)
            yield Step("another coordinator starts, and serves", state._replace(sightings=sightings, budget=budget))

    @staticmethod
    def _new_replid(state: State) -> int:
        return max(primary.replid for primary in state.primaries) + 1


def _brief(dataset: Dataset) -> str:
    if dataset == EMPTY:
        return "nothing"
    record = dataset.record
    if record.end == "absent":
        return "no run"
    return f"fence {record.fence}" + (f" ({record.end})" if record.end else f" until {record.expiry}")


def holders(state: State) -> list[Client]:
    """Return the clients that are HELD."""
    return [client for client in state.clients if state.held(client)]
