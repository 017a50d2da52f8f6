"""The archive of real coordinators: bounded memory, the same histories, and what happens while it is away."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import redis
import runlease
from runlease.exceptions import CoordinatorUnavailable
from runlease.history import Point
from runlease_coordinator.store.keys import run_keys

from tests.support.cli import SECRET, Cli, without_module
from tests.support.coordinator import CoordinatorProcess
from tests.support.redis import RedisServer, free_port
from tests.support.wait import until

README = Path(__file__).parents[2] / "README.md"
HOT_BYTES = 100_000
#: Archived as soon as it has ended, and looked for every two seconds.
SOON = ("--archive-bytes", str(HOT_BYTES), "--archive-after", "0.1", "--lock-delay", "1")
Start = Callable[..., CoordinatorProcess]


@contextlib.contextmanager
def raw_store(coordinator: CoordinatorProcess) -> Iterator[redis.Redis]:
    socket = json.loads((coordinator.data_dir / "store.json").read_text())["socket"]
    client = redis.Redis(unix_socket_path=socket, decode_responses=True)
    try:
        yield client
    finally:
        client.close()


def init(coordinator: CoordinatorProcess, project: str, id: str = "r", **more: Any) -> runlease.Run:
    more.setdefault("resume", "allow")
    return runlease.init(project=project, id=id, coordinator=coordinator.address, **more)


def log(run: runlease.Run, first: int, last: int) -> None:
    """Log two keys; the values are of the attempt."""
    for step in range(first, last):
        run.log({"loss": run.attempt + step / 1e6, "acc": float(step)}, step=step)
    assert run.flush(60)


def read(coordinator: CoordinatorProcess, project: str, id: str = "r", **query: Any) -> list[Point]:
    with runlease.Client(coordinator.address) as client:
        return list(client.history(project, id, **query).rows())


def is_archived(client: redis.Redis, project: str, id: str = "r") -> bool:
    keys = run_keys(project, id)
    return not client.xlen(keys.log) and bool(client.hget(keys.parts, "to"))


def parts_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("part-*.parquet"))


def test_a_run_that_logs_on_keeps_the_store_bounded(start_coordinator: Start, project: str) -> None:
    served = start_coordinator(*SOON)
    keys = run_keys(project, "r")
    with raw_store(served) as client, init(served, project) as run:
        highest = 0
        for first in range(0, 100_000, 10_000):
            log(run, first, first + 10_000)
            until(lambda: (client.zscore(keys.partition.hot, keys.path) or 0) < HOT_BYTES)
            highest = max(highest, client.memory_usage(keys.log) or 0)
            # It goes on as ever: checkpoints, reads of all of it, hot or not.
            run.commit_checkpoint(first + 9_999, uri="file:///c", wait=True)
        assert len(parts_below(served.data_dir)) >= 5
        assert highest < 4 * HOT_BYTES
        assert [point.step for point in read(served, project, keys=["acc"])] == list(range(100_000))
    with raw_store(served) as client:
        until(lambda: is_archived(client, project))
        assert client.zscore(keys.partition.hot, keys.path) is None
    assert [point.step for point in read(served, project, keys=["acc"])] == list(range(100_000))
    # A resume finds its place, and a restart of everything the archive.
    with init(served, project, resume="must") as run:
        assert (run.step, run.checkpoint and run.checkpoint.step) == (100_000, 99_999)
    served.kill()
    served.kill_store()
    served.start()
    found = read(served, project, max_points=10)
    assert {point.step for point in found} >= {0, 99_999}


def test_coordinators_share_a_store_and_its_archive(
    start_coordinator: Start, redis_binary: str, project: str, tmp_path: Path
) -> None:
    store = RedisServer(binary=redis_binary)
    try:
        Cli(dict(os.environ))("bootstrap", store.url)
        flags = ("--store", store.url, "--history-url", str(tmp_path / "shared"), *SOON)
        served = [start_coordinator(*flags) for _ in range(2)]
        expected = {}
        for number in range(4):
            with init(served[number % 2], project, f"r{number}") as run:
                log(run, 0, 10_000 + number)
            expected[f"r{number}"] = read(served[0], project, f"r{number}")
        client = redis.Redis(unix_socket_path=str(store.socket), decode_responses=True)
        with contextlib.closing(client):
            until(lambda: all(is_archived(client, project, id) for id in expected))
        for id, points in expected.items():
            assert len(points) == 20_000 + 2 * int(id[1:])
            assert all(read(one, project, id) == points for one in served)
        # One that knows no archive says so, at its start and to those who ask for what is there.
        third = start_coordinator("--store", store.url)
        assert "give --history-url" in third.log.read_text()
        with pytest.raises(CoordinatorUnavailable, match="--history-url"):
            read(third, project, "r0")
        assert "give --history-url" not in served[0].log.read_text()
    finally:
        for one in served:
            one.close()
        store.close()


def test_an_archive_that_is_away_stops_nothing(start_coordinator: Start, project: str, tmp_path: Path) -> None:
    folder, aside = tmp_path / "archive", tmp_path / "aside"
    served = start_coordinator("--history-url", folder.as_uri(), *SOON)
    with init(served, project) as run, raw_store(served) as client:
        log(run, 0, 10_000)
        until(lambda: bool(parts_below(folder)))
        before = read(served, project)
        folder.rename(aside)
        folder.touch()  # what lies there is no directory any more
        log(run, 10_000, 30_000)
        until(lambda: "cannot archive" in served.log.read_text())
        with pytest.raises(CoordinatorUnavailable, match=str(folder)) as refusal:
            read(served, project)
        assert refusal.value.reason == "ARCHIVE_UNAVAILABLE"
        run.commit_checkpoint(29_999, uri="file:///c", wait=True)
        assert run.lease.state == "held"
        keys = run_keys(project, "r")
        assert (client.zscore(keys.partition.hot, keys.path) or 0) > HOT_BYTES
        folder.unlink()
        aside.rename(folder)
        until(lambda: "answers again" in served.log.read_text())
        until(lambda: (client.zscore(keys.partition.hot, keys.path) or 0) < HOT_BYTES)
    found = read(served, project)
    assert [point for point in found if point.step < 10_000] == before
    assert len(found) == 60_000
    assert served.log.read_text().count("cannot archive") == 1


def test_the_query_of_the_readme(start_coordinator: Start) -> None:
    served = start_coordinator("--archive-after", "0.1", "--lock-delay", "0")
    name = ("preemptable", "nbs1e6hk")
    with init(served, *name) as run:
        log(run, 0, 400)
        run.rewind(step=300)
        log(run, 300, 350)
        run.log({"acc": float("nan")}, step=340)
    with init(served, *name, resume_step=200) as run:
        log(run, 200, 250)
        run.log({"loss": -1.0}, step=249)  # the same step again
    with raw_store(served) as client:
        until(lambda: is_archived(client, *name))
    expected = [(p.writer, p.key, p.step, repr(p.value), p.attempt) for p in read(served, *name)]
    assert len(expected) == 500
    query = re.search(r"^```sql\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    assert query is not None
    text = query[1].replace("'history/", f"'{served.data_dir}/history/")

    def shown() -> list[tuple[Any, ...]]:
        with duckdb.connect() as database:
            relation = database.sql(text).project("writer, key, step, value, attempt")
            return [(w, k, s, repr(v), a) for w, k, s, v, a in relation.fetchall()]

    assert shown() == expected
    # Given copies that a dead compactor left behind, nothing changes.
    for part in parts_below(served.data_dir):
        part.with_name(part.name.replace("part-", "part-0")).write_bytes(part.read_bytes())
    assert shown() == expected


def test_points_expire(start_coordinator: Start, project: str) -> None:
    served = start_coordinator(*SOON, "--retention", "0.00001")  # not a second
    with init(served, project) as run:
        log(run, 0, 1_000)
        run.commit_checkpoint(999, uri="file:///c", wait=True)
    with raw_store(served) as client:
        until(lambda: is_archived(client, project))
    assert len(read(served, project)) == 2_000
    # It is looked for once an hour, and at each start.
    served.stop()
    served.start()
    until(lambda: not read(served, project))
    with runlease.Client(served.address) as client:
        record = client.get_run(project, "r")
        assert (record.points, record.next_step, record.state) == (2_000, 1_000, "finished")
        assert record.checkpoint is not None
        with client.watch(project, "r", after="*=0-0") as events:
            assert any(event.kind == "points_expired" for event in events)
    with init(served, project, resume="must") as run:
        assert run.step == 1_000


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An S3-compatible server on loopback, with a bucket."""
    port = free_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (tmp_path / "moto.log").open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    make_bucket = (
        "import boto3; from botocore.config import Config; "
        "boto3.client('s3', config=Config(retries={'max_attempts': 0})).create_bucket(Bucket='bucket')"
    )

    def is_ready() -> bool:
        assert server.poll() is None, (tmp_path / "moto.log").read_text()
        return subprocess.run([sys.executable, "-c", make_bucket], capture_output=True, check=False).returncode == 0

    try:
        until(is_ready)
        yield server
    finally:
        server.kill()
        server.wait()


