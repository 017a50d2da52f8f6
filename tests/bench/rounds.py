"""Interleaved rounds and what is said of them: A B C A B C ..., medians, spans, pairwise ratios.

The machine is shared and its speed drifts, so an absolute figure says little; the ratio of two rounds that ran one
after the other says much more. Every comparison here is made of such pairs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class Wanted:
    """A bound that README.md names; `bound` is a ratio where `against` names another series, else a value."""

    bound: float
    at_least: bool
    against: str = ""

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{sign} {self.bound:g}x {self.against}" if self.against else f"{sign} {self.bound:g}"

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass
class Figure:
    """One measured thing: values of each contender, round by round; the first contender is runlease."""

    name: str
    unit: str
    values: dict[str, list[float]]
    wanted: Sequence[Wanted] = ()
    digits: int = 0
    ratio_digits: int = 2

    @property
    def own(self) -> list[float]:
        return next(iter(self.values.values()))

    def ratios(self, against: str) -> list[float]:
        return [mine / other for mine, other in zip(self.own, self.values[against], strict=True)]

    def measured(self, wanted: Wanted) -> float:
        """Return what a bound is held against: the median of values, or of the pairwise ratios."""
        return median(self.ratios(wanted.against) if wanted.against else self.own)


async def interleave(contenders: Mapping[str, Callable[[], Awaitable[_T]]], rounds: int) -> dict[str, list[_T]]:
    """Run each contender once a round, in turn; returns their values.

    The order turns by one each round, so nobody always follows the same neighbour. A first round warms up and is
    thrown away: connections, caches, the interpreter's specialised code.
    """
    names = list(contenders)
    values: dict[str, list[_T]] = {name: [] for name in names}
    for number in range(-1, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            value = await contenders[name]()
            if number >= 0:
                values[name].append(value)
    return values


def percentile(values: Sequence[float], fraction: float) -> float:
    """Return the value below which `fraction` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))]
