"""The store's scripts as pure functions: `acquire.lua`, `renew.lua`, `release.lua`, `break.lua`, `append.lua`.

Each takes the dataset behind the gate (`Cluster.pass_gate`), with store TIME and whether the partition is in
quarantine, and returns the dataset after it. Refusals return None: only the gate has written then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tests.model.rules import Rules
from tests.model.state import FENCES_PER_TICK, Dataset, Record


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
    fence = record.fence + 1
    if rules.fence_follows_clock:
        fence = max(fence, gate.now * FENCES_PER_TICK)
    expiry = gate.now + timing.ttl
    avail = expiry + (timing.lock_delay if rules.lock_delay else 0)
    granted = Record(fence, nonce, expiry, avail, "", revoked=False, opened_in=gate.incarnation, call=call)
    spent = tuple(sorted({*dataset.spent, nonce}))
    return Granted(dataset._replace(record=granted, spent=spent), fence, timing.ttl, repeated=False)


def renew(rules: Rules, timing: Timing, dataset: Dataset, gate: Gate, fence: int, *, as_holder: bool) -> Dataset | None:
    """Extend the lease by its ttl, or reinstate it; ``as_holder``: the caller's claim to be HELD counts."""
    record = dataset.record
    if fence < record.fence or (fence == record.fence and (record.end != "" or record.revoked)):
        return None
    claimed = as_holder or not rules.claim_in_quarantine
    if gate.in_quarantine:
        if not claimed:
            return None
    elif fence > record.fence or (rules.reinstates_confirmed_only and not confirmed(record, gate)):
        return None
    expiry = gate.now + timing.ttl
    avail = expiry + (timing.lock_delay if rules.lock_delay else 0)
    nonce = record.nonce if fence == record.fence else 0
    call = 0 if rules.renewal_is_delivery else record.call
    renewed = Record(fence, nonce, expiry, avail, "", revoked=False, opened_in=gate.incarnation, call=call)
    return dataset._replace(record=renewed)


def release(rules: Rules, dataset: Dataset, gate: Gate, fence: int) -> Dataset | None:
    """End the attempt: the run is free at once."""
    record = dataset.record
    named = fence == record.fence or not rules.release_names_fence
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
    return dataset._replace(record=record._replace(nonce=0, expiry=0, avail=0, end="given back"), spent=spent)


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
    fence = record.fence + 1
    if rules.fence_follows_clock:
        fence = max(fence, gate.now * FENCES_PER_TICK)
    return dataset._replace(record=record._replace(fence=fence, expiry=0, avail=0, end="killed", revoked=False))


def append_accepted(rules: Rules, dataset: Dataset, incarnation: int, fence: int) -> bool:
    """Whether an append under this fence would be stored."""
    record = dataset.record
    return fence == record.fence and (record.opened_in == incarnation or not rules.append_checks_incarnation)