def test_an_archive_in_s3(start_coordinator: Start, s3: subprocess.Popen[bytes], project: str) -> None:
    served = start_coordinator("--history-url", "s3://bucket/runs", *SOON)
    with init(served, project, "Run") as run:
        log(run, 0, 10_000)
        expected = read(served, project, "Run")
    with raw_store(served) as client:
        until(lambda: is_archived(client, project, "Run"))
    assert read(served, project, "Run") == expected
    assert read(served, project, "Run", keys=["loss"], min_step=9_000) == [
        point for point in expected if point.key == "loss" and point.step >= 9_000
    ]
    assert not (served.data_dir / "history").exists()
    s3.kill()
    s3.wait()
    with pytest.raises(CoordinatorUnavailable, match="s3://bucket/runs") as refusal:
        read(served, project, "Run")
    assert SECRET not in str(refusal.value)
    with init(served, project, "other") as run:
        log(run, 0, 10_000)
    until(lambda: "cannot archive" in served.log.read_text())
    assert len(read(served, project, "other")) == 20_000
    assert SECRET not in served.log.read_text()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/proc/nowhere", "/proc/nowhere"),
        ("nonsense://bucket", "nonsense://bucket"),
        (f"nonsense://key:{SECRET}@bucket", "nonsense://key:***@bucket"),
    ],
)
def test_an_archive_that_cannot_be_is_refused(tmp_path: Path, url: str, said: str) -> None:
    flags = ("serve", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path))
    refusal = Cli(dict(os.environ))(*flags, status=2, RUNLEASE_HISTORY_URL=url).stderr
    assert said in refusal
    assert "--history-url" in refusal


