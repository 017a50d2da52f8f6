"""The trial of README.md in small, and that it would notice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.faults.formula import KEYS, TWICE, Column, column_of, points_of, rows, steps_for
from tests.faults.points import Plan, run
from tests.faults.verify import Difference, compare

STEPS = 300


@pytest.mark.parametrize("store", ["embedded", "redis"])
def test_four_ranks_through_faults(store: str, request: pytest.FixtureRequest) -> None:
    if store == "redis":
        request.getfixturevalue("redis_binary")
    plan = Plan(120_000, 7, store, 6, rate=6000, memory=64 << 10, archive_bytes=256 << 10)
    said: list[str] = []
    summary = run(plan, said.append)
    assert summary.points >= 120_000
    assert sorted(summary.faults) == ["cut", "kill both", "kill coordinator", "kill store", "lose replies", "stall"]
    assert summary.throttled_s > 0
    assert summary.spooled > 0
    assert summary.checkpoints == 20
    assert "every point is there once and in order" in str(summary)


def test_the_columns_are_what_the_ranks_log() -> None:
    for rank in range(4):
        logged: dict[str, list[tuple[int, float]]] = {key: [] for key in KEYS}
        for step in range(STEPS):
            for row in rows(rank, step):
                for key, value in row.items():
                    logged[key].append((step, value))
        for key, points in logged.items():
            column = column_of(rank, key, STEPS)
            assert list(zip(column.steps.tolist(), column.values.tolist(), strict=True)) == points
            assert dict(points) == dict(zip(*(part.tolist() for part in vars_of(column.visible())), strict=True))
        assert sum(map(len, logged.values())) == points_of(STEPS)
    assert points_of(steps_for(10_000)) * 4 >= 10_000 > points_of(steps_for(10_000) - 1) * 4


def vars_of(column: Column) -> tuple[np.ndarray, np.ndarray]:
    return column.steps, column.values


def without(column: Column, row: int) -> Column:
    return Column(np.delete(column.steps, row), np.delete(column.values, row))


def doubled(column: Column, row: int) -> Column:
    return Column(*(np.insert(part, row, part[row]) for part in vars_of(column)))


def swapped(column: Column, row: int) -> Column:
    order = np.arange(len(column.steps))
    order[[row, row + 1]] = order[[row + 1, row]]
    return Column(column.steps[order], column.values[order])


@pytest.mark.parametrize("change", [without, doubled, swapped])
@pytest.mark.parametrize("row", [0, 97, -2])
def test_each_difference_is_noticed(change: Callable[[Column, int], Column], row: int) -> None:
    wanted = column_of(1, TWICE, STEPS)
    compare("nothing", wanted, wanted)
    with pytest.raises(Difference, match=r"here: (point \d+ is|\d+ points, not)"):
        compare("here", change(wanted, row % len(wanted.steps)), wanted)
    with pytest.raises(Difference, match="lost"):
        compare("here", Column(wanted.steps[:-1], wanted.values[:-1]), wanted)
    with pytest.raises(Difference, match="too many"):
        compare("here", wanted, Column(wanted.steps[:-1], wanted.values[:-1]))
