"""What part of a log a read wants; every source of points filters by it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from runlease_coordinator.domain.metrics import LOG_START, Flags, Ints, LogPosition


class KeyFilter:
    """Keys by name or by pattern; each distinct key is matched once."""

    def __init__(self, keys: Iterable[str] = (), patterns: Iterable[str] = (), *, first: str = "") -> None:
        """Take exact keys, and patterns in which `*` stands for any characters, `/` too, and `?` for one.

        Neither of them: all keys. Only those that sort at or behind ``first`` pass.
        """
        self._keys, self._patterns, self._first = frozenset(keys), frozenset(patterns), first
        self._pattern = re.compile("|".join(map(_regex, self._patterns)), re.DOTALL) if self._patterns else None
        self._known: dict[bytes, str | None] = {}

    def takes(self, key: str) -> bool:
        """Tell whether a key passes."""
        if self._first and key < self._first:
            return False
        if not self._keys and self._pattern is None:
            return True
        return key in self._keys or bool(self._pattern and self._pattern.fullmatch(key))

    def starting_at(self, first: str) -> KeyFilter:
        """Return the same filter for keys that sort at or behind ``first``."""
        return KeyFilter(self._keys, self._patterns, first=first)

    def may_take(self, lowest: str, highest: str) -> bool:
        """Tell whether keys between two, in the order of their characters, may pass."""
        if highest < self._first:
            return False
        named = bool(self._keys) and self._pattern is None
        return not named or any(max(lowest, self._first) <= key <= highest for key in self._keys)

    def passed(self, raw: bytes) -> str | None:
        """Return a key in UTF-8 as text, None where it does not pass."""
        try:
            return self._known[raw]
        except KeyError:
            key = raw.decode()
            answer = self._known[raw] = key if self.takes(key) else None
            return answer


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries of one run's log, and which points of them; bounds of steps and ``upto`` are inclusive."""

    writers: frozenset[str]
    upto: LogPosition
    keys: KeyFilter = field(default_factory=KeyFilter)
    min_step: int | None = None
    max_step: int | None = None
    #: Only entries behind this position.
    after: LogPosition = LOG_START

    def until(self, position: LogPosition) -> Selection:
        """Return what of the selection lies up to a position."""
        return replace(self, upto=min(self.upto, position))

    def rows(self, steps: Ints) -> Flags | None:
        """Return which rows lie between the bounds of steps; None: all of them."""
        wanted: Flags | None = None
        if self.min_step is not None:
            wanted = steps >= self.min_step
        if self.max_step is not None:
            low_enough = steps <= self.max_step
            wanted = low_enough if wanted is None else wanted & low_enough
        return None if wanted is None or np.all(wanted) else wanted


def _regex(pattern: str) -> str:
    """Translate a pattern; `[`, unlike in the shell's, is a character like any other.

    What follows a `*` is matched where it first occurs, for good: so no pattern takes long, however many there are.
    """
    first, *rest = ("".join("." if one == "?" else re.escape(one) for one in part) for part in pattern.split("*"))
    if not rest:
        return first
    return first + "".join(f"(?>.*?{part})" for part in rest[:-1]) + ".*" + rest[-1]
