"""The coordinator's checks of fields: whatever comes is taken as it is or refused with its path."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runlease.v1 import metrics_pb2 as pb
from runlease.v1 import runs_pb2
from runlease_coordinator.domain.errors import InvalidField
from runlease_coordinator.domain.leases import checked_ttl_us
from runlease_coordinator.domain.metrics import EntryKind
from runlease_coordinator.rpc import entries, fields

INT64 = st.integers(-(2**63), 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


def refused(call: Any, *args: Any, **more: Any) -> str:
    with pytest.raises(InvalidField) as caught:
        call(*args, **more)
    assert caught.value.field in str(caught.value)
    assert len(str(caught.value)) < 600
    return caught.value.field


@given(TEXT, TEXT)
def test_run_names(project: str, run_id: str) -> None:
    try:
        name = fields.run_name(runs_pb2.RunRef(project=project, id=run_id), "run")
    except InvalidField as error:
        field = error.field
    else:
        assert (name.project, name.id) == (project, run_id)
        assert len(name.canonical_id) == len(run_id) <= 64
        assert all(c == "-" or (c.isascii() and c.isalnum()) for c in name.canonical_id)
        return
    assert field in ("run.project", "run.id")


def test_run_names_are_named_where_they_stand() -> None:
    assert refused(fields.run_name, runs_pb2.RunRef(project="p"), "open.run") == "open.run.id"
    assert refused(fields.run_name, runs_pb2.RunRef(id="r"), "open.run") == "open.run.project"


@given(UINT64)
def test_fences(value: int) -> None:
    if 0 < value < 2**53:
        assert fields.fence(value) == value
    else:
        assert refused(fields.fence, value) == "fence"


@given(INT64)
def test_steps(value: int) -> None:
    if 0 <= value <= 2**53 - 2:
        assert fields.step(value, "x.step") == value
    else:
        assert refused(fields.step, value, "x.step") == "x.step"


@pytest.mark.parametrize("value", [0, 2**53 - 2])
def test_the_bounds_of_steps_are_steps(value: int) -> None:
    assert fields.step(value, "step") == value


@given(TEXT)
def test_tokens(value: str) -> None:
    fine = 1 <= len(value) <= 64 and all(c.isascii() and (c.isalnum() or c in "_-") for c in value)
    if fine:
        assert fields.token(value, "nonce") == value
    else:
        assert refused(fields.token, value, "nonce") == "nonce"


@pytest.mark.parametrize("value", ["a\n", "", "a b", "é", "x" * 65, "x" * (1 << 20)])
def test_tokens_that_are_none(value: str) -> None:
    assert refused(fields.token, value, "nonce") == "nonce"


@given(TEXT)
def test_lines(value: str) -> None:
    if len(value) <= 256 and not any(ord(c) < 32 or ord(c) == 127 for c in value):
        assert fields.line(value, "name") == value
    else:
        assert refused(fields.line, value, "name") == "name"


def test_tags() -> None:
    assert fields.tags(["b", "a", "b"]) == ["b", "a"]
    assert refused(fields.tags, ["a", "x" * 65]) == "tags.tags[1]"
    assert refused(fields.tags, ["a\nb"]) == "tags.tags[0]"
    assert refused(fields.tags, map(str, range(65))) == "tags.tags"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXT.filter(lambda key: 0 < len(key) <= 256), JSON, max_size=4))
def test_what_is_json_is_taken_as_it_is(values: dict[str, Any]) -> None:
    texts = {key: json.dumps(value) for key, value in values.items()}
    assert fields.json_map(texts, "config") == texts


@given(TEXT)
def test_what_is_no_json_is_refused(text: str) -> None:
    try:
        json.loads(text)
    except ValueError:
        assert refused(fields.json_map, {"a": text}, "config") == "config['a']"


BAD_JSON = ["", "{", "nope", "[" * 100_000, "1 2", "'a'", "{a: 1}", "[\n1]", "1\r", "9" * 5000, "\x00", '"\x01"']


@pytest.mark.parametrize("text", BAD_JSON, ids=lambda text: repr(text)[:16])
def test_json_that_is_none(text: str) -> None:
    assert refused(fields.json_map, {"a": text}, "config") == "config['a']"


def test_json_keys_and_sizes() -> None:
    assert refused(fields.json_map, {"": "1"}, "config") == "config"
    assert refused(fields.json_map, {"k" * 257: "1"}, "config") == "config"
    assert refused(fields.json_map, {str(n): "1" for n in range(4097)}, "config") == "config"
    assert refused(fields.json_map, {"a": json.dumps("x" * (1 << 20))}, "config") == "config"


@given(st.integers(0, 2**32 - 1))
def test_ttls(ttl_ms: int) -> None:
    if ttl_ms == 0:
        assert checked_ttl_us(0, 60_000_000) == 30_000_000
    elif 5_000 <= ttl_ms <= 60_000:
        assert checked_ttl_us(ttl_ms, 60_000_000) == ttl_ms * 1000
    else:
        assert refused(checked_ttl_us, ttl_ms, 60_000_000) == "ttl_ms"


def test_the_default_ttl_is_within_the_coordinators_maximum() -> None:
    assert checked_ttl_us(0, 7_000_000) == 7_000_000


# Entries of a log


def points(steps: list[int], series: list[pb.Series], times: list[float] | None = None, *, seq: int = 1) -> pb.Entry:
    return pb.Entry(
        seq=seq, points=pb.Points(steps=steps, times=[0.0] * len(steps) if times is None else times, series=series)
    )


def one(key: str = "loss", values: tuple[float, ...] = (1.0, 2.0), rows: tuple[int, ...] = ()) -> pb.Series:
    return pb.Series(key=key, values=values, rows=rows)


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        (points([], []), "entry.points.steps"),
        (points([0, 1], []), "entry.points.series"),
        (points([0, 1], [one()], [0.0]), "entry.points.times"),
        (points([0, 1], [one()], [0.0] * 3), "entry.points.times"),
        (points([0, -1], [one()]), "entry.points.steps"),
        (points([0, 2**53 - 1], [one()]), "entry.points.steps"),
        (points([0, 1], [one(values=(1.0,))]), "entry.points.series[0].values"),
        (points([0, 1], [one(), one("x" * 257)]), "entry.points.series[1].key"),
        (points([0, 1], [one("")]), "entry.points.series[0].key"),
        (points([0, 1], [one(rows=(0, 2))]), "entry.points.series[0].rows"),
        (points([0, 1], [one(rows=(1, 0))]), "entry.points.series[0].rows"),
        (points([0, 1], [one(rows=(0, 0))]), "entry.points.series[0].rows"),
        (points([0, 1], [one(rows=(0,))]), "entry.points.series[0].values"),
        (points([0, 1], [one(values=(), rows=())]), "entry.points.series[0].values"),
        (points([0], [one(str(n), (1.0,)) for n in range(20_000)]), "entry.points.series"),
        (points([0, 1], [one()], seq=0), "entry.seq"),
        (pb.Entry(seq=0, rewind=pb.Rewind(step=1)), "entry.seq"),
        (points([0, 1], [one()], seq=2**53), "entry.seq"),
        (pb.Entry(seq=1), "entry.payload"),
        (pb.Entry(seq=1, commit=pb.Commit(step=-1, uri="u")), "entry.commit.step"),
        (pb.Entry(seq=1, commit=pb.Commit(step=2**53 - 1, uri="u")), "entry.commit.step"),
        (pb.Entry(seq=1, commit=pb.Commit(step=1, uri="u" * 4097)), "entry.commit.uri"),
        (pb.Entry(seq=1, commit=pb.Commit(step=1, uri="a\nb")), "entry.commit.uri"),
        (pb.Entry(seq=1, commit=pb.Commit(step=1, uri="u", metadata={"a": "{"})), "entry.commit.metadata['a']"),
        (pb.Entry(seq=1, rewind=pb.Rewind(step=-1)), "entry.rewind.step"),
        (pb.Entry(seq=1, lost=pb.Lost(entries=2)), "entry.lost.entries"),
        (pb.Entry(seq=1, end=pb.End()), "entry.end"),
    ],
)  # fmt: skip
def test_entries_that_are_none(entry: pb.Entry, field: str) -> None:
    assert refused(entries.entry_of, entry, 5) == field
    void = entries.void_entry(entry)
    assert (void.seq, void.kind, void.payload) == (entry.seq, EntryKind.VOID, b"")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 5e-324])
def test_every_float_is_a_value(value: float) -> None:
    entry = entries.entry_of(points([3, 1], [one(values=(value, 1.0)), one("x" * 256, (2.0,), (1,))]), 5)
    assert (entry.kind, entry.points, entry.step) == (EntryKind.POINTS, 3, 3)
    back = pb.Points.FromString(entry.payload)
    assert back.series[0].values[0].hex() == value.hex()


SERIES = st.builds(
    pb.Series,
    key=TEXT,
    rows=st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 3), max_size=4),
    values=st.lists(st.floats(), max_size=4),
)
POINTS = st.builds(
    pb.Points,
    steps=st.lists(INT64 | st.integers(0, 9), max_size=4),
    times=st.lists(st.floats(), max_size=4),
    series=st.lists(SERIES, max_size=3),
)
COMMITS = st.builds(pb.Commit, step=INT64, uri=TEXT, metadata=st.dictionaries(TEXT, TEXT, max_size=2))
ENTRIES = st.one_of(
    st.builds(pb.Entry, seq=UINT64, segment=st.integers(0, 2**32 - 1), points=POINTS),
    st.builds(pb.Entry, seq=UINT64, commit=COMMITS),
    st.builds(pb.Entry, seq=UINT64, rewind=st.builds(pb.Rewind, step=INT64)),
)


@settings(max_examples=300)
@given(ENTRIES)
def test_any_entry_is_taken_or_refused_by_its_path(message: pb.Entry) -> None:
    field = ""
    try:
        entry = entries.entry_of(message, 5)
    except InvalidField as error:
        field = error.field
    if field:
        assert field.startswith("entry.")
        return
    assert (entry.seq, entry.segment) == (message.seq, message.segment)
    assert 1 <= entry.seq < 2**53
    assert 0 <= entry.step <= 2**53 - 2
    if entry.kind is EntryKind.POINTS:
        assert entry.points == sum(len(series.values) for series in message.points.series) > 0
        assert entry.step == max(message.points.steps)
