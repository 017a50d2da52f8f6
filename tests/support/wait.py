"""Waits for a condition of another process, which no event tells us of."""

from __future__ import annotations

import time
from collections.abc import Callable

TIMEOUT_S = 45.0


def until(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S, every_s: float = 0.05) -> None:
    """Return once the condition holds; fail after ``timeout_s``, which is far beyond what a right answer takes."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s"
        time.sleep(every_s)
