"""What a grant and a renewal of a lease say."""

from __future__ import annotations

from dataclasses import dataclass, field

from runlease.records import Checkpoint, ConfigChange, RunRecord, change_of, checkpoint_of, run_of, state_name
from runlease.v1 import leases_pb2


@dataclass(frozen=True, slots=True)
class Grant:
    """A granted lease; ``remaining_s`` counts from before the request was sent, ``previous_state`` is '' if new."""

    fence: int
    attempt: int
    ttl_s: float
    remaining_s: float
    resumed: bool
    previous_state: str
    next_step: int
    starting_step: int
    checkpoint: Checkpoint | None
    config_changes: tuple[ConfigChange, ...]
    run: RunRecord
    #: Not in the repr: whoever has it can write.
    rank_ticket: str = field(default="", repr=False)
    cursor: str = ""
    incarnation: str = ""


@dataclass(frozen=True, slots=True)
class Renewal:
    """An extended lease; ``fence`` is higher than was named where it came back behind a loss of the store's data."""

    remaining_s: float
    reinstated: bool
    incarnation: str = ""
    fence: int = 0


def grant_of(message: leases_pb2.Grant) -> Grant:
    """Read a grant."""
    return Grant(
        fence=message.fence,
        attempt=message.attempt,
        ttl_s=message.ttl_ms / 1000,
        remaining_s=message.remaining_ms / 1000,
        resumed=message.resumed,
        previous_state=state_name(message.previous_state),
        next_step=message.next_step,
        starting_step=message.starting_step,
        checkpoint=checkpoint_of(message.checkpoint) if message.HasField("checkpoint") else None,
        config_changes=tuple(change_of(change) for change in message.config_changes),
        run=run_of(message.run),
        rank_ticket=message.rank_ticket,
        cursor=message.cursor,
        incarnation=message.incarnation,
    )
