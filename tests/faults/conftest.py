"""Stores of a test's own that lose data, with coordinators and trainers, as built or as a known-bad variant."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from runlease_coordinator.store.server_binary import find_server

from tests.support.cli import bootstrap
from tests.support.clock import WallClock
from tests.support.coordinator import CoordinatorProcess
from tests.support.puppet import Puppet
from tests.support.redis import RedisServer
from tests.support.replicaset import ReplicaSet


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start_replicas(stack: ExitStack, redis_binary: str) -> Callable[..., ReplicaSet]:
    def start(max_ttl_s: int, variant: str | None = None, *, nodes: int = 3) -> ReplicaSet:
        started = ReplicaSet(redis_binary, max_ttl_s=max_ttl_s, nodes=nodes, variant=variant)
        return stack.enter_context(contextlib.closing(started))

    return start


@pytest.fixture
def start_puppet_at(stack: ExitStack) -> Callable[..., Puppet]:
    def start(coordinator: CoordinatorProcess, address: str | None = None) -> Puppet:
        environment = coordinator.env | ({"RUNLEASE_COORDINATOR": address} if address else {})
        return stack.enter_context(contextlib.closing(Puppet(environment)))

    return start


@pytest.fixture
def start_store(stack: ExitStack, redis_binary: str) -> Callable[..., tuple[RedisServer, CoordinatorProcess]]:
    """Start one store that syncs as told, and a coordinator; with a clock to be stepped it is a Valkey."""

    def start(
        max_ttl_s: int, variant: str | None = None, *, sync: str = "always", clock: WallClock | None = None
    ) -> tuple[RedisServer, CoordinatorProcess]:
        binary = str(find_server().path) if clock else redis_binary
        server = RedisServer("appendonly yes", f"appendfsync {sync}", binary=binary, clock=clock)
        stack.callback(server.close)
        flags = ("--max-ttl", str(max_ttl_s))
        bootstrap(server.url, *flags)
        coordinator = CoordinatorProcess(*flags, "--lock-delay", "0", "--store", server.url, variant=variant)
        stack.callback(coordinator.close)
        return server, coordinator.start()

    return start
