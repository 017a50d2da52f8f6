"""The store's scripts as pure functions: `acquire.lua`, `renew.lua`, `release.lua`, `break.lua`, `append.lua`.

Each takes the dataset behind the gate (`Cluster.pass_gate`), with store TIME and whether the partition is in
quarantine, and returns the dataset after it. Refusals return None: only the gate has written then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tests.model.rules import Rules
from tests.model.state import FENCES_PER_TICK, Dataset, Record, Token


@dataclass(frozen=True)
class Timing:
    """Durations in ticks; `slack`: by how much TIME may exceed the coordinator's expectation."""

    ttl: int = 2
    max_ttl: int = 2
    lock_delay: int = 0
    slack: int = 0


class Granted(NamedTuple):
    """A grant; `repeated`: the nonce had it already."""

    dataset: Dataset
    fence: int
    remaining: int
    repeated: bool


class Gate(NamedTuple):
    """What the gate found: store TIME, whether the partition is in quarantine, its incarnation."""

    now: int
    in_quarantine: bool
    incarnation: int


def confirmed(record: Record, gate: Gate) -> bool:
    """Whether the record was written or renewed in this incarnation: nothing newer can have been lost."""
    return record.opened_in == gate.incarnation


def acquire(rules: Rules, timing: Timing, dataset: Dataset, gate: Gate, nonce: int, call: int) -> Granted | None:
    """Grant the lease, or repeat the grant that this nonce has."""
    record = dataset.record
    if rules.nonce_known and nonce in dataset.spent:
        alive = nonce == record.nonce and record.end == "" and gate.now < record.expiry
        if not alive or (rules.retry_needs_confirmed and not confirmed(record, gate)):
            return None
        remaining = record.expiry - gate.now if rules.retry_keeps_expiry else timing.ttl
        if rules.remaining_within_ttl:
            remaining = min(remaining, timing.ttl)
        return Granted(dataset._replace(record=record._replace(call=call)), record.fence, remaining, repeated=True)
    if gate.in_quarantine:
        return None
    if confirmed(record, gate) and record.end == "" and gate.now < record.avail:
        return None
    fence, expiry = _next_fence(rules, record, gate), gate.now + timing.ttl
    granted = Record(
        fence,
        nonce,
        expiry,
        expiry + _delay(rules, timing),
        "",
        revoked=False,
        opened_in=gate.incarnation,
        call=call,
        attempt=record.attempt + 1,
        first=fence,
    )
    after = _under(dataset._replace(spent=_with(dataset.spent, nonce)), granted)
    return Granted(after, fence, timing.ttl, repeated=False)


def is_runs(rules: Rules, dataset: Dataset, fence: int) -> bool:
    """Whether a fence is the run's: the record's, or an earlier one of the same attempt."""
    record = dataset.record
    if not rules.alias_is_of_same_attempt:
        return 0 < fence <= record.fence
    known = dict(dataset.fences)
    same = known.get(fence, 0) == known.get(record.fence, -1)
    return fence == record.fence or (same and (fence >= record.first or not rules.alias_is_since_grant))


def renew(
    rules: Rules, timing: Timing, dataset: Dataset, gate: Gate, token: Token, *, as_holder: bool
) -> Dataset | None:
    """Extend the lease by its ttl, or reinstate it; ``as_holder``: the caller's claim to be HELD counts.

    The record's fence afterwards is the answer: a new one where the record was not confirmed behind the quarantine.
    """
    record = dataset.record
    claimed = gate.in_quarantine and (as_holder or not rules.claim_in_quarantine)
    if token.fence > record.fence:
        return _rebuild(rules, timing, dataset, gate, token) if claimed else None
    if not is_runs(rules, dataset, token.fence) or record.end != "" or record.revoked:
        return None
    if gate.in_quarantine and not claimed and rules.reinstated_behind_quarantine:
        return None
    expiry = gate.now + timing.ttl
    renewed = record._replace(
        expiry=expiry,
        avail=expiry + _delay(rules, timing),
        opened_in=gate.incarnation,
        call=0 if rules.renewal_is_delivery else record.call,
    )
    if not claimed and not confirmed(record, gate) and rules.reinstated_under_new_fence:
        renewed = renewed._replace(fence=_next_fence(rules, record, gate))
    return _under(dataset, renewed)


