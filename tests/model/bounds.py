"""How far a search goes: the topology, the faults that may happen, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from tests.model.rules import Rules
from tests.model.scripts import Timing
from tests.model.state import EMPTY, START, Budget, Client, Dataset, Meta, Primary, Replica, State

_PLAIN, _NO_FAULTS = Timing(), Budget()


@dataclass(frozen=True)
class Bounds:
    """One scenario: all interleavings within these bounds are searched."""

    title: str
    nodes: int = 1
    ticks: int = 6
    """How long it goes on."""
    nonces: tuple[int, int] = (1, 1)
    """How many leases each client asks for, one after the other."""
    timing: Timing = _PLAIN
    budget: Budget = _NO_FAULTS
    restart_from: tuple[str, ...] = ("empty", "disk")
    """What a server that starts again may find: nothing, or what it wrote to disk at some moment."""
    new_skews: tuple[int, ...] = (0,)
    """By how much the clock of a server that starts or is promoted may be ahead of real time."""
    steps: tuple[int, ...] = ()
    """By how much a clock may step."""
    renews: tuple[int, ...] = (0, 1)
    """Which clients renew."""
    releases: bool = False
    revokes: bool = False
    calls: int = 0
    """How often a client may ask with one nonce; 0: as often as it likes, and nothing is taken back."""
    old_primary_answers: bool = True
    """Whether clients still reach a primary after another one was elected."""
    judges_broken: bool = False
    """Whether a lease that was ended by force is judged after a loss, too (it is no promise)."""

    def start(self, rules: Rules) -> State:
        """Return the first state: an opened partition, no run yet, every replica in step."""
        primary = Primary("A", replid=1, skew=0, since=0, syncs=0, dataset=EMPTY, disk=EMPTY)
        incarnation = incarnation_of(primary, rules.incarnation_is_replid, with_syncs=False)
        opened = Dataset(Meta(incarnation, quarantine_until=0))
        replicas = tuple(Replica(leader=1, name="", dataset=opened) for _ in range(self.nodes - 1))
        return State(
            START,
            (primary._replace(dataset=opened, disk=opened),),
            replicas,
            (Client(), Client()),
            ((START, 0),),
            self.budget,
            opened=1 << incarnation,
        )


#: Fewer full syncs than this happen within any bounds.
_SYNCS = 8


def incarnation_of(primary: Primary, by_replid: bool, with_syncs: bool) -> int:
    """Return what a script compares with the partition's `meta`, as a small number."""
    if not by_replid:
        return ord(primary.name) - ord("A") + 1
    return primary.replid * _SYNCS + (primary.syncs if with_syncs else 0)
