"""States in which a store takes no writes: said as such, waited out, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import redis
import runlease

from tests.support.cli import bootstrap
from tests.support.coordinator import CoordinatorProcess
from tests.support.puppet import Puppet, see_trained
from tests.support.redis import RedisServer
from tests.support.tmpfs import SmallDisk, small_disk
from tests.support.wait import until


@contextmanager
def demoted(store: redis.Redis, disk: SmallDisk) -> Iterator[None]:
    store.execute_command("REPLICAOF", "127.0.0.1", "1")  # nobody listens there
    yield
    store.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def without_replicas(store: redis.Redis, disk: SmallDisk) -> Iterator[None]:
    store.config_set("min-replicas-to-write", 1)
    yield
    store.config_set("min-replicas-to-write", 0)


@contextmanager
def disk_full(store: redis.Redis, disk: SmallDisk) -> Iterator[None]:
    # With `always` it ends itself, rather than answer before it has written (test_store_disk.py).
    store.config_set("appendfsync", "everysec")
    disk.fill()
    store.set("large", "x" * 10_000)
    until(lambda: store.info("persistence")["aof_last_write_status"] == "err")
    yield
    disk.free()


@pytest.fixture
def server(redis_binary: str, tmp_path: Path) -> Iterator[tuple[RedisServer, SmallDisk]]:
    with small_disk(tmp_path / "disk", "8m") as disk:
        server = RedisServer("appendonly yes", f"dir {disk.folder}", binary=redis_binary)
        yield server, disk
        server.close()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (demoted, "is a replica, name its primary"),
        (without_replicas, "has too few replicas"),
        (disk_full, "cannot write to its disk, make room"),
    ],
)
def test_metrics_wait_until_the_store_takes_writes_again(
    server: tuple[RedisServer, SmallDisk],
    start_coordinator: Callable[..., CoordinatorProcess],
    start_puppet: Callable[..., Puppet],
    state: Callable[[redis.Redis, SmallDisk], AbstractContextManager[None]],
    said: str,
) -> None:
    url = server[0].url
    bootstrap(url)
    coordinator = start_coordinator("--store", url)
    trainer = start_puppet(coordinator)
    granted = trainer.call("init", project="p", id="r", resume="allow")
    trainer.call("train", start=0, stop=1000)
    assert trainer.call("flush")
    with redis.Redis.from_url(url) as store, runlease.Client(coordinator.address, timeout_s=30) as client:
        with state(store, server[1]):
            trainer.call("train", start=1000, stop=3000)
            until(lambda: said in trainer.call("stats")["last_error"])
            assert trainer.call("train", start=3000, stop=4000) == 4000
            with (
                runlease.Client(coordinator.address, timeout_s=0.1) as hasty,
                pytest.raises(runlease.CoordinatorUnavailable, match=said),
            ):
                hasty.renew("p", "r", granted["fence"])
        assert trainer.call("flush")
        see_trained(client, granted, 4000)
        assert client.get_run("p", "r").points == 8000
    assert trainer.call("finish")
    assert "Traceback" not in coordinator.log.read_text()
