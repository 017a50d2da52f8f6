"""A control call is answered once W replicas have what it wrote: one WAIT closes each flush, on real replicas."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from runlease_coordinator.domain.errors import Unavailable
from runlease_coordinator.store.scripts import Script
from runlease_coordinator.store.store import Store

from tests.support.nodes import Node

INCREMENT = Script("increment", "return redis.call('INCR', KEYS[1])", "f" * 40)
PUSH = Script("push", "return redis.call('RPUSH', KEYS[1], '1')", "e" * 40)


def run(node: Node, calls: Callable[[Store], Awaitable[None]], *, replicas: int = 1) -> None:
    """Run calls on a coordinator's connections to a node."""

    @contextlib.asynccontextmanager
    async def connected() -> AsyncIterator[Store]:
        store = Store(node.tcp_url, replicas=replicas)
        await store.start()
        try:
            yield store
        finally:
            await store.close()

    async def main() -> None:
        async with connected() as store:
            await calls(store)

    asyncio.run(main())


async def refusal(call: Awaitable[object]) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        await call
    return caught.value


def test_one_wait_closes_each_flush(nodes: list[Node]) -> None:
    first = nodes[0]

    async def calls(store: Store) -> None:
        for _ in range(10):
            answers = await asyncio.gather(*(store.control.run(INCREMENT, ("n",), ()) for _ in range(20)))
            assert sorted(answers) == answers

    run(first, calls)
    waits = first.info("commandstats")["cmdstat_wait"]["calls"]
    assert 10 <= waits <= 20  # the first one's script was not known
    assert [node.ask("GET", "n") for node in nodes].count("200") >= 2


def test_what_replicas_do_not_have_is_not_acknowledged_and_not_undone(nodes: list[Node]) -> None:
    async def calls(store: Store) -> None:
        assert await store.control.run(INCREMENT, ("n",), ()) == 1
        for replica in nodes[1:]:
            replica.freeze()
        written, read = await asyncio.gather(
            refusal(store.control.run(INCREMENT, ("n",), ())), store.control.call("ECHO", "beside it")
        )
        assert (written.reason, read) == ("NOT_REPLICATED", b"beside it")
        # Reads and metrics go on beside it.
        blocked = asyncio.create_task(refusal(store.control.run(INCREMENT, ("n",), ())))
        assert await store.reads.call("GET", "n") == b"2"
        assert await store.metrics.run(INCREMENT, ("m",), ()) == 1
        assert not blocked.done()
        await blocked
        nodes[1].thaw()
        assert await store.control.run(INCREMENT, ("n",), ()) == 4

    run(nodes[0], calls)


def test_a_refusal_of_the_wait_fails_what_it_was_to_cover(nodes: list[Node]) -> None:
    async def calls(store: Store) -> None:
        assert "'wait' command" in str(await refusal(store.control.run(INCREMENT, ("n",), ())))

    nodes[0].ask("ACL", "SETUSER", "default", "-wait")
    run(nodes[0], calls)


def test_a_connection_that_is_lost_in_a_wait_fails_what_was_held(nodes: list[Node]) -> None:
    async def calls(store: Store) -> None:
        await store.control.run(INCREMENT, ("n",), ())
        for replica in nodes[1:]:
            replica.freeze()
        held = asyncio.create_task(refusal(store.control.run(PUSH, ("list",), ())))
        await store.reads.call("BLPOP", "list", 0)
        await store.reads.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert (await held).reason == "STORE_UNAVAILABLE"

    run(nodes[0], calls)


def test_a_primary_that_is_demoted_in_a_wait_acknowledges_nothing(nodes: list[Node]) -> None:
    async def calls(store: Store) -> None:
        for replica in nodes[1:]:
            replica.freeze()
        held = asyncio.create_task(refusal(store.control.run(PUSH, ("list",), ())))
        await store.reads.call("BLPOP", "list", 0)
        await store.reads.call("REPLICAOF", "127.0.0.1", 1)  # nobody listens there
        assert (await held).reason in ("NOT_REPLICATED", "STORE_UNAVAILABLE")
        again = await refusal(store.control.call("WAIT", 0, 1, replicas=1))
        assert again.reason in ("NOT_REPLICATED", "STORE_UNAVAILABLE")

    run(nodes[0], calls)


def test_without_replicas_nothing_waits(nodes: list[Node]) -> None:
    async def calls(store: Store) -> None:
        assert await store.control.run(INCREMENT, ("n",), ()) == 1

    run(nodes[0], calls, replicas=0)
    assert "cmdstat_wait" not in nodes[0].info("commandstats")
