"""Histories in the client's hands: messages to columns, columns to frames."""

from __future__ import annotations

import struct
import sys
from array import array
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runlease.history import History, Series, history_of
from runlease.v1 import metrics_pb2 as pb

#: Close together, or far apart; in order, or as the log of a late writer has it.
STEPS = st.one_of(
    st.lists(st.integers(0, 30), unique=True, max_size=8).map(sorted),
    st.lists(st.integers(0, 2**53 - 2), unique=True, max_size=5),
    st.just([3, 4, 5]),
)


def series(key: str, steps: list[int], superseded: list[bool] | None = None, writer: str = "main") -> Series:
    values = array("d", [float(step) for step in steps])
    return Series(key, writer, array("q", steps), values, values, array("I", [1] * len(steps)), superseded or ())


@settings(max_examples=300, deadline=None, print_blob=True)
@given(st.lists(STEPS, max_size=4))
def test_a_frame_has_every_step_once(columns: list[list[int]]) -> None:
    frame = History(series(f"k{number}", steps) for number, steps in enumerate(columns)).to_pandas()
    assert frame.index.tolist() == sorted({step for steps in columns for step in steps})
    assert frame.index.name == "step"
    assert frame.index.dtype == "int64"
    assert list(frame.columns) == [f"k{number}" for number in range(len(columns))]
    for number, steps in enumerate(columns):
        column = frame[f"k{number}"].dropna()
        assert column.index.tolist() == sorted(steps)
        assert column.tolist() == [float(step) for step in sorted(steps)]


def test_a_frame_shows_what_is_not_superseded() -> None:
    frame = History([series("a", [1, 1, 2, 3], [True, False, False, True])]).to_pandas()
    assert frame.index.tolist() == [1, 2]


def test_writers_are_told_apart() -> None:
    history = History([series("a", [1]), series("a", [2], writer="rank1")])
    assert list(history.to_pandas().columns) == ["a@main", "a@rank1"]
    assert history.to_arrow()["writer"].to_pylist() == ["main", "rank1"]


def packed(order: str, steps: list[int], **more: object) -> pb.HistoryResponse:
    count = len(steps)
    return pb.HistoryResponse(
        key="a",
        writer="main",
        packed_steps=struct.pack(f"{order}{count}q", *steps),
        packed_values=struct.pack(f"{order}{count}d", *map(float, steps)),
        packed_times=struct.pack(f"{order}{count}d", *map(float, steps)),
        packed_attempts=struct.pack(f"{order}{count}I", *[7] * count),
        **more,
    )


@pytest.mark.parametrize("order", ["big", "little"])
def test_packed_columns_on_machines_of_either_byte_order(order: str) -> None:
    # Given a machine of the other order, its native numbers are what the wire's are once they are turned round.
    wire = "<" if order == sys.byteorder else ">"
    with mock.patch.object(sys, "byteorder", order):
        (found,) = history_of([packed(wire, [1, 2**40]), packed(wire, [2**52])]).series
    assert list(found.steps) == [1, 2**40, 2**52]
    assert list(found.values) == [1.0, 2.0**40, 2.0**52]
    assert list(found.attempts) == [7, 7, 7]


def test_flags_of_buckets_cover_all_parts_of_a_series() -> None:
    parts = [packed("<", [1, 2]), packed("<", [3], nan_in_bucket=[True]), packed("<", [4])]
    history = history_of([*parts, pb.HistoryResponse(cursor="5-1")])
    assert list(history.series[0].nan_in_bucket) == [False, False, True, False]
    assert (history.cursor, history.next_page_token) == ("5-1", "")
    assert list(history_of(parts[:1]).series[0].nan_in_bucket) == []
