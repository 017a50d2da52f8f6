"""The lease's state as its holder may believe it: pure, no I/O, the clock's reading is an argument.

           renewed                                reinstated
         ┌────────┐   deadline passes      ┌──────────────────────┐
  HELD ──┴────────┴──────────────────► SUSPENDED ─────────────────┘► HELD
   │  │                                   │   │
   │  └── the coordinator says so ─► LOST ◄┘   └─ releasing ─► RELEASED
   └───── releasing ─► RELEASED

LOST and RELEASED are terminal; only the answer to the release itself may still tell that the lease was LOST before.
RELEASED begins before the release is sent: once it has arrived, the run is free, whatever becomes of the reply. The
deadline is the moment before the request was sent plus what the store said remained, less a margin, so it is never
later than the store's own expiry, however slow the answer was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from runlease.holder import Holder

#: The part of the ttl after which a renewal is sent, and its jitter.
RENEW_AT = 1 / 3
JITTER = 0.1
#: Deadline's margin: clocks that drift apart by up to 1 %, and 250 ms for what happens after the check.
MARGIN_PART = 0.01
MARGIN_S = 0.25


class LeaseState(StrEnum):
    """What the holder may believe."""

    HELD = "held"
    SUSPENDED = "suspended"
    LOST = "lost"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Loss:
    """Why a lease is lost: superseded, ended, revoked, deleted or absent."""

    cause: str
    message: str
    holder: Holder | None = None
    current_fence: int = 0


class LeaseMachine:
    """State, deadline and next renewal of one lease; times are readings of the caller's clock, in seconds."""

    def __init__(self, ttl_s: float, sent_at: float, remaining_s: float, incarnation: str = "") -> None:
        """Take a grant: when its request was sent, what remained by the store, and the store's incarnation."""
        self.ttl_s = ttl_s
        #: Of the store's data, as last heard while the lease was held: what a claim to hold it names.
        self.incarnation = incarnation
        self.loss: Loss | None = None
        self._terminal: LeaseState | None = None
        self._releasing = False
        self.deadline = _deadline(sent_at, remaining_s)
        self._renewed_at = sent_at
        self._failures = 0

    def state(self, now: float) -> LeaseState:
        """Return the state at a moment."""
        if self._terminal is not None:
            return self._terminal
        if self._releasing:
            return LeaseState.RELEASED
        return LeaseState.HELD if now < self.deadline else LeaseState.SUSPENDED

    def remaining_s(self, now: float) -> float:
        """Return the seconds until the deadline, 0 where the lease is not held."""
        believed = self._terminal is None and not self._releasing
        return max(0.0, self.deadline - now) if believed else 0.0

    def renewed(self, sent_at: float, remaining_s: float, incarnation: str = "") -> None:
        """Take a renewal's answer; one that was sent before another never shortens the deadline."""
        self.deadline = max(self.deadline, _deadline(sent_at, remaining_s))
        self.incarnation = incarnation
        self._renewed_at = max(self._renewed_at, sent_at)
        self._failures = 0

    def claim(self, now: float, incarnation: str) -> bool:
        """Take that the store's data are of another incarnation; returns whether a claim under it is worth sending.

        Only who is HELD now can say truly that nobody else was granted before the data were lost.
        """
        if self.state(now) is not LeaseState.HELD or incarnation == self.incarnation:
            return False
        self.incarnation = incarnation
        return True

    def suspend(self, now: float) -> None:
        """The store says that the lease has expired."""
        self.deadline = min(self.deadline, now)

    def failed(self) -> None:
        """A renewal had no answer."""
        self._failures += 1

    def lost(self, loss: Loss) -> bool:
        """The coordinator said so; returns whether that is new."""
        if self._terminal is not None:
            return False
        self._terminal, self.loss = LeaseState.LOST, loss
        return True

    def releasing(self) -> None:
        """The holder is about to give it back: it ends its belief, and nothing brings that back."""
        self._releasing = True

    def kept(self) -> bool:
        """The release was refused and changed nothing: the belief goes on; returns whether it was being released."""
        was_releasing, self._releasing = self._releasing, False
        return was_releasing

    def released(self) -> None:
        """The holder gave it back."""
        if self._terminal is None:
            self._terminal = LeaseState.RELEASED

    def next_renewal(self, now: float, random: Callable[[], float]) -> float:
        """Return when to send the next renewal; ``random`` gives 0..1.

        After a failure sooner: from ttl/60 doubling up to ttl/6, so that several tries fit before the deadline.
        """
        jitter = 1 + JITTER * (2 * random() - 1)
        if self._failures:
            return now + min(self.ttl_s / 60 * 2.0 ** min(self._failures - 1, 6), self.ttl_s / 6) * jitter
        return self._renewed_at + self.ttl_s * RENEW_AT * jitter


def _deadline(sent_at: float, remaining_s: float) -> float:
    return sent_at + remaining_s * (1 - MARGIN_PART) - MARGIN_S
