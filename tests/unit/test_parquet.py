"""Parts of the archive: what goes in comes out, and what is not asked for is not read."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runlease_coordinator.domain.metrics import MAX_STEP, Batch, LogPosition
from runlease_coordinator.domain.runs import Segment
from runlease_coordinator.history.parquet import PartBuilder, Rows, segments_parquet
from runlease_coordinator.history.partreads import read_part
from runlease_coordinator.history.selection import KeyFilter, Selection

END = LogPosition(2**53, 2**53)
FENCE = 1_795_363_795_264_843
Logged = tuple[str, int, int, dict[str, list[tuple[int, float]]]]
Point = tuple[str, str, int, int, int, str, float]

KEYS = st.one_of(st.text(min_size=1, max_size=5), st.sampled_from(["loss", "val/loss", "каша", "损失", "\U0010ffff"]))
STEPS = st.one_of(st.integers(0, 20), st.integers(0, MAX_STEP))
ENTRIES = st.lists(
    st.tuples(
        st.sampled_from(["main", "rank1"]),
        st.integers(1, 3),
        st.integers(0, 2),
        st.dictionaries(KEYS, st.lists(st.tuples(STEPS, st.floats()), min_size=1, max_size=4), min_size=1, max_size=3),
    ),
    max_size=12,
)


def rows_of(
    points: Iterable[tuple[int, float]], *, attempt: int = 1, segment: int = 0, seq: int = 1, number: int = 0
) -> Rows:
    steps, values = zip(*points, strict=True)
    times = 1.7e9 + np.arange(len(steps)) / 1e6
    position = LogPosition(FENCE, number)
    return Rows(attempt, segment, seq, position, np.array(steps, np.int64), times, np.array(values, np.float64))


def selection(**bounds: object) -> Selection:
    given = {"writers": frozenset(("main", "rank1")), "upto": END} | bounds
    return Selection(**given)


def flat(batches: Iterable[Batch]) -> list[Point]:
    return [
        (b.writer, b.key, b.attempt, b.segment, step, value.hex(), time)
        for b in batches
        for step, value, time in zip(b.steps.tolist(), b.values.tolist(), b.times.tolist(), strict=True)
    ]


@settings(max_examples=60, deadline=None)
@given(ENTRIES)
def test_points_come_back_as_they_went_in(
    entries: list[tuple[str, int, int, dict[str, list[tuple[int, float]]]]],
) -> None:
    builder = PartBuilder()
    expected: dict[tuple[str, str, int, int], list[Point]] = {}
    for number, (writer, attempt, segment, series) in enumerate(entries):
        for key, points in series.items():
            rows = rows_of(points, attempt=attempt, segment=segment, seq=number + 1, number=number)
            builder.add(writer, key, rows)
            batch = Batch(attempt, segment, writer, key, rows.steps, rows.times, rows.values)
            expected.setdefault((writer, key, attempt, segment), []).extend(flat([batch]))
    assert builder.points == sum(map(len, expected.values()))
    if not builder.points:
        return
    content = io.BytesIO(builder.to_parquet())
    assert flat(read_part(content, selection(), places=False)) == [
        point for place in sorted(expected) for point in expected[place]
    ]
    steps = [point[4] for points in expected.values() for point in points]
    assert builder.step_range() == (min(steps), max(steps))


def test_every_kind_of_number_survives() -> None:
    values = [math.nan, -math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, 1.7976931348623157e308]
    builder = PartBuilder()
    builder.add("main", "k", rows_of([(MAX_STEP - i, value) for i, value in enumerate(values)]))
    (batch,) = read_part(io.BytesIO(builder.to_parquet()), selection(), places=False)
    assert batch.values.tobytes() == np.array(values).tobytes()
    assert batch.steps.tolist() == [MAX_STEP - i for i in range(len(values))]


def test_late_entries_of_an_attempt_lie_with_it() -> None:
    builder = PartBuilder()
    for number, (attempt, seq) in enumerate([(2, 1), (2, 2), (1, 7), (1, 8), (2, 3)]):
        builder.add("main", "k", rows_of([(number, 0.0), (number, 1.0)], attempt=attempt, seq=seq, number=number))
    batches = list(read_part(io.BytesIO(builder.to_parquet()), selection(), places=False))
    assert [(batch.attempt, batch.steps.tolist()) for batch in batches] == [(1, [2, 2, 3, 3]), (2, [0, 0, 1, 1, 4, 4])]
    assert all(batch.values.tolist() == [0.0, 1.0] * (len(batch.steps) // 2) for batch in batches)


def part() -> io.BytesIO:
    """Three entries, of which each holds two keys of two writers."""
    builder = PartBuilder()
    for number in range(3):
        for writer in ("main", "rank1"):
            for key in ("loss", "val/loss"):
                builder.add(writer, key, rows_of([(number * 10 + i, 0.0) for i in range(10)], number=number))
    return io.BytesIO(builder.to_parquet())


@pytest.mark.parametrize(
    ("bounds", "points"),
    [
        ({}, 120),
        ({"keys": KeyFilter(["loss"])}, 60),
        ({"keys": KeyFilter([], ["val/*"])}, 60),
        ({"keys": KeyFilter(["absent"])}, 0),
        ({"keys": KeyFilter().starting_at("m")}, 60),
        ({"keys": KeyFilter().starting_at("w")}, 0),
        ({"keys": KeyFilter(["loss"], ["val/*"]).starting_at("loss")}, 120),
        ({"writers": frozenset(("rank1",))}, 60),
        ({"writers": frozenset(("absent",))}, 0),
        ({"min_step": 25}, 20),
        ({"max_step": 4}, 20),
        ({"min_step": 5, "max_step": 14}, 40),
        ({"min_step": 30}, 0),
        ({"upto": LogPosition(FENCE, 0)}, 40),
        ({"after": LogPosition(FENCE, 0)}, 80),
        ({"after": LogPosition(FENCE, 0), "upto": LogPosition(FENCE, 1), "min_step": 15}, 20),
        ({"upto": LogPosition(FENCE - 1, 7)}, 0),
        ({"after": LogPosition(FENCE + 1, 0)}, 0),
    ],
)
def test_selections(bounds: dict[str, object], points: int) -> None:
    chosen = selection(**bounds)
    assert len(flat(read_part(part(), chosen, places=True))) == points
    assert bool(points) == bool(list(read_part(part(), chosen, places=True)))  # no batch is empty


def test_row_groups_of_other_keys_are_not_read() -> None:
    builder = PartBuilder()
    for key in ("a", "b", "c"):
        for number in range(2):
            builder.add("main", key, rows_of([(i, 0.0) for i in range(100_000)], number=number))
    content = bytearray(builder.to_parquet())
    metadata = pq.read_metadata(io.BytesIO(content))
    assert metadata.num_row_groups == 3
    # Given the bytes of the other keys destroyed, the one that is asked for still reads.
    for group in (0, 2):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            content[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    only = selection(keys=KeyFilter(["b"]))
    assert len(flat(read_part(io.BytesIO(content), only, places=False))) == 200_000
    with pytest.raises(OSError, match=r"zstd|page|[Tt]hrift"):
        list(read_part(io.BytesIO(content), selection(keys=KeyFilter(["c"])), places=False))


def test_other_tools_read_parts_and_segments(tmp_path: Path) -> None:
    builder = PartBuilder()
    builder.add("main", "损失", rows_of([(0, math.nan), (1, 2.0)]))
    path = tmp_path / "part.parquet"
    path.write_bytes(builder.to_parquet())
    columns = "writer, key, attempt, segment, seq, fence, entry, step, epoch_us(time), value"
    (row,) = duckdb.sql(f"SELECT {columns} FROM '{path}' WHERE step = 1").fetchall()
    assert row == ("main", "损失", 1, 0, 1, FENCE, 0, 1, 1_700_000_000_000_001, 2.0)
    path.write_bytes(segments_parquet([Segment(1, 0, "", 0, True), Segment(1, 1, "main", 5, False)]))
    assert duckdb.sql(f"SELECT * FROM '{path}'").fetchall() == [(1, 0, "", 0, True), (1, 1, "main", 5, False)]