def test_a_missing_driver_is_named(tmp_path: Path) -> None:
    flags = ("serve", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path), "--history-url", "s3://bucket/runs")
    assert "pip install s3fs" in without_module("s3fs", *flags, env=dict(os.environ))


def test_renewals_go_on_while_much_is_archived(start_coordinator: Start, project: str) -> None:
    served = start_coordinator("--archive-bytes", "1", "--lock-delay", "1")
    lost = threading.Event()
    with init(served, project, ttl=5, on_lost=lambda *_: lost.set()) as run:
        log(run, 0, 200_000)
        until(lambda: bool(parts_below(served.data_dir)))
        assert run.lease.remaining_s > 0
        assert run.lease.state == "held"
    assert not lost.is_set()


def test_every_way_of_reading_gives_the_same(start_coordinator: Start, project: str) -> None:
    served = start_coordinator("--archive-after", "0.1", "--lock-delay", "0")
    client = runlease.Client(served.address)
    cursor = ""

    def answers() -> list[Any]:
        queries: list[dict[str, Any]] = [
            {},
            {"superseded": True},
            {"keys": ["loss"]},
            {"key_patterns": ["*s"]},
            {"min_step": 1_500, "max_step": 4_200},
            {"max_points": 100},
            {"writers": ["main", "absent"]},
            {"after": cursor},
        ]
        whole = [client.history(project, "r", **query) for query in queries]
        pages = [page for query in queries[:5] for page in client.history_pages(project, "r", page_points=997, **query)]
        return [
            (list(history.rows()), [list(one.superseded) for one in history.series]) for history in (*whole, *pages)
        ]

    with contextlib.closing(client):
        with init(served, project) as run:
            log(run, 0, 3_000)
            cursor = client.history(project, "r").cursor
            run.rewind(step=2_000)
            log(run, 2_000, 5_000)
            hot = answers()
        with raw_store(served) as store:
            until(lambda: is_archived(store, project))
            assert answers() == hot
            with init(served, project, resume_step=4_000) as run:
                log(run, 4_000, 4_500)
                assert store.xlen(run_keys(project, "r").log) > 0
                mixed = answers()
            assert mixed != hot
            until(lambda: is_archived(store, project))
            assert answers() == mixed
