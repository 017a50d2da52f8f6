"""Export formats against the points that went in, however the history is cut into parts."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runlease.export import FORMATS, TargetExists, new_file, open_rows, write_wide
from runlease.history import History, Series

SPELLED = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
Points = list[tuple[Any, ...]]


@st.composite
def histories(draw: st.DrawFn) -> History:
    places = st.tuples(st.sampled_from(["loss", "a,b\n", 'say "ü"', "step"]), st.sampled_from(["main", "rank1"]))
    series = []
    for key, writer in draw(st.sets(places, max_size=4)):
        steps = sorted(draw(st.sets(st.integers(0, 2**62), min_size=1, max_size=6)))
        values = draw(st.lists(st.floats(), min_size=len(steps), max_size=len(steps)))
        times = [1e9 + step % 1000 / 7 for step in steps]
        hidden = draw(st.lists(st.booleans(), min_size=len(steps), max_size=len(steps)))
        series.append(Series(key, writer, steps, values, times, [1 + step % 3 for step in steps], hidden))
    return History(series)


def parts_of(history: History, size: int) -> list[History]:
    """Cut a history into pages of at most ``size`` points."""
    parts: list[History] = []
    for one in history.series:
        for start in range(0, len(one.steps), size):
            row = slice(start, start + size)
            columns = (one.steps[row], one.values[row], one.times[row], one.attempts[row], one.superseded[row])
            parts.append(History([Series(one.key, one.writer, *columns)]))
    return parts


def points_of(history: History) -> Points:
    hidden = [flag for one in history.series for flag in one.superseded]
    return [(*point, flag) for point, flag in zip(history.rows(), hidden, strict=True)]


def read(form: str, content: bytes) -> Points:
    if form == "parquet":
        return [tuple(row.values()) for row in pq.read_table(io.BytesIO(content)).to_pylist()]
    text = content.decode()
    if form == "csv":
        header, *rows = csv.reader(io.StringIO(text, newline=""))
        assert header == ["key", "step", "value", "time", "attempt", "writer", "superseded"]
        return [
            (r[0], int(r[1]), float(r[2]), float(r[3]), int(r[4]), r[5], {"true": True, "false": False}[r[6]])
            for r in rows
        ]
    rows = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    return [tuple((row | {"value": SPELLED.get(row["value"], row["value"])}).values()) for row in rows]


@pytest.mark.parametrize("form", FORMATS)
@settings(deadline=None)
@given(history=histories(), size=st.integers(1, 5))
def test_a_long_file_has_every_point(form: str, history: History, size: int) -> None:
    stream = io.BytesIO()
    rows = open_rows(form, stream, superseded=True)
    for part in parts_of(history, size):
        rows.write(part)
    rows.close()
    # repr: NaN equals NaN, and -0.0 is not 0.0.
    assert list(map(repr, read(form, stream.getvalue()))) == list(map(repr, points_of(history)))


@pytest.mark.parametrize("form", FORMATS)
@settings(deadline=None)
@given(history=histories(), size=st.integers(1, 5))
def test_a_wide_file_has_every_point(form: str, history: History, size: int) -> None:
    stream = io.BytesIO()
    assert write_wide(form, stream, parts_of(history, size)) == len(history)
    found = read_wide(form, stream.getvalue())
    several = len({one.writer for one in history.series}) > 1
    expected: dict[int, dict[str, float]] = {}
    for point in history.rows():
        column = f"{point.key}@{point.writer}" if several or point.key == "step" else point.key
        expected.setdefault(point.step, {})[column] = point.value
    assert repr(found) == repr([(step, dict(sorted(expected[step].items()))) for step in sorted(expected)])


def read_wide(form: str, content: bytes) -> list[tuple[int, dict[str, float]]]:
    rows: list[dict[str, Any]]
    if form == "parquet":
        rows = pq.read_table(io.BytesIO(content)).to_pylist()
    elif form == "csv":
        rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    else:
        rows = [json.loads(line) for line in content.decode().splitlines()]
    return [
        (
            int(row.pop("step")),
            {key: float(SPELLED.get(value, value)) for key, value in sorted(row.items()) if value not in (None, "")},
        )
        for row in rows
    ]


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"

    def fail_in_the_middle() -> None:
        with new_file(path, replace=False) as stream:
            stream.write(b"half")
            raise ConnectionError

    with pytest.raises(ConnectionError):
        fail_in_the_middle()
    assert list(tmp_path.iterdir()) == []
    with new_file(path, replace=False) as stream:
        stream.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    with pytest.raises(TargetExists), new_file(path, replace=False):
        pytest.fail("it is there")
    with new_file(path, replace=True) as stream:
        stream.write(b"other")
    assert path.read_bytes() == b"other"


def test_a_file_that_comes_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"

    def write_at_once_with_another() -> None:
        with new_file(path, replace=False) as stream:
            path.write_text("another export's")
            stream.write(b"ours")

    with pytest.raises(TargetExists):
        write_at_once_with_another()
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a.csv", "another export's")]
