"""A repetition is a write again, which WAIT covers: the rule `retry_is_a_write` of tests/model, on a real replica.

WAIT counts the replicas that have what its own connection wrote last. Behind a repetition that only reads it counts
those of an older write, so it is satisfied though the repeated write never reached them.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from runlease_coordinator.domain.runs import RunState
from runlease_coordinator.store.keys import run_keys

from tests.support.redis import RedisServer, free_port
from tests.support.stores import LiveStore, points_entry, writer_of
from tests.support.wait import until


@pytest.fixture(scope="module")
def replica(live: LiveStore) -> Iterator[RedisServer]:
    """A replica of the store; the store has a port for that."""
    port = free_port()
    live.raw.config_set("port", port)
    server = RedisServer(f"replicaof 127.0.0.1 {port}", binary=live.raw.info("server")["executable"])
    yield server
    server.process.send_signal(signal.SIGCONT)
    server.close()


Calls = Callable[[], Coroutine[Any, Any, Any]]


def acquiring(live: LiveStore, project: str) -> Calls:
    async def call() -> Any:
        return await asyncio.to_thread(live.acquire, project, nonce="n1")

    return call


def renewed(live: LiveStore, project: str) -> Calls:
    live.run(live.leases.renew(project, "r", live.acquire(project, nonce="n1").fence))
    return acquiring(live, project)


def releasing(live: LiveStore, project: str) -> Calls:
    fence = live.acquire(project).fence
    return lambda: live.leases.release(project, "r", fence, RunState.FAILED)


def succeeded(live: LiveStore, project: str) -> Calls:
    call = releasing(live, project)
    live.run(call())
    live.acquire(project)
    return call


def revoking(live: LiveStore, project: str, *, force: bool = False) -> Calls:
    fence = live.acquire(project).fence
    return lambda: live.leases.break_lease(project, "r", fence, force=force, reason="why", by="ada")


def breaking(live: LiveStore, project: str) -> Calls:
    return revoking(live, project, force=True)


def deleting(live: LiveStore, project: str) -> Calls:
    fence = live.acquire(project).fence
    live.release(project, fence)
    return lambda: live.runs.delete_run(project, "r", "r", fence, "")


def undeleting(live: LiveStore, project: str) -> Calls:
    live.run(deleting(live, project)())
    return lambda: live.runs.undelete_run(project, "r", "r", "")


def appending(live: LiveStore, project: str, run_id: str = "r") -> Calls:
    writer = writer_of(project, live.acquire(project, run_id).fence, run_id=run_id)
    live.run(live.metrics.open_writer(writer))
    return lambda: live.metrics.append(writer, points_entry(1, [(0, 1.0)]))


def linking(live: LiveStore, project: str) -> Calls:
    live.run(appending(live, project, "parent")())
    live.acquire(project)
    return lambda: live.runs.link(project, "r", "r", "parent", None)


@pytest.mark.parametrize(
    "operation",
    [acquiring, renewed, releasing, succeeded, revoking, breaking, deleting, undeleting, linking, appending],
)
def test_a_repetition_is_a_write(
    live: LiveStore, project: str, replica: RedisServer, operation: Callable[[LiveStore, str], Calls]
) -> None:
    connection = live.store.metrics if operation is appending else live.store.control

    def replicas(within_ms: int) -> int:
        count: int = live.run(connection.call("WAIT", 1, within_ms))
        return count

    call = operation(live, project)
    live.run(call())
    until(lambda: replicas(1000) == 1)
    before = live.dump(project)
    # Given a replica that gets nothing from here on,
    replica.process.send_signal(signal.SIGSTOP)
    try:
        live.run(call())
        assert replicas(50) == 0
    finally:
        replica.process.send_signal(signal.SIGCONT)
    until(lambda: replicas(1000) == 1)
    after, key = live.dump(project), run_keys(project, "r").run
    for dump in (before, after):
        dump[key].pop("call", None)
    assert after == before
