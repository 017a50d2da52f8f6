"""Downsampling: what must survive, whatever the values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from runlease_coordinator.domain.downsample import downsampled
from runlease_coordinator.domain.metrics import Series

STEPS = st.one_of(st.integers(0, 60), st.integers(0, 2**53 - 2))
VALUES = st.one_of(st.floats(), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0]))


def series(steps: list[int], values: list[float], hidden: list[bool] | None = None) -> Series:
    count = len(steps)
    return Series(
        "loss",
        "main",
        np.array(steps, np.int64),
        np.array(values, np.float64),
        np.arange(count, dtype=np.float64),  # tells which point it is
        np.arange(count, dtype=np.uint32),
        None if hidden is None else np.array(hidden, np.bool_),
    )


@st.composite
def curves(draw: st.DrawFn) -> Series:
    steps = sorted(draw(st.sets(STEPS, min_size=1, max_size=120)))
    return series(steps, draw(st.lists(VALUES, min_size=len(steps), max_size=len(steps))))


def places(found: Series) -> list[int]:
    return [int(time) for time in found.times]


def assert_points_of(found: Series, whole: Series) -> None:
    """Check that what was kept are whole points, in order."""
    kept = places(found)
    assert kept == sorted(set(kept))
    assert found.steps.tolist() == whole.steps[kept].tolist()
    assert found.values.tobytes() == whole.values[kept].tobytes()
    assert found.attempts.tolist() == kept


@settings(max_examples=500, deadline=None, print_blob=True)
@given(curves(), st.integers(1, 130))
def test_what_survives(whole: Series, room: int) -> None:
    found = downsampled(whole, room)
    assert len(found) <= room
    assert_points_of(found, whole)
    if len(whole) <= room:
        event("as it is")
        assert found is whole
        return
    event("fewer points")
    assert places(found)[-1] == len(whole) - 1
    if room < 4:
        return
    assert places(found)[0] == 0
    numbers = whole.values[~np.isnan(whole.values)]
    if len(numbers):
        assert numbers.min() in found.values
        assert numbers.max() in found.values
    flagged = found.nan_in_bucket is not None and found.nan_in_bucket.any()
    assert flagged == np.isnan(whole.values).any()


@settings(max_examples=300, deadline=None, print_blob=True)
@given(curves(), st.integers(4, 130))
def test_each_bucket_keeps_its_extremes(whole: Series, room: int) -> None:
    if len(whole) <= room:
        return
    found = downsampled(whole, room)
    low, span = int(whole.steps[0]), int(whole.steps[-1]) - int(whole.steps[0]) + 1
    width = math.ceil(span / ((room - 2) // 2)) if span < 2**50 else -(-span // ((room - 2) // 2))
    kept = set(places(found))
    buckets: dict[int, list[int]] = {}
    for row, step in enumerate(whole.steps.tolist()):
        buckets.setdefault((step - low) // width, []).append(row)
    flags = dict(zip(places(found), (found.nan_in_bucket if found.nan_in_bucket is not None else kept), strict=False))
    for rows in buckets.values():
        numbers = [row for row in rows if not math.isnan(whole.values[row])]
        if numbers:
            assert min(numbers, key=lambda row: whole.values[row]) in kept
            assert max(numbers, key=lambda row: whole.values[row]) in kept
        else:
            assert kept & set(rows)
        if found.nan_in_bucket is not None:
            assert {bool(flags[row]) for row in kept & set(rows)} == {len(numbers) < len(rows)}


def test_one_spike_in_ten_million_survives() -> None:
    count = 10_000_000
    values = np.zeros(count)
    values[7_654_321] = 1e9
    whole = Series("loss", "main", np.arange(count), values, values, np.ones(count, np.uint32))
    found = downsampled(whole, 2000)
    assert len(found) <= 2000
    assert found.steps[found.values == 1e9].tolist() == [7_654_321]


def test_a_nan_never_wins_over_a_number() -> None:
    values = [0.0] * 50 + [math.nan, 7.0, math.nan] + [math.inf] * 47 + [math.nan] * 100
    found = downsampled(series(list(range(200)), values), 42)
    assert 7.0 in found.values
    assert math.inf in found.values
    assert found.nan_in_bucket is not None
    by_step = dict(zip(found.steps.tolist(), found.nan_in_bucket.tolist(), strict=True))
    assert by_step[51] is True
    assert by_step[0] is False
    # Ten of the buckets hold nothing but NaN: one point each, and the last one.
    assert np.isnan(found.values).sum() <= 11


@pytest.mark.parametrize("room", [4, 10, 50, 150])
def test_hidden_points_push_no_visible_one_out(room: int) -> None:
    # Given a visible curve of 0..100 below hidden spikes at every step.
    steps = [step for step in range(100) for _ in range(2)]
    whole = series(steps, [value for step in range(100) for value in (1e6 + step, step)], [True, False] * 100)
    found = downsampled(whole, room)
    assert len(found) <= room
    assert_points_of(found, whole)
    assert found.superseded is not None
    shown = found.take(~found.superseded)
    assert len(found) - len(shown) <= room // 2
    assert shown.steps[0] == 0
    assert shown.steps[-1] == 99


@settings(max_examples=200, deadline=None, print_blob=True)
@given(curves(), st.data(), st.integers(1, 60))
def test_room_is_shared_with_hidden_points(whole: Series, data: st.DataObject, room: int) -> None:
    hidden = data.draw(st.lists(st.booleans(), min_size=len(whole), max_size=len(whole)))
    marked = series(whole.steps.tolist(), whole.values.tolist(), hidden)
    found = downsampled(marked, room)
    assert len(found) <= room
    assert_points_of(found, whole)
    if False in hidden:
        assert found.superseded is not None
        assert not found.superseded.all()
