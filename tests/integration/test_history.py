"""Reads of histories from a real coordinator: filters, downsampling, pages, cursors, columns."""

from __future__ import annotations

import base64
import itertools
import json
import math
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import redis
import runlease
from runlease.channel import open_channel
from runlease.exceptions import InvalidArgument
from runlease.history import History, Point
from runlease.v1 import metrics_pb2 as pb
from runlease.v1 import metrics_pb2_grpc, runs_pb2
from runlease_coordinator.store.keys import run_keys

from tests.support.coordinator import CoordinatorProcess
from tests.support.wait import until

KEYS = ("eval/acc", "loss", "train/acc", "train/loss")
RESUMED_AT, STEPS = 300, 500


class Logged(NamedTuple):
    """A coordinator, and a run on it whose steps 300..499 were logged twice, by two attempts."""

    coordinator: CoordinatorProcess
    client: runlease.Client
    project: str

    def history(self, **options: Any) -> History:
        return self.client.history(self.project, "r", **options)

    def pages(self, **options: Any) -> list[History]:
        return list(self.client.history_pages(self.project, "r", **options))


def value_of(key: str, step: int, attempt: int) -> float:
    return KEYS.index(key) * 1e6 + attempt * 1e4 + step


def init(coordinator: CoordinatorProcess, project: str, id: str = "r", **more: Any) -> runlease.Run:
    more.setdefault("resume", "allow")
    return runlease.init(project=project, id=id, coordinator=coordinator.address, **more)


def log(run: runlease.Run, steps: Sequence[int]) -> None:
    for step in steps:
        run.log({key: value_of(key, step, run.attempt) for key in KEYS}, step=step)


@pytest.fixture(scope="module", params=["hot", "archived"])
def logged(request: pytest.FixtureRequest) -> Iterator[Logged]:
    """Log the run on a coordinator that keeps all of it in the store, and on one that archives all of it at once."""
    flags = ("--archive-bytes", "1", "--archive-after", "0") if request.param == "archived" else ()
    process = CoordinatorProcess("--lock-delay", "1", *flags).start()
    try:
        with init(process, "p") as run:
            log(run, range(STEPS))
        with init(process, "p", resume="must", resume_step=RESUMED_AT) as run:
            log(run, range(RESUMED_AT, STEPS))
        if flags:
            url = json.loads((process.data_dir / "store.json").read_text())["socket"]
            with redis.Redis.from_url(f"unix://{url}") as store:
                until(lambda: store.xlen(run_keys("p", "r").log) == 0)
        with runlease.Client(process.address) as client:
            yield Logged(process, client, "p")
    finally:
        process.close()


def points(found: History) -> list[Point]:
    return list(found.rows())


def test_the_whole_history(logged: Logged) -> None:
    found = logged.history()
    expected = [
        (key, step, value_of(key, step, attempt), attempt, "main")
        for key in KEYS
        for step in range(STEPS)
        for attempt in (1 + (step >= RESUMED_AT),)
    ]
    assert [(p.key, p.step, p.value, p.attempt, p.writer) for p in found.rows()] == expected
    assert all(p.time == round(p.time * 1e6) / 1e6 for p in found.rows())
    assert len(logged.history(superseded=True)) == len(KEYS) * (STEPS + STEPS - RESUMED_AT)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"keys": ["loss"]}, ["loss"]),
        ({"keys": ["train/*"]}, []),
        ({"key_patterns": ["train/*"]}, ["train/acc", "train/loss"]),
        ({"key_patterns": ["*/acc"], "keys": ["loss"]}, ["eval/acc", "loss", "train/acc"]),
        ({"key_patterns": ["?oss", "e*"]}, ["eval/acc", "loss"]),
        ({"key_patterns": ["[lt]*"]}, []),
        ({"key_patterns": ["*" * 200 + "s"]}, ["loss", "train/loss"]),
        ({"writers": ["rank1"]}, []),
        ({"writers": ["rank1", "main"], "keys": ["loss"]}, ["loss"]),
    ],
)
def test_keys_and_writers(logged: Logged, options: dict[str, Any], keys: list[str]) -> None:
    found = logged.history(**options)
    assert found.keys == keys
    assert len(found) == len(keys) * STEPS


