"""Comparisons of histories, against their definition."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from runlease.comparison import compare, compare_config, difference
from runlease.history import History, Series

VALUES = st.floats() | st.sampled_from([0.0, 1.0, math.nan, math.inf])
CURVES = st.dictionaries(st.integers(0, 12), VALUES, max_size=10)


def history(**curves: dict[int, float]) -> History:
    return History(
        Series(
            key, "main", sorted(curve), [curve[step] for step in sorted(curve)], [0.0] * len(curve), [1] * len(curve)
        )
        for key, curve in curves.items()
        if curve
    )


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


@settings(deadline=None)
@given(CURVES, CURVES)
def test_a_comparison_is_what_it_says(a: dict[int, float], b: dict[int, float]) -> None:
    found = compare(history(loss=a), history(loss=b))
    if not a and not b:
        assert found == []
        return
    (one,) = found
    common = sorted(set(a) & set(b))
    assert list(one.steps) == common
    assert all(same(value, a[step]) for step, value in zip(common, one.a, strict=True))
    assert all(same(value, b[step]) for step, value in zip(common, one.b, strict=True))
    assert (one.only_a, one.only_b) == (len(a) - len(common), len(b) - len(common))
    different = [step for step in common if not same(a[step], b[step])]
    assert one.first_different_step == (different[0] if different else None)
    assert one.identical == (set(a) == set(b) and not different)
    if not common:
        assert one.largest is one.first_difference is one.last_difference is one.largest_step is None
        return
    sizes = {step: abs(difference(a[step], b[step])) for step in common}
    assert one.largest is not None
    if any(math.isnan(size) for size in sizes.values()):
        assert math.isnan(one.largest)
    else:
        assert one.largest == max(sizes.values())
    assert same(one.largest, sizes[one.largest_step])
    assert same(one.first_difference, difference(a[common[0]], b[common[0]]))
    assert same(one.last_difference, difference(a[common[-1]], b[common[-1]]))


@settings(deadline=None)
@given(CURVES)
def test_a_history_is_identical_to_itself(curve: dict[int, float]) -> None:
    assert [one.identical for one in compare(history(loss=curve), history(loss=curve))] == [True] * bool(curve)


def test_differences_of_what_is_no_number() -> None:
    assert difference(math.nan, math.nan) == difference(math.inf, math.inf) == difference(-0.0, 0.0) == 0
    assert math.isnan(difference(math.nan, 1.0))
    assert difference(1.0, math.inf) == math.inf


def test_keys_of_either_run_are_compared() -> None:
    found = compare(history(a={1: 1.0}, both={1: 1.0}), history(b={1: 1.0, 2: 1.0}, both={1: 1.0}))
    assert [(one.key, one.only_a, one.only_b, one.identical) for one in found] == [
        ("a", 1, 0, False),
        ("b", 0, 2, False),
        ("both", 0, 0, True),
    ]


def test_configs_differ_by_top_level_key() -> None:
    found = compare_config({"lr": 0.1, "same": [1], "gone": None}, {"lr": 0.2, "same": [1], "new": 0})
    assert [(one.key, one.a, one.b, one.in_a, one.in_b) for one in found] == [
        ("gone", None, None, True, False),
        ("lr", 0.1, 0.2, True, True),
        ("new", None, 0, False, True),
    ]
