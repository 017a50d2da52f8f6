"""Stored payloads as NumPy columns, against protobuf's own parser."""

from __future__ import annotations

import math
import struct
from unittest import mock

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import event, given, settings
from hypothesis import strategies as st
from runlease.v1 import metrics_pb2 as pb
from runlease_coordinator.domain.metrics import LogPosition
from runlease_coordinator.history import decode as module
from runlease_coordinator.history import hot
from runlease_coordinator.history.decode import Rows, decode
from runlease_coordinator.history.selection import KeyFilter, Selection
from runlease_coordinator.history.walltime import from_us, to_us
from runlease_coordinator.store.metrics import LogEntry

STEPS = st.one_of(st.integers(0, 300), st.integers(0, 2**53 - 2))
TIMES = st.floats(0, 4e9)
KEYS = st.text(min_size=1, max_size=300)
VALUES = st.floats()


@st.composite
def points(draw: st.DrawFn) -> pb.Points:
    steps = draw(st.lists(STEPS, min_size=1, max_size=40))
    message = pb.Points(steps=steps, times=draw(st.lists(TIMES, min_size=len(steps), max_size=len(steps))))
    for key in draw(st.lists(KEYS, max_size=4)):
        rows = sorted(draw(st.sets(st.integers(0, len(steps) - 1)))) if draw(st.booleans()) else []
        count = len(rows) or len(steps)
        values = draw(st.lists(VALUES, min_size=count, max_size=count))
        message.series.add(key=key, rows=rows, values=values)
    return message


def assert_same(found: Rows, message: pb.Points) -> None:
    assert found.steps.tolist() == list(message.steps)
    assert found.times == pytest.approx(list(message.times), rel=0, abs=1e-6)
    for column, series in zip(found.columns, message.series, strict=True):
        assert column.key == series.key
        assert (column.rows is None) == (not series.rows)
        assert column.rows is None or column.rows.tolist() == list(series.rows)
        np.testing.assert_array_equal(column.values, np.array(series.values))
        assert column.values.tobytes() == struct.pack(f"<{len(series.values)}d", *series.values)


@settings(max_examples=300, deadline=None, print_blob=True)
@given(points())
def test_what_protobuf_writes(message: pb.Points) -> None:
    with mock.patch.object(module, "_parsed", side_effect=AssertionError):  # read without protobuf's help
        found = decode(message.SerializeToString(), KeyFilter())
    assert_same(found, message)


@settings(max_examples=200, deadline=None, print_blob=True)
@given(points(), st.sampled_from(["numbers not packed", "unknown field", "in halves", "fields the other way round"]))
def test_other_forms_of_the_same_message(message: pb.Points, form: str) -> None:
    event(form)
    match form:
        case "numbers not packed":
            payload = b"".join(b"\x08" + _varint(step) for step in message.steps)
            payload += b"".join(b"\x11" + struct.pack("<d", time) for time in message.times)
            payload += b"".join(b"\x1a" + _sized(series.SerializeToString()) for series in message.series)
        case "unknown field":
            payload = message.SerializeToString() + b"\xba\x3e" + _sized(b"later")
        case "in halves":
            half = len(message.steps) // 2
            first = pb.Points(steps=message.steps[:half], times=message.times[:half])
            payload = first.SerializeToString()
            payload += pb.Points(
                steps=message.steps[half:], times=message.times[half:], series=message.series
            ).SerializeToString()
        case _:
            payload = pb.Points(series=message.series).SerializeToString()
            payload += pb.Points(times=message.times).SerializeToString()
            payload += pb.Points(steps=message.steps).SerializeToString()
    assert_same(decode(payload, KeyFilter()), message)


@settings(max_examples=300, deadline=None, print_blob=True)
@given(points(), st.data())
def test_broken_payloads_are_never_read_as_something_else(message: pb.Points, data: st.DataObject) -> None:
    payload = bytearray(message.SerializeToString())
    place = data.draw(st.integers(0, len(payload) - 1))
    if data.draw(st.booleans()):
        del payload[place:]
    else:
        payload[place] = data.draw(st.integers(0, 255))
    try:
        expected = pb.Points.FromString(bytes(payload))
    except DecodeError:
        with pytest.raises((DecodeError, UnicodeDecodeError)):
            decode(bytes(payload), KeyFilter())
        return
    assert_same_shape(decode(bytes(payload), KeyFilter()), expected)


