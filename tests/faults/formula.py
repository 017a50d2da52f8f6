"""What a rank logs, as a formula of (writer, key, step): so that a reader can tell each point without a copy of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DENSE = ("train/loss", "train/acc", "train/lr", "grad/norm", "time/step")
#: Logged every 10th step.
SPARSE = "val/loss"
SPARSE_EVERY = 10
#: Logged a second time at every 97th step, with another value: shows that the order is kept, since the later one wins.
TWICE, TWICE_EVERY = DENSE[0], 97
KEYS = (*DENSE, SPARSE)
RANKS = 4
WRITERS = ("main", *(f"rank{number}" for number in range(1, RANKS)))


def value_of(rank: int, key: int, step: int, repeat: int = 0) -> float:
    """Return the value of a key by its place in `KEYS`; exact in a double."""
    return ((step * 40_503 + key * 7_919 + rank * 104_729 + repeat * 65_537) % 2**31) / 1024.0


def rows(rank: int, step: int) -> list[dict[str, float]]:
    """Return what a rank logs at a step, in order."""
    row = {key: value_of(rank, number, step) for number, key in enumerate(DENSE)}
    if step % SPARSE_EVERY == 0:
        row[SPARSE] = value_of(rank, len(DENSE), step)
    if step % TWICE_EVERY:
        return [row]
    return [row, {TWICE: value_of(rank, 0, step, 1)}]


@dataclass(frozen=True, slots=True)
class Column:
    """All points of one (writer, key) in the order logged."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    def last(self, count: int) -> Column:
        """Return the last points."""
        start = len(self.steps) - count
        return Column(self.steps[start:], self.values[start:])

    def visible(self) -> Column:
        """Return the last point of each step, where steps never fall."""
        last = np.append(self.steps[1:] != self.steps[:-1], True)
        return Column(self.steps[last], self.values[last])


def column_of(rank: int, key: str, steps: int) -> Column:
    """Return the points that a rank logs under a key until its step ``steps``."""
    number, every = KEYS.index(key), SPARSE_EVERY if key == SPARSE else 1
    at = np.arange(0, steps, every, dtype=np.int64)
    repeats = np.zeros(len(at), dtype=np.int64)
    if key == TWICE:
        again = at[at % TWICE_EVERY == 0]
        at, repeats = np.concatenate([at, again]), np.concatenate([repeats, np.ones(len(again), dtype=np.int64)])
        order = np.lexsort((repeats, at))
        at, repeats = at[order], repeats[order]
    numbers = (at * 40_503 + number * 7_919 + rank * 104_729 + repeats * 65_537) % 2**31
    return Column(at, numbers / 1024.0)


def points_of(steps: int) -> int:
    """Return how many points one rank logs until its step ``steps``."""
    return len(DENSE) * steps + -(-steps // SPARSE_EVERY) + -(-steps // TWICE_EVERY)


def steps_for(points: int) -> int:
    """Return the steps with which all ranks together log at least ``points`` points."""
    steps = points // RANKS // (len(DENSE) + 1)
    while points_of(steps) * RANKS < points:
        steps += max(1, (points // RANKS - points_of(steps)) // (len(DENSE) + 1))
    return steps
