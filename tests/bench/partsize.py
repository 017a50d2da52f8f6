"""Bytes a point takes in the archive: a real training's metrics, as the compactor writes them.

`python -m tests.bench.partsize [STEPS]` trains the demo's character model (float64, plain NumPy), logs what it logs,
and prints the size of the part over its points: of all its metrics, and of its loss alone, as float64 and as a model
in float32 would log it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
from runlease.demo.training import Recipe, Training
from runlease_coordinator.domain.metrics import LogPosition
from runlease_coordinator.history.parquet import PartBuilder, Rows

STEPS = 3000
#: Rows that the SDK sends in one entry, about: what a training of this speed logs in its half second.
ROWS = 20
Logged = Sequence[tuple[float, dict[str, float]]]


def train(steps: int) -> Logged:
    """Return what the demo's trainer logs, each step with its wall time."""
    training = Training(Recipe(steps=steps))
    return [(time.time(), dict(training.train_step())) for _ in range(steps)]


def bytes_a_point(logged: Logged, keys: Sequence[str], number: Callable[[float], float] = float) -> tuple[int, float]:
    """Return how many points the keys have, and what each takes."""
    builder = PartBuilder()
    for seq, start in enumerate(range(0, len(logged), ROWS), 1):
        rows = logged[start : start + ROWS]
        for key in keys:
            found = [(start + i, at, number(row[key])) for i, (at, row) in enumerate(rows) if key in row]
            if found:
                steps, times, values = zip(*found, strict=True)
                position = LogPosition(1_795_000_000_000_000, seq - 1)
                columns = np.array(steps, np.int64), np.array(times), np.array(values, np.float64)
                builder.add("main", key, Rows(1, 0, seq, position, *columns))
    return builder.points, len(builder.to_parquet()) / builder.points


def main() -> None:
    """Train and print."""
    logged = train(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS)
    keys = sorted({key for _, row in logged for key in row})

    def as_float32(value: float) -> float:
        return float(np.float32(value))

    for name, chosen, number in (
        (f"all {len(keys)} metrics", keys, float),
        (f"all {len(keys)} metrics, of a float32 model", keys, as_float32),
        ("loss alone", ["loss"], float),
        ("loss alone, of a float32 model", ["loss"], as_float32),
    ):
        points, size = bytes_a_point(logged, chosen, number)
        print(f"{name}: {points} points, {size:.2f} bytes a point")


if __name__ == "__main__":
    main()
