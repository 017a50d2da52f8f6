"""The invariants of what was logged: fencing, points once and in order, attempts and the audit log, rate limits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults.history.final import FinalRun, LoggedPoint
from tests.faults.history.leases import Violation, granted
from tests.faults.history.records import NEVER, Entry, History, Record
from tests.faults.history.register import Rules
from tests.faults.history.reinstated import Leases

#: Acknowledged entries are kept for 5 s to be sent again; and it takes a moment to reach the store again.
RESENT_WITHIN_S = 8.0
_GRANTS = ("granted", "created")


def fencing(history: History, final: Mapping[str, FinalRun], rules: Rules) -> Iterator[Violation]:
    """I3: what is sent under a fence when another's newer one is known is not accepted.

    But for what comes in when its lease has come back under one that is above that.
    """
    leases = Leases(history.calls, final)
    back = {run: leases.reinstated(run) for run in history.runs}
    newer: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
    for call in granted(history.calls):
        newer[call.run].append((call.ended, call.fence, str(call)))
    for call in history.calls:
        # A forced break that the store loses leaves its holder where it was: no promise (tests/model/README.md).
        if call.method == "break" and call.result == "ok" and call.asked["force"] and not rules.lossy:
            newer[call.run].append((call.ended, int(call.answer["fence"]), str(call)))
    for run, reinstated in back.items():
        newer[run] += [(each.ended, each.fence, each.line) for each in reinstated]
    for stream in history.streams:
        lease = leases.lease(stream.run, stream.fence)
        own = [each for each in back.get(stream.run, ()) if each.lease == lease]
        for entry in stream.entries.values():
            highest = max([stream.fence, *(each.fence for each in own if each.began < entry.acked)])
            for known, fence, line in newer[stream.run]:
                if fence > highest and known < entry.sent and entry.acked < NEVER:
                    what = f"{stream.process} sent entry {entry.seq} at {entry.sent:.3f} under fence {stream.fence}"
                    yield Violation("I3", f"{what}: accepted at {entry.acked:.3f}", (line,))
                    return


def attempts(history: History, final: Mapping[str, FinalRun], rules: Rules) -> Iterator[Violation]:
    """I6: attempts are the delivered grants, numbered and under rising fences, and the audit log tells the same."""
    asked = {(call.run, call.asked["nonce"]) for call in history.calls if call.method == "acquire"}
    leases = Leases(history.calls, final)
    for run, state in final.items():
        fences = state.fences
        listed = [fences[number] for number in sorted(fences)]
        if sorted(fences) != list(range(1, len(fences) + 1)) and not rules.lossy:
            yield Violation("I6", f"the attempts of {run} are {sorted(fences)}")
        if listed != sorted(set(listed)):
            yield Violation("I2", f"the fences of {run}'s attempts do not rise: {listed}")
        nonces = {name.removeprefix("nonce.") for name in state.attempts if name.startswith("nonce.")}
        for nonce in sorted(nonce for nonce in nonces if (run, nonce) not in asked):
            yield Violation("I6", f"{run} was granted to nonce {nonce}, which nobody asked with")
        if rules.lossy:
            continue
        for call in granted(history.calls):
            if call.run == run and not call.asked["sync"] and leases.lease(run, call.fence) not in listed:
                yield Violation("I6", f"a grant of {run} is no attempt", (str(call),))
        told = [event.fence for event in state.events if event.kind in _GRANTS]
        back = {event.fence for event in state.events if event.kind == "given-back"}
        kept = [fence for fence in told if fence not in back or fence in listed]
        if kept != listed:
            yield Violation("I6", f"the audit log of {run} grants {kept}, its attempts are {listed}")


@dataclass(slots=True)
class Life:
    """One attempt of one process: what it logged and what it was told became of it."""

    process: str
    run: str
    fence: int
    writer: str
    journaled: bool
    """Whether all that `log` has returned for is on disk, and was synced in the end."""
    logged: list[tuple[str, int, float]] = field(default_factory=list)
    """(key, step, value) of each point, in order; each value only once in all of a history."""
    commits: list[tuple[int, int]] = field(default_factory=list)
    """(points logged before it, step)."""
    told: Record = field(default_factory=dict)
    """The last `run.stats()`."""
    durable: list[int] = field(default_factory=list)
    """Steps of the commits that were told durable."""
    delivered: bool = False
    """Whether the process ended this life itself, and was told that all of it is delivered."""
    last_row: int = 0
    ended: float = 0.0
    """When it was last heard of."""

    @property
    def where(self) -> str:
        """Name it."""
        return f"{self.run}, {self.writer} of {self.process} (fence {self.fence})"

    def told_of(self, name: str) -> int:
        """Return a count of the last `run.stats()`."""
        return int(self.told.get(name, 0))

    def may_be_lost(self, rules: Rules, history: History) -> bool:
        """Whether the store lost data, and this process did not live on to send again or to declare what it lost."""
        losses = [record["t"] for record in history.of_runner("loss")]
        return rules.lossy and (not self.delivered or any(t > self.ended - RESENT_WITHIN_S for t in losses))


def lives(history: History) -> Iterator[Life]:
    """Yield all attempts that a process logged in."""
    for process, records in history.lives.items():
        life: Life | None = None
        for record in records:
            if record["e"] == "life":
                if life:
                    yield life
                life = Life(process, record["run"], record["fence"], record["writer"], record["journaled"])
            elif life:
                _live(life, record)
        if life:
            yield life


def _live(life: Life, record: Record) -> None:
    life.ended = record["t"]
    match record["e"]:
        case "log":
            life.logged += [(key, record["step"], value) for key, value in record["row"].items()]
            life.last_row = len(record["row"])
        case "commit":
            life.commits.append((len(life.logged), record["step"]))
        case "told":
            life.told = record
        case "durable":
            life.durable += record["steps"]
        case "end":
            life.delivered = record["delivered"]


@dataclass(slots=True)
class Account:
    """What became of all points."""

    logged: int = 0
    found: int = 0
    acknowledged: int = 0
    declared: int = 0
    """Lost by the store, and told so by `run.stats()`."""
    undeclared: int = 0
    """Lost by a store that may, when nobody was left to send them again or to tell."""
    lost: int = 0
    doubled: int = 0


def points(history: History, final: Mapping[str, FinalRun], rules: Rules, account: Account) -> Iterator[Violation]:
    """I7: each acknowledged point is there once, in the order logged, or was declared lost; nothing else is there."""
    all_lives, lease = list(lives(history)), Leases(history.calls, final).lease
    owners = {(key, value): number for number, life in enumerate(all_lives) for key, _, value in life.logged}
    found: dict[int, list[LoggedPoint]] = defaultdict(list)
    for run, state in final.items():
        for point in state.points:
            owner = owners.get((point.key, point.value), -1)
            life = all_lives[owner] if owner >= 0 else None
            logged = (life.run, lease(run, life.fence), life.writer) if life else None
            if logged != (run, lease(run, point.fence), point.writer):
                who = f"by {life.where}" if life else "by nobody"
                where = f"{run}, {point.writer}, fence {point.fence}"
                yield Violation("I7", f"{point.key} = {point.value} at step {point.step} in {where} was logged {who}")
            else:
                found[owner].append(point)
    for number, life in enumerate(all_lives):
        yield from _life_points(life, found[number], history, rules, account)


def _life_points(
    life: Life, found: Sequence[LoggedPoint], history: History, rules: Rules, account: Account
) -> Iterator[Violation]:
    places = {point: number for number, point in enumerate(life.logged)}
    acknowledged, declared = life.told_of("acknowledged"), life.told_of("lost")
    account.logged += len(life.logged)
    account.found += len(found)
    account.acknowledged += acknowledged
    account.declared += declared
    numbers = []
    for point in found:
        if (place := places.get((point.key, point.step, point.value))) is None:
            yield Violation("I7", f"{life.where}: {point.value} was logged at another step than {point.step}")
            return
        numbers.append(place)
    if twice := len(numbers) - len(set(numbers)):
        account.doubled += twice
        yield Violation("I7", f"{life.where}: {twice} points are there twice")
    elif any(later < earlier for earlier, later in _neighbours(life, numbers)):
        yield Violation("I7", f"{life.where}: points are not in the order logged")
    # Entries are acknowledged in order, so it is the first ones that were; those declared lost are among them.
    due = acknowledged + declared
    if not rules.lossy and (life.delivered or life.journaled):
        declared = 0  # nothing is lost here; what is given up when a lease is lost may be there, or come back by a sync
    if life.journaled:  # but for the row that it was logging when it was killed, or learnt that it had lost the run
        due = len(life.logged) - life.last_row - life.told_of("rejected") - life.told_of("dropped")
    missing = sorted(set(range(min(due, len(life.logged)))) - set(numbers))
    excess = len(missing) - declared
    if excess <= 0:
        yield from _before_commits(life, missing, declared)
    elif life.may_be_lost(rules, history):
        account.undeclared += excess
    else:
        account.lost += excess
        first = life.logged[missing[0]]
        counts = f"{len(life.logged)} logged, {acknowledged} acknowledged, {declared} declared lost"
        yield Violation("I7", f"{life.where}: {excess} points are lost, the first at step {first[1]} ({counts})")


def _neighbours(life: Life, numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the places of points that follow each other in the log, key by key: an entry has its keys in any order."""
    last: dict[str, int] = {}
    for number in numbers:
        key = life.logged[number][0]
        if key in last:
            yield last[key], number
        last[key] = number


