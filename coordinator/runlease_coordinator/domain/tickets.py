"""Rank tickets: let a member of the holder's group append under its fence, to writers of its own."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256


@dataclass(frozen=True, slots=True)
class Tickets:
    """Issues and checks tickets under a secret that all coordinators of a store share."""

    secret: bytes

    def issue(self, project: str, canonical_id: str, fence: int) -> str:
        """Return the ticket of one run and fence."""
        text = f"{project}/{canonical_id} {fence}"
        return hmac.new(self.secret, text.encode(), sha256).hexdigest()

    def is_good(self, ticket: str, project: str, canonical_id: str, fence: int) -> bool:
        """Return whether a ticket was issued for this run and fence."""
        return hmac.compare_digest(ticket.encode(), self.issue(project, canonical_id, fence).encode())