def test_a_range_of_steps(logged: Logged) -> None:
    found = logged.history(keys=["loss"], min_step=290, max_step=310)
    whole = [point for point in logged.history(keys=["loss"]).rows() if 290 <= point.step <= 310]
    assert points(found) == whole
    assert points(logged.history(min_step=STEPS)) == []


@pytest.mark.parametrize("superseded", [False, True])
@pytest.mark.parametrize("max_points", [None, 40])
@pytest.mark.parametrize("page_points", [1, 77, 500, 100_000])
def test_pages_make_up_the_whole(logged: Logged, page_points: int, max_points: int | None, superseded: bool) -> None:
    options: dict[str, Any] = {"max_points": max_points, "superseded": superseded}
    if page_points == 1:  # each page is a read of its own
        options |= {"keys": ["loss"], "min_step": 295, "max_step": 305}
    whole, pages = logged.history(**options), logged.pages(page_points=page_points, **options)
    assert [len(page) for page in pages[:-1]] == [page_points] * (len(pages) - 1)
    assert 0 < len(pages[-1]) <= page_points
    assert [point for page in pages for point in page.rows()] == points(whole)
    flags = [flag for page in pages for series in page.series for flag in series.superseded]
    assert flags == [flag for series in whole.series for flag in series.superseded]
    assert [page.cursor for page in pages] == [""] * (len(pages) - 1) + [whole.cursor]


def test_pages_are_of_one_moment(coordinator: CoordinatorProcess, client: runlease.Client, project: str) -> None:
    with init(coordinator, project) as run:
        run.log({"a": 1.0, "b": 1.0}, step=0)
        run.log({"a": 2.0, "b": 2.0}, step=1)
    whole = points(client.history(project, "r"))
    pages = client.history_pages(project, "r", page_points=1)
    found = points(next(pages))
    # When another attempt supersedes all of it meanwhile, then the pages show what the first one showed.
    with init(coordinator, project, resume="must", resume_step=0) as run:
        run.log({"a": 3.0, "b": 3.0, "c": 3.0}, step=0)
    found += [point for page in pages for point in page.rows()]
    assert found == whole
    assert [point.value for point in client.history(project, "r").rows()] == [3.0] * 3


@pytest.fixture
def client(coordinator: CoordinatorProcess) -> Iterator[runlease.Client]:
    with runlease.Client(coordinator.address) as client:
        yield client


def first_token(logged: Logged, **options: Any) -> str:
    page = next(logged.client.history_pages(logged.project, "r", page_points=3, **options))
    assert page.next_page_token
    return page.next_page_token


def read_page(logged: Logged, token: str, id: str = "r", **options: Any) -> list[pb.HistoryResponse]:
    with open_channel(logged.coordinator.address) as channel:
        run = runs_pb2.RunRef(project=logged.project, id=id)
        request = pb.HistoryRequest(run=run, page_points=3, page_token=token, **options)
        return list(metrics_pb2_grpc.MetricServiceStub(channel).History(request, timeout=20))


def refusal(logged: Logged, token: str, id: str = "r", **options: Any) -> str:
    import grpc

    with pytest.raises(grpc.RpcError) as caught:
        read_page(logged, token, id, **options)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(caught.value.details())


def test_tokens_of_another_query_or_run_are_refused(logged: Logged) -> None:
    token = first_token(logged)
    assert [list(part.steps) for part in read_page(logged, token) if part.steps] == [[3, 4, 5]]
    assert "another query" in refusal(logged, token, keys=["loss"])
    with init(logged.coordinator, logged.project, "other") as run:
        run.log({"loss": 1.0})
    assert "another query" in refusal(logged, token, id="other")


def test_a_token_ends_with_its_run(coordinator: CoordinatorProcess, client: runlease.Client, project: str) -> None:
    logged = Logged(coordinator, client, project)
    with init(coordinator, project) as run:
        log(run, range(9))
    token = first_token(logged)
    client.delete_run(project, "r", run.fence)
    assert read_page(logged, token)  # it still serves
    client.delete_run(project, "r", run.fence, purge=True)
    with init(coordinator, project) as run:
        log(run, range(9))
    assert "deleted" in refusal(logged, token)


