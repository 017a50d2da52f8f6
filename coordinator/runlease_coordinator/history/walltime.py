"""Wall times in whole microseconds: what archives store, and so what every read answers."""

from __future__ import annotations

import numpy as np

from runlease_coordinator.domain.metrics import Floats, Ints

#: The year 10000; nothing later is taken in, so this is for what came in before that was checked.
_FARTHEST_S = 253_402_300_800.0


def to_us(times: Floats) -> Ints:
    """Return UNIX seconds as whole microseconds; NaN becomes 0, what lies too far off the farthest moment."""
    scaled = np.rint(np.clip(times, -_FARTHEST_S, _FARTHEST_S) * 1e6)
    if np.isnan(scaled).any():
        scaled = np.nan_to_num(scaled, nan=0.0)
    whole: Ints = scaled.astype(np.int64)
    return whole


def from_us(times_us: Ints) -> Floats:
    """Return whole microseconds as UNIX seconds."""
    return times_us / 1e6


def whole_us(times: Floats) -> Floats:
    """Return UNIX seconds rounded to whole microseconds."""
    return from_us(to_us(times))
