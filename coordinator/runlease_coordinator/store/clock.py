"""The store's clock as far as a coordinator can know it: what TIME should be now, and what it cannot be yet.

Leases expire by the store's TIME. Where that steps forward, they would expire while their holders believe in them. A
coordinator sees the step if it knew the clock before: it compares TIME with its own clock, which does not step.
"""

from __future__ import annotations

from collections import deque

from runlease.clock import suspend_aware

#: How old a request may be by store time when its script runs.
REQUEST_AGE_US = 30_000_000
#: What a guard lets pass: clocks drift by up to 1 %, and steps below a second are within what a quarantine is longer.
_DRIFT, _SLACK_US = 0.01, 1_000_000
#: Sightings less than this apart are one.
_GRAIN_S = 1.0
#: Beyond any TIME: of a clock that was never seen nothing is known.
_NEVER_US = 2**53 - 1


class StoreClock:
    """What the store's TIME should be now, from the last answer and the time since."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.seen_us = 0
        self._seen_at = 0.0

    def observe(self, now_us: int) -> None:
        """Take the store time that an answer carried."""
        self.seen_us = now_us
        self._seen_at = suspend_aware()

    def now_us(self) -> int:
        """Return what the store's time should be now."""
        return self.seen_us + int((suspend_aware() - self._seen_at) * 1e6)

    def latest_us(self) -> int:
        """Return the store time until which a request that arrives now may be decided."""
        return self.now_us() + REQUEST_AGE_US


class ClockGuard:
    """The latest TIME to believe, by the lowest offset between TIME and the own clock that was seen for a while.

    The lowest, since steps below the slack would add up one by one. Moments are the own clock's, in seconds; an offset
    is TIME less the moment at which the request was sent: too high by the request's way, never too low.
    """

    def __init__(self, window_s: float = 0.0) -> None:
        """Take for how long a sighting counts: the longest ttl, since a lease that old has ended anyway."""
        self.window_s = window_s
        #: (moment, offset in us), of which only those below all later ones matter: both rise.
        self._lowest: deque[tuple[float, int]] = deque()

    def observe(self, now_us: int, sent_at: float) -> None:
        """Take the TIME of an answer, and when its request was sent."""
        offset, lowest = now_us - int(sent_at * 1e6), self._lowest
        while lowest and lowest[-1][1] >= offset:
            lowest.pop()
        if not lowest or sent_at - lowest[-1][0] >= _GRAIN_S:
            lowest.append((sent_at, offset))
        while len(lowest) > 1 and lowest[0][0] < sent_at - self.window_s:
            lowest.popleft()

    def latest_us(self, at: float) -> int:
        """Return the latest TIME to believe at a moment."""
        if not self._lowest:
            return _NEVER_US
        seen_at, offset = self._lowest[0]
        return offset + int((at + _DRIFT * max(0.0, at - seen_at)) * 1e6) + _SLACK_US