def _before_commits(life: Life, missing: Sequence[int], declared: int) -> Iterator[Violation]:
    for before, step in life.commits:
        gone = sum(number < before for number in missing)
        if step in life.durable and gone > declared:
            yield Violation("I7", f"{life.where}: checkpoint {step} is durable, {gone} points before it are not there")


def checkpoints(history: History, final: Mapping[str, FinalRun], rules: Rules) -> Iterator[Violation]:
    """I7: a checkpoint that was told durable is there."""
    lease = Leases(history.calls, final).lease
    for life in lives(history):
        kept = {(lease(life.run, fence), step) for fence, step in final.get(life.run, FinalRun()).commits}
        for step in life.durable:
            if (lease(life.run, life.fence), step) not in kept and not life.may_be_lost(rules, history):
                yield Violation("I7", f"{life.where}: checkpoint {step} was durable, and is not there")


def admission(history: History, rules: Rules) -> Iterator[Violation]:
    """I13: of a key no more is admitted than burst + rate x time and one batch, over all coordinators.

    Entries that a commit waits behind are let through and paid for later: they are not counted here. A store that goes
    back has forgotten what was used of a limit.
    """
    if rules.lossy:
        return
    for record in history.of_runner("limit"):
        entries = [
            entry
            for stream in history.streams
            if stream.run == record["run"]
            for entry in stream.entries.values()
            if entry.points and not entry.barrier and record["began"] <= entry.sent and entry.acked <= record["ended"]
        ]
        entries.sort(key=lambda entry: entry.acked)
        for first in sorted({entry.sent for entry in entries}):
            yield from _admitted([entry for entry in entries if entry.sent >= first], first, record)


def _admitted(entries: Sequence[Entry], first: float, record: Record) -> Iterator[Violation]:
    total, largest = 0, max((entry.points for entry in entries), default=0)
    for entry in entries:
        total += entry.points
        bound = record["points"] * (entry.acked - first + record["burst_s"]) + largest
        if total > bound:
            length = entry.acked - first
            yield Violation("I13", f"{record['run']}: {total} points in {length:.3f} s, {bound:.0f} at most")
            return
