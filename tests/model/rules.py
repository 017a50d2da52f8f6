"""The protocol's rules, each of which can be switched off to see what it is for."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Rules:
    """Which rules hold; as built and designed, all of them."""

    fence_follows_clock: bool = True
    """A fence is max(last + 1, TIME); off: last + 1."""
    quarantine: bool = True
    """A changed incarnation stops grants; off: it is taken over at once."""
    quarantine_lasts_max_ttl: bool = True
    """The quarantine is as long as the longest ttl; off: one tick less."""
    quarantine_covers_slack: bool = True
    """The quarantine is longer by what the guard lets pass; off: it is not."""
    incarnation_is_replid: bool = True
    """The incarnation is the replication ID; off: the server's run ID, which comes back with the server."""
    replicas_before_quarantine: bool = True
    """A script that counts fewer than W online replicas refuses before it opens a quarantine; off: it opens it."""
    wait: bool = True
    """Control writes are acknowledged after WAIT W; off: at once."""
    wait_is_half: bool = True
    """W is floor(n / 2); off: one less."""
    claim_in_quarantine: bool = True
    """In quarantine a renewal counts only from a holder HELD by its own clock; off: from any."""
    claim_names_incarnation: bool = True
    """The claim to be HELD names the incarnation, so it was made after the loss; off: it may be older than that."""
    late_reply_discarded: bool = True
    """A holder discards the reply to a claim when its deadline has passed meanwhile; off: it believes it."""
    reinstated_under_new_fence: bool = True
    """Behind the quarantine an unconfirmed record is reinstated under a new fence; off: under the one that it has."""
    reinstated_behind_quarantine: bool = True
    """So it is only behind the quarantine; off: also within it, without a claim."""
    reinstatement_is_guarded: bool = True
    """The clock guard judges TIME before it, as before a grant; off: not where it judges grants only."""
    alias_is_of_same_attempt: bool = True
    """An earlier fence is the run's if its attempt is; off: any lower one is."""
    alias_is_since_grant: bool = True
    """And if it is not below the one that the attempt was granted, or rebuilt, under; off: its number is enough."""
    retry_needs_confirmed: bool = True
    """A repeated nonce gets its grant only from a record of this incarnation; off: from any that names it."""
    append_checks_incarnation: bool = True
    """An append needs a record of this incarnation; off: its fence is enough."""
    deadline_from_sending: bool = True
    """A deadline counts from before the request was sent; off: from when the reply came."""
    retry_keeps_expiry: bool = True
    """A repeated nonce is told what remains of its grant; off: a full ttl."""
    retry_is_a_write: bool = True
    """A repeated nonce is a write again, which WAIT covers; off: it only reads."""
    nonce_known: bool = True
    """A repeated nonce is known; off: it is a request like any other."""
    remaining_within_ttl: bool = True
    """No reply says that more than a ttl remains; off: expiry - TIME, which grows when the clock steps back."""
    release_names_fence: bool = True
    """A release names its fence; off: it frees the run, whoever holds it."""
    release_ends_belief: bool = True
    """Who releases stops believing before it sends; off: only when the release is acknowledged."""
    abandon_names_call: bool = True
    """What takes an undelivered grant back names the call that it was given to; off: the nonce alone."""
    renewal_is_delivery: bool = True
    """A renewal shows that the grant was delivered, so it is never taken back; off: the call decides alone."""
    lock_delay: bool = True
    """A lease that was not released stays taken for the lock-delay; off: it is free at expiry."""
    clock_guard: bool = True
    """A store clock beyond the coordinator's expectation starts a quarantine; off: it is believed."""
    guard_in_every_script: bool = True
    """The guard judges every script's TIME; off: only grants', though every reply sets the expectation."""
    guard_remembers: bool = True
    """The guard expects by the lowest offset of the last quarantine's length; off: by the last one alone."""
    full_sync_is_loss: bool = True
    """The incarnation counts full syncs, too, so replicas that come back from elsewhere show; off: replid alone."""

    def without(self, *names: str) -> Rules:
        """Return the rules with the named ones off."""
        return replace(self, **dict.fromkeys(names, False))


NAMES = tuple(field.name for field in fields(Rules))
