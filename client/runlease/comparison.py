"""Two histories side by side: values at equal steps, and where they first differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runlease.history import History, Series


@dataclass(frozen=True, slots=True)
class KeyComparison:
    """One key's values in both runs; differences are b - a, None where there is no common step.

    NaN equals NaN; where one value alone is NaN, or they are different infinities, the difference is NaN or infinite.
    ``largest`` is the largest absolute difference; one that is no number counts above all others.
    """

    key: str
    steps: tuple[int, ...]
    a: tuple[float, ...]
    b: tuple[float, ...]
    only_a: int
    only_b: int
    first_difference: float | None
    last_difference: float | None
    largest: float | None
    largest_step: int | None
    first_different_step: int | None

    @property
    def identical(self) -> bool:
        """Whether both have the same steps with the same values."""
        return self.only_a == self.only_b == 0 and self.first_different_step is None


@dataclass(frozen=True, slots=True)
class ConfigDifference:
    """A top-level config key whose values differ; ``in_a`` and ``in_b`` tell whether it is there at all."""

    key: str
    a: Any
    b: Any
    in_a: bool
    in_b: bool


def compare(a: History, b: History) -> list[KeyComparison]:
    """Compare two histories of one writer each, key by key."""
    left = {series.key: series for series in a.series}
    right = {series.key: series for series in b.series}
    nothing = Series("", "")
    return [_compare_key(key, left.get(key, nothing), right.get(key, nothing)) for key in sorted({*left, *right})]


def compare_config(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[ConfigDifference]:
    """Return the top-level keys of two configs whose values differ."""
    return [
        ConfigDifference(key, a.get(key), b.get(key), key in a, key in b)
        for key in sorted({*a, *b})
        if key not in a or key not in b or a[key] != b[key]
    ]


def difference(a: float, b: float) -> float:
    """Return b - a; 0 for two NaN, and for two equal infinities."""
    return 0.0 if a == b or (math.isnan(a) and math.isnan(b)) else b - a


def _compare_key(key: str, left: Series, right: Series) -> KeyComparison:
    there = dict(zip(right.steps, right.values, strict=True))
    rows = [(step, a, there[step]) for step, a in zip(left.steps, left.values, strict=True) if step in there]
    steps, ours, theirs = (tuple(column) for column in zip(*rows, strict=True)) if rows else ((), (), ())
    differences = [difference(x, y) for x, y in zip(ours, theirs, strict=True)]
    largest = max(range(len(rows)), key=lambda row: _size(differences[row]), default=None)
    different = next((step for step, found in zip(steps, differences, strict=True) if found != 0), None)
    return KeyComparison(
        key=key,
        steps=steps,
        a=ours,
        b=theirs,
        only_a=len(left.steps) - len(rows),
        only_b=len(right.steps) - len(rows),
        first_difference=differences[0] if rows else None,
        last_difference=differences[-1] if rows else None,
        largest=None if largest is None else abs(differences[largest]),
        largest_step=None if largest is None else steps[largest],
        first_different_step=different,
    )


def _size(found: float) -> tuple[bool, float]:
    return (True, 0.0) if math.isnan(found) else (False, abs(found))