def _rebuild(rules: Rules, timing: Timing, dataset: Dataset, gate: Gate, token: Token) -> Dataset:
    """Bring back an attempt that the store has lost, under the number and the nonce that its holder knows."""
    expiry, before = gate.now + timing.ttl, dataset.record
    only_its_fence = (before.nonce, before.attempt) == (token.nonce, token.attempt)  # that it came back under is lost
    record = Record(
        token.fence,
        token.nonce,
        expiry,
        expiry + _delay(rules, timing),
        "",
        revoked=False,
        opened_in=gate.incarnation,
        attempt=token.attempt,
        first=before.first if only_its_fence else token.fence,
    )
    return _under(dataset._replace(spent=_with(dataset.spent, token.nonce)), record)


def _next_fence(rules: Rules, record: Record, gate: Gate) -> int:
    return max(record.fence + 1, gate.now * FENCES_PER_TICK if rules.fence_follows_clock else 0)


def _delay(rules: Rules, timing: Timing) -> int:
    return timing.lock_delay if rules.lock_delay else 0


def _under(dataset: Dataset, record: Record) -> Dataset:
    """Return the dataset with a record whose fence is one of its attempt's."""
    fences = {**dict(dataset.fences), record.fence: record.attempt}
    return dataset._replace(record=record, fences=tuple(sorted(fences.items())))


def _with(spent: tuple[int, ...], nonce: int) -> tuple[int, ...]:
    return tuple(sorted({*spent, nonce}))


def release(rules: Rules, dataset: Dataset, gate: Gate, fence: int) -> Dataset | None:
    """End the attempt: the run is free at once."""
    record = dataset.record
    named = is_runs(rules, dataset, fence) or not rules.release_names_fence
    if not named or record.end != "" or not confirmed(record, gate):
        return None
    return dataset._replace(record=record._replace(expiry=0, avail=0, end="released", revoked=False))


def abandon(rules: Rules, dataset: Dataset, gate: Gate, nonce: int, call: int) -> Dataset | None:
    """Take back a grant that never reached its caller: the run is free, the fence is used up."""
    record = dataset.record
    named = call == record.call or not rules.abandon_names_call
    if nonce != record.nonce or not named or record.end != "" or not confirmed(record, gate):
        return None
    spent = tuple(other for other in dataset.spent if other != nonce)
    fences = tuple(known for known in dataset.fences if known[0] != record.fence)
    after = record._replace(nonce=0, expiry=0, avail=0, end="given back", attempt=record.attempt - 1)
    return dataset._replace(record=after, spent=spent, fences=fences)


def revoke(dataset: Dataset, gate: Gate) -> Dataset | None:
    """Let no renewal extend the lease any more."""
    record = dataset.record
    if record.end != "" or record.revoked or not confirmed(record, gate):
        return None
    return dataset._replace(record=record._replace(revoked=True))


def force_break(rules: Rules, dataset: Dataset, gate: Gate) -> Dataset | None:
    """End the attempt under a fence that no attempt has."""
    record = dataset.record
    if record.end != "" or gate.now >= record.avail or not confirmed(record, gate):
        return None
    fence = _next_fence(rules, record, gate)
    return dataset._replace(record=record._replace(fence=fence, expiry=0, avail=0, end="killed", revoked=False))


def append_accepted(rules: Rules, dataset: Dataset, incarnation: int, fence: int) -> bool:
    """Whether an append under this fence would be stored."""
    record = dataset.record
    return is_runs(rules, dataset, fence) and (record.opened_in == incarnation or not rules.append_checks_incarnation)