def assert_same_shape(found: Rows, message: pb.Points) -> None:
    assert found.steps.tolist() == list(message.steps)
    assert [column.key for column in found.columns] == [series.key for series in message.series]
    for column, series in zip(found.columns, message.series, strict=True):
        np.testing.assert_array_equal(column.values, np.array(series.values))


@settings(max_examples=200, deadline=None, print_blob=True)
@given(
    st.lists(st.tuples(points(), st.sampled_from([(1, 0), (1, 1), (2, 0)])), max_size=8),
    st.sampled_from([(None, None), (100, None), (5, 250)]),
)
def test_small_entries_and_large_ones_give_the_same_batches(
    entries: list[tuple[pb.Points, tuple[int, int]]], bounds: tuple[int | None, int | None]
) -> None:
    log = [
        LogEntry(LogPosition(7, number), attempt, "main", number, segment, message.SerializeToString())
        for number, (message, (attempt, segment)) in enumerate(entries)
    ]
    selection = Selection(frozenset(("main",)), LogPosition(8, 0), KeyFilter(), *bounds)

    def columns(gathered: bool | None) -> dict[tuple[int, int, str], list[tuple[int, float, bytes]]]:
        found: dict[tuple[int, int, str], list[tuple[int, float, bytes]]] = {}
        as_it_is = mock.DEFAULT if gathered is None else gathered
        with mock.patch.object(hot, "is_small", wraps=hot.is_small, return_value=as_it_is):
            for batch in hot.batches_of(log, {}, selection):
                place = batch.attempt, batch.segment, batch.key
                values = [struct.pack("d", value) for value in batch.values]
                found.setdefault(place, []).extend(zip(batch.steps.tolist(), batch.times.tolist(), values, strict=True))
        return found

    assert columns(True) == columns(False) == columns(None)


def test_only_keys_that_pass() -> None:
    message = pb.Points(steps=[1], times=[1.0])
    for key in ("train/loss", "train/acc", "eval/loss", "a[b]", "x\ny"):
        message.series.add(key=key, values=[1.0])

    def keys(*keys: str, patterns: tuple[str, ...] = ()) -> list[str]:
        return [column.key for column in decode(message.SerializeToString(), KeyFilter(keys, patterns)).columns]

    assert keys("train/acc", "nowhere") == ["train/acc"]
    assert keys(patterns=("*loss",)) == ["train/loss", "eval/loss"]
    assert keys("a[b]", patterns=("????/loss",)) == ["eval/loss", "a[b]"]
    assert keys(patterns=("a[b]",)) == ["a[b]"]
    assert keys(patterns=("a[!b]", "train.*", "TRAIN*")) == []
    assert keys(patterns=("x?y",)) == ["x\ny"]
    assert keys("*") == []


KEY = st.text("abc", max_size=3)


@settings(max_examples=400, deadline=None, print_blob=True)
@given(st.lists(KEY, max_size=2), st.lists(st.text("abc*?", max_size=4), max_size=2), KEY, st.lists(KEY, min_size=1))
def test_a_range_of_keys_is_skipped_only_if_none_of_them_passes(
    keys: list[str], patterns: list[str], first: str, there: list[str]
) -> None:
    taken = KeyFilter(keys, patterns).starting_at(first)
    passes = [key for key in there if taken.takes(key)]
    assert [key for key in there if taken.passed(key.encode()) is not None] == passes
    matching = [key for key in there if not (keys or patterns) or key in keys or any(like(key, p) for p in patterns)]
    assert passes == [key for key in matching if key >= first]
    assert not passes or taken.may_take(min(there), max(there))


def like(key: str, pattern: str) -> bool:
    if not pattern:
        return not key
    if pattern[0] == "*":
        return like(key, pattern[1:]) or (bool(key) and like(key[1:], pattern))
    return bool(key) and pattern[0] in ("?", key[0]) and like(key[1:], pattern[1:])


def test_wall_times_are_whole_microseconds() -> None:
    given = np.array([1763802692.1234567, 0.0, -1.5, 1e300, -math.inf, math.inf, math.nan])
    far, found = 253_402_300_800_000_000, to_us(given)
    assert found.tolist() == [1763802692123457, 0, -1500000, far, -far, far, 0]
    assert to_us(from_us(found[:3])).tolist() == found[:3].tolist()


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*encoded, number))


def _sized(content: bytes) -> bytes:
    return _varint(len(content)) + content