def test_damaged_tokens_are_refused(logged: Logged) -> None:
    token = first_token(logged)
    content = zlib.decompress(base64.urlsafe_b64decode(token))
    damaged = [token[:-4], token + "AAAA", token[: len(token) // 2], token.swapcase()]
    damaged += [
        base64.urlsafe_b64encode(zlib.compress(part)).decode()
        for part in (content[:-1], content + b"]", b"[]", b"null", b"[" * 100_000, b" " * (8 << 20) + content)
    ]
    for one in damaged:
        assert "next_page_token" in refusal(logged, one)


def test_downsampling_keeps_the_spikes(coordinator: CoordinatorProcess, client: runlease.Client, project: str) -> None:
    values = [math.sin(step / 50) for step in range(5000)]
    values[1234], values[2345], values[3456], values[4000] = 1e9, -1e9, math.nan, math.inf
    with init(coordinator, project) as run:
        for step, value in enumerate(values):
            run.log({"loss": value}, step=step)
    (series,) = client.history(project, "r", max_points=200).series
    assert len(series.steps) <= 200
    assert [values[step] for step in series.steps] == list(series.values)
    assert {0, 1234, 2345, 4000, 4999} <= set(series.steps)
    assert not any(map(math.isnan, series.values))
    assert 0 < sum(series.nan_in_bucket) <= 2
    raw = client.history(project, "r", max_points=5000).series[0]
    assert len(raw.steps) == 5000
    assert list(raw.nan_in_bucket) == []


def test_a_cursor_reads_what_came_in_since(
    coordinator: CoordinatorProcess, client: runlease.Client, project: str
) -> None:
    def since(cursor: str, **options: Any) -> tuple[list[tuple[str, int, float]], str]:
        found = client.history(project, "r", after=cursor, **options)
        return [(point.key, point.step, point.value) for point in found.rows()], found.cursor

    with init(coordinator, project) as run:
        start = client.history(project, "r").cursor
        run.log({"a": 1.0, "b": 1.0}, step=5)
        assert run.flush(20)
        first, cursor = since(start)
        assert first == [("a", 5, 1.0), ("b", 5, 1.0)]
        run.log({"a": 2.0}, step=9)
        run.log({"a": 3.0}, step=2)
        assert run.flush(20)
        second, later = since(cursor)
        assert second == [("a", 9, 2.0), ("a", 2, 3.0)]  # in the order in which they came in
        assert since(later) == ([], later)
        assert since(cursor, keys=["b"]) == ([], later)
        run.log({"a": 4.0}, step=2)  # logged again: the latest of a step wins
        assert run.flush(20)
        assert since(cursor)[0] == [("a", 9, 2.0), ("a", 2, 4.0)]
    with init(coordinator, project, resume="must", resume_step=9) as run:
        run.log({"a": 5.0}, step=10)
    assert since(cursor)[0] == [("a", 2, 4.0), ("a", 10, 5.0)]  # what is superseded by now is left out
    in_pages = client.history_pages(project, "r", after=start, page_points=1)
    assert [(p.key, p.step) for page in in_pages for p in page.rows()] == [("a", 5), ("a", 2), ("a", 10), ("b", 5)]


def test_a_cursor_leaves_parents_out(coordinator: CoordinatorProcess, client: runlease.Client, project: str) -> None:
    with init(coordinator, project) as run:
        for step in range(10):
            run.log({"a": step}, step=step)
    with init(coordinator, project, "fork", resume=None, fork_from="r?_step=5") as run:
        cursor = client.history(project, "fork").cursor
        run.log({"a": 60.0}, step=6)
    assert [row.step for row in client.history(project, "fork", after=cursor).rows()] == [6]
    assert [row.step for row in client.history(project, "fork", after="0-0").rows()] == [6]
    assert [row.step for row in client.history(project, "fork").rows()] == list(range(7))


def test_packed_and_plain_columns_are_the_same(logged: Logged) -> None:
    with open_channel(logged.coordinator.address) as channel:
        stub = metrics_pb2_grpc.MetricServiceStub(channel)
        run = runs_pb2.RunRef(project=logged.project, id="r")
        plain = [*stub.History(pb.HistoryRequest(run=run, superseded=True), timeout=20)]
    columns = {part.key: (part.steps, part.values, part.times, part.attempts) for part in plain if part.key}
    found = logged.history(superseded=True)
    assert found.keys == list(columns)
    for series in found.series:
        expected = columns[series.key]
        read = (series.steps, series.values, series.times, series.attempts)
        assert [list(column) for column in read] == [list(column) for column in expected]
    assert plain[-1].cursor == found.cursor


def test_arrow_and_pandas(logged: Logged) -> None:
    found = logged.history(superseded=True)
    table = found.to_arrow()
    assert table.column_names == ["key", "step", "value", "time", "attempt", "writer", "superseded"]
    columns = [table[name].to_pylist() for name in Point._fields]
    assert list(zip(*columns, strict=True)) == [tuple(point) for point in found.rows()]
    assert sum(table["superseded"].to_pylist()) == len(KEYS) * (STEPS - RESUMED_AT)
    frame, default = found.to_pandas(), logged.history().to_pandas()
    assert frame.equals(default)
    assert list(frame.columns) == list(KEYS)
    assert frame.index.name == "step"
    assert frame["loss"].tolist() == [point.value for point in logged.history(keys=["loss"]).rows()]
    nothing = logged.history(keys=["nowhere"])
    assert nothing.to_pandas().empty
    assert nothing.to_arrow().num_rows == 0


@pytest.mark.parametrize("count", [-1, 2**32])
def test_counts_out_of_range(logged: Logged, count: int) -> None:
    with pytest.raises(InvalidArgument, match="max_points"):
        logged.history(max_points=count)


ROWS, BATCHES = 10_000, 15


def fill(coordinator: CoordinatorProcess, project: str) -> int:
    """Log 1.5 million points, 15 values a (key, step), under a lease of a minute; returns its fence."""
    points = pb.Points(steps=range(ROWS), times=[1e9] * ROWS)
    for number in range(10):
        points.series.add(key=f"k{number}", values=np.random.default_rng(number).random(ROWS))
    with runlease.Client(coordinator.address) as client, open_channel(coordinator.address) as channel:
        client.set_limits(project, run_points=0, run_bytes=0, project_points=0, project_bytes=0)
        grant = client.acquire(project, "r", nonce="n", resume="allow", ttl_s=60)
        run = runs_pb2.RunRef(project=project, id="r")
        opening = pb.OpenWriter(run=run, fence=grant.fence, writer="main", session="s")
        entries = (pb.AppendRequest(entry=pb.Entry(seq=seq, points=points)) for seq in range(1, BATCHES + 1))
        requests = itertools.chain([pb.AppendRequest(open=opening)], entries)
        answers = list(metrics_pb2_grpc.MetricServiceStub(channel).Append(requests, timeout=60))
        assert answers[-1].ack.seq == BATCHES
        return grant.fence


def test_pages_go_on_at_the_next_coordinator(start_coordinator: Callable[..., CoordinatorProcess]) -> None:
    # Given more pages than a connection holds, when the coordinator is killed between two, then the next one serves.
    process = start_coordinator()
    fill(process, "p")
    with runlease.Client(process.address, timeout_s=60) as client:
        pages = client.history_pages("p", "r", page_points=200_000, superseded=True)
        first = next(pages)
        process.kill()
        process.start()
        rest = list(pages)
        whole = client.history("p", "r", superseded=True)
    assert [len(page) for page in (first, *rest)] == [200_000] * 7 + [100_000]
    for column in ("steps", "values", "attempts", "superseded"):
        found = [number for page in (first, *rest) for one in page.series for number in getattr(one, column)]
        assert found == [number for one in whole.series for number in getattr(one, column)]


def test_a_large_read_does_not_hold_back_renewals(coordinator: CoordinatorProcess, project: str) -> None:
    # Given a run of 1.5 million points, when it is read again and again, then renewals go on in between.
    fence = fill(coordinator, project)
    with runlease.Client(coordinator.address) as client:
        done = threading.Event()
        renewals: list[tuple[float, float]] = []

        def renew() -> None:
            while not done.is_set():
                began = time.monotonic()
                client.renew(project, "r", fence)
                renewals.append((began, time.monotonic()))

        thread = threading.Thread(target=renew)
        thread.start()
        try:
            began = time.monotonic()
            for _ in range(3):
                read = client.history(project, "r")
            ended = time.monotonic()
        finally:
            done.set()
            thread.join()
    assert len(read) == 10 * ROWS
    within = [after - before for before, after in renewals if began < before and after < ended]
    assert len(within) >= 3
    assert max(within) < (ended - began) / 2
