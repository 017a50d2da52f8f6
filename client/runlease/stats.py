"""What became of the points that were logged."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counts of points; ``logged`` is the sum of the six below it."""

    logged: int = 0
    """Points taken in since the writer was made."""

    acknowledged: int = 0
    """Points that the coordinator has in its log."""

    buffered: int = 0
    """Points in memory: waiting to be sent, or sent and not yet acknowledged."""

    spooled: int = 0
    """Points on disk that are not acknowledged; after the end, what is left for `runlease sync`."""

    dropped: int = 0
    """Points given up, oldest first, since there was no more room for waiting ones in memory and on disk."""

    rejected: int = 0
    """Points that the coordinator refused as malformed."""

    lost: int = 0
    """Points that nobody has any more: acknowledged, lost by the store and no longer kept, or left at the end where no
    spool took them; of the latter those sent last may have arrived."""

    throttled_s: float = 0.0
    """Seconds for which the coordinator's rate limits have held points back."""

    connected: bool = False
    """Whether a stream to the coordinator is open."""

    last_error: str = ""
    """The last thing that went wrong on the way to the coordinator; stays when it is mended."""
