"""What a trainer may get wrong, through the SDK: refused by name, and everything beside and behind it arrives."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator

import pytest
import runlease
from runlease.channel import open_channel
from runlease.exceptions import InvalidArgument
from runlease.writer import LogWriter

from tests.support.coordinator import CoordinatorProcess

LONG = 60.0
MIB = 1 << 20
Points = dict[tuple[str, int], float]


@pytest.fixture
def run(coordinator: CoordinatorProcess, project: str) -> Iterator[runlease.Run]:
    with runlease.init(project=project, id="r", resume="allow", coordinator=coordinator.address) as run:
        yield run


@pytest.fixture
def stored(coordinator: CoordinatorProcess, project: str) -> Callable[[], Points]:
    def read() -> Points:
        with runlease.Client(coordinator.address, timeout_s=LONG) as client:
            rows = list(client.history(project, "r", superseded=True).rows())
        assert len({(row.key, row.step) for row in rows}) == len(rows)  # each point once
        return {(row.key, row.step): row.value for row in rows}

    return read


def test_a_hundred_thousand_keys_arrive(run: runlease.Run, coordinator: CoordinatorProcess) -> None:
    # Beyond what one entry may hold, several times over: the SDK splits the row.
    row = {f"layer/{number}/{'x' * 40}": float(number) for number in range(100_000)}
    run.log(row)
    run.log({"loss": 1.0})
    assert run.flush(LONG)
    assert run.stats().acknowledged == 100_001
    some = dict(list(row.items())[::997])
    with runlease.Client(coordinator.address, timeout_s=LONG) as client:
        assert client.get_run(run.project, "r").points == 100_001
        found = client.history(run.project, "r", keys=[*some, "loss"])
    assert {one.key: (list(one.steps), list(one.values)) for one in found.series} == {
        key: ([0], [value]) for key, value in some.items()
    } | {"loss": ([1], [1.0])}


def test_the_longest_keys_in_the_widest_characters_arrive(run: runlease.Run, stored: Callable[[], Points]) -> None:
    row = {f"{number:05}{'😀' * 251}": float(number) for number in range(5000)}  # 5 MB of names
    run.log(row)
    assert run.flush(LONG)
    assert stored() == {(key, 0): value for key, value in row.items()}


def test_what_is_wrong_in_a_row_is_left_out_and_named(
    run: runlease.Run, stored: Callable[[], Points], caplog: pytest.LogCaptureFixture
) -> None:
    bad: dict[object, object] = {"x" * 300: 1.0, "": 1.0, "text": "1.0", 7: 1.0, "\ud800": 1.0, "huge": 10**400}
    with caplog.at_level(logging.WARNING, "runlease"):
        run.log({"loss": 1.0} | bad)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == run.bad_values == len(bad)
    for words in ("has 300 characters", "is empty", "str is no number", "type int", "Unicode", "beyond the range"):
        assert any(words in line for line in said), words
    run.log({"loss": math.nan, "inf": math.inf, "low": -math.inf})
    assert run.flush(LONG)
    found = stored()
    assert math.isnan(found.pop(("loss", 1)))
    assert found == {("loss", 0): 1.0, ("inf", 1): math.inf, ("low", 1): -math.inf}
    assert run.stats().rejected == 0


@pytest.mark.parametrize("step", [-1, 2**53 - 1, 2**63, 10**30, 1.5, True, "1"])
def test_steps_out_of_range_raise_where_they_are_given(run: runlease.Run, step: object) -> None:
    calls = [lambda: run.log({"a": 1.0}, step=step), lambda: run.rewind(step)]
    calls.append(lambda: run.commit_checkpoint(step, uri="/c"))
    for call in calls:
        with pytest.raises(InvalidArgument) as caught:
            call()
        assert caught.value.field == "step"
    assert run.step == 0


def test_the_highest_step_is_fine(run: runlease.Run, stored: Callable[[], Points]) -> None:
    run.log({"a": 1.0}, step=2**53 - 2)
    run.log({"a": 2.0}, step=0)
    assert run.flush(LONG)
    assert stored() == {("a", 2**53 - 2): 1.0, ("a", 0): 2.0}


@pytest.mark.parametrize("size", [2 * MIB, 9 * MIB, 17 * MIB], ids=lambda size: f"{size // MIB} MiB")
def test_a_checkpoint_that_is_too_large_is_refused_and_holds_up_nothing(
    run: runlease.Run, stored: Callable[[], Points], size: int
) -> None:
    # 17 MiB are more than a message may have: sent, it would end each stream that carries it.
    run.log({"a": 0.0})
    with pytest.raises(InvalidArgument, match="metadata"):
        run.commit_checkpoint(0, uri="/c", metadata={"note": "x" * size}, wait=True)
    run.log({"a": 1.0})
    run.commit_checkpoint(1, uri="/c", wait=True)
    assert stored() == {("a", 0): 0.0, ("a", 1): 1.0}


def test_a_record_that_is_too_large_is_refused_as_such(run: runlease.Run, coordinator: CoordinatorProcess) -> None:
    with pytest.raises(InvalidArgument, match="larger than max"):
        run.update(config={"note": "x" * 17 * MIB})
    run.update(summary={"best": 1})
    with runlease.Client(coordinator.address) as client:
        record = client.get_run(run.project, "r")
    assert (record.config, record.summary) == ({}, {"best": 1})


def test_a_clock_beyond_all_bounds_costs_its_batches_alone(
    coordinator: CoordinatorProcess, project: str, caplog: pytest.LogCaptureFixture, stored: Callable[[], Points]
) -> None:
    channel = open_channel(coordinator.address)
    with runlease.Client(coordinator.address) as client:
        fence = client.acquire(project, "r", nonce="n", resume="allow").fence
    writer = LogWriter(channel, project, "r", fence)
    with caplog.at_level(logging.WARNING, "runlease"):
        for step, time_s in enumerate((1e9, math.nan, 2e9, math.inf, -1.0, 3e9, 1e300)):
            writer.log(step, time_s, ("a",), (float(step),))
            assert writer.flush(LONG) is (time_s in (1e9, 2e9, 3e9))
    assert writer.close(LONG)
    channel.close()
    assert (writer.stats().acknowledged, writer.stats().rejected) == (3, 4)
    assert [line for line in map(logging.LogRecord.getMessage, caplog.records) if "entry.points.times[0]" in line]
    assert stored() == {("a", step): float(step) for step in (0, 2, 5)}


def test_rows_of_ever_new_keys_arrive(run: runlease.Run, stored: Callable[[], Points]) -> None:
    rows = [{f"k{next(names)}": 1.0 for _ in range(3)} for names in [itertools.count()] for _ in range(2000)]
    for row in rows:
        run.log(row)
    assert run.flush(LONG)
    assert len(stored()) == 6000
