"""Parts of sinks without a target: rows, keys, states, and what a page is judged by."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runlease.history import History, Series
from runlease.records import Segment
from runlease.sinks.feed import pages
from runlease.sinks.mlflow import mlflow_key
from runlease.sinks.state import BrokenState, InUse, State, StateFile
from runlease.sinks.target import Row, rows_of


def series(key: str, *points: tuple[int, float, float]) -> Series:
    steps, times, values = zip(*points, strict=True)
    return Series(key, "main", list(steps), list(values), list(times), [1] * len(points))


def test_keys_logged_together_are_one_row() -> None:
    loss = series("loss", (0, 10.0, 0.5), (2, 12.0, 0.25), (1, 13.0, 0.75))
    acc = series("acc", (0, 10.0, 1.0), (1, 11.0, math.inf))
    assert list(rows_of([loss, acc])) == [
        Row(0, 10.0, 1, {"loss": 0.5, "acc": 1.0}),
        Row(1, 11.0, 1, {"acc": math.inf}),
        Row(1, 13.0, 1, {"loss": 0.75}),
        Row(2, 12.0, 1, {"loss": 0.25}),
    ]


def test_of_a_step_logged_twice_the_later_point_counts() -> None:
    # In the order of the log; the last one comes late, from a spool of an earlier attempt.
    loss = Series("loss", "main", [3, 4, 3, 4], [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 0.0], [2, 2, 2, 1])
    assert [(row.step, row.values["loss"]) for row in rows_of([loss])] == [(3, 0.3), (4, 0.2)]


@settings(deadline=None)
@given(st.text(min_size=1, max_size=256) | st.text("./a-", min_size=1, max_size=8))
def test_every_key_becomes_one_that_mlflow_takes(key: str) -> None:
    # MLflow's rule: these characters, 250 of them, and a path that is its own normal form below its folder.
    found = mlflow_key(key)
    assert re.fullmatch(r"[\w\-. :/]{1,250}", found)
    assert posixpath.normpath(found) == found
    assert not found.startswith("/")
    assert found.split("/")[0] != ".."


@pytest.mark.parametrize("key", ["loss", "eval/acc top-5", "a.b:c_d", "größe"])
def test_a_key_that_mlflow_takes_stays(key: str) -> None:
    assert mlflow_key(key) == key


def test_a_state_is_read_back(tmp_path: Path) -> None:
    file = StateFile(tmp_path, "mlflow", "sqlite:///x", "p", "r@rank1")
    state = State(cursor="1-2", page="t", created_s=0.1, segments=["1.0@0"], ended="1 killed", memo={"run_id": "a"})
    with file.locked():
        assert file.load() == State()
        file.save(state)
        assert file.load() == state
        with pytest.raises(InUse), StateFile(tmp_path, "mlflow", "sqlite:///x", "p", "r@rank1").locked():
            pass
    assert sorted(path.name for path in file.path.parent.iterdir()) == ["r@rank1.json", "r@rank1.lock"]
    # Another place has a state of its own.
    assert StateFile(tmp_path, "mlflow", "sqlite:///y", "p", "r@rank1").load() == State()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"cursor": "1-2", "of a later version": 1}'])
def test_a_broken_state_is_named(tmp_path: Path, content: str) -> None:
    file = StateFile(tmp_path, "mlflow", "x", "p", "r")
    file.path.parent.mkdir(parents=True)
    file.path.write_text(content)
    with pytest.raises(BrokenState, match="delete it"):
        file.load()


class Scripted:
    """A client whose run gets a segment between two reads."""

    def __init__(self, *starts: list[tuple[int, int]]) -> None:
        self.records = iter([self._record(one) for one in starts])
        self.reads = 0

    def _record(self, starts: list[tuple[int, int]]) -> Any:
        attempts = [
            SimpleNamespace(attempt=attempt, granted_s=float(attempt), segments=[Segment(0, "", start, True)])
            for attempt, start in starts
        ]
        return SimpleNamespace(created_s=1.0, attempts=attempts)

    def get_run(self, project: str, id: str) -> Any:
        return next(self.records)

    def history_pages(self, project: str, id: str, **options: Any) -> Iterator[History]:
        self.reads += 1
        yield History([series("loss", (self.reads, 0.0, 0.0))], cursor=f"{self.reads}-0")


def test_a_page_is_read_again_when_a_segment_came_to_count_meanwhile() -> None:
    # Given attempt 2, whose first write comes while the page is read...
    before, after = [(1, 0)], [(1, 0), (2, 5)]
    client = Scripted(before, after, after)
    (page,) = pages(client, "p", "r", "main", State(cursor="0-1", segments=["1.0@0"]))
    # ...then the page that is sent was read with it, and its start is announced before.
    assert client.reads == 2
    assert page.history.series[0].steps == [2]
    assert [(one.step, one.time_s) for one in page.starts] == [(5, 2.0)]


def test_within_a_read_of_many_pages_nothing_is_announced() -> None:
    after = [(1, 0), (2, 5)]
    client = Scripted(after, after, after)
    state = State(cursor="0-1", page="token", segments=["1.0@0"])
    found = pages(client, "p", "r", "main", state)
    assert next(found).starts == ()
    # What came to count since is announced with the next read, which follows at once.
    state.page = ""
    (page,) = found
    assert [one.step for one in page.starts] == [5]
