"""One connection to a real store: order, sharing, big arguments, what ends it and what must not."""

from __future__ import annotations

import asyncio
import contextlib

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError
from runlease_coordinator.domain.errors import Unavailable
from runlease_coordinator.store.connection import StoreConnection
from runlease_coordinator.store.places import Server
from runlease_coordinator.store.scripts import Script
from runlease_coordinator.store.store import Store

from tests.support.stores import LiveStore

ECHO = Script("echo", "return {ARGV[1], KEYS[1]}", "ffffffffffffffffffffffffffffffffffffffff")


def test_answers_go_to_their_callers_whoever_gave_up_meanwhile(live: LiveStore) -> None:
    async def calls(connection: StoreConnection) -> list[bytes]:
        tasks = [asyncio.create_task(connection.call("ECHO", number)) for number in range(200)]
        await asyncio.sleep(0)  # all have queued their command
        for task in tasks[::3]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        return [answer for answer in answers if isinstance(answer, bytes)]

    assert live.run(calls(live.store.control)) == [b"%d" % number for number in range(200) if number % 3]


def test_calls_of_one_turn_share_a_round_trip(live: LiveStore) -> None:
    async def turns(connection: StoreConnection) -> None:
        for _ in range(10):
            await asyncio.gather(*(connection.call("ECHO", "x") for _ in range(20)))

    # Each write of ours is at most one read of the server's; 200 commands that went alone would be 200.
    before = live.raw.info("stats")["total_reads_processed"]
    live.run(turns(live.store.control))
    assert live.raw.info("stats")["total_reads_processed"] - before < 100


def test_bulk_beyond_every_buffer_comes_back_whole(live: LiveStore) -> None:
    async def bulk(connection: StoreConnection) -> list[bytes]:
        return await asyncio.gather(*(connection.call("ECHO", bytes([n]) * (4 << 20)) for n in range(8)))

    assert live.run(bulk(live.store.metrics)) == [bytes([n]) * (4 << 20) for n in range(8)]


def test_a_command_that_cannot_be_sent_harms_no_other(live: LiveStore) -> None:
    async def mixed(connection: StoreConnection) -> list[object]:
        calls = (connection.call("ECHO", "\ud800"), connection.call("ECHO", "b"), connection.call("NOSUCH"))
        return await asyncio.gather(*calls, return_exceptions=True)

    bad, good, refused = live.run(mixed(live.store.control))
    assert isinstance(bad, UnicodeEncodeError)
    assert good == b"b"
    assert isinstance(refused, ResponseError)


def test_a_script_that_the_store_does_not_know_is_sent(live: LiveStore) -> None:
    assert live.run(live.store.control.run(ECHO, ("key",), ("argument",))) == [b"argument", b"key"]


def test_an_idle_connection_stays(live: LiveStore) -> None:
    # redis-py bounds the wait for an answer, and gives up connections on which none is due.
    async def idle() -> str:
        store = Store(f"{live.embedded.url}?socket_timeout=0.05")
        await store.start()
        try:
            before = await store.reads.call("CLIENT", "ID")
            await asyncio.sleep(0.2)  # idleness itself is what is tested
            return "same" if await store.reads.call("CLIENT", "ID") == before else "another"
        finally:
            await store.close()

    assert live.run(idle()) == "same"


def test_a_connection_that_the_store_closes_fails_its_calls_and_comes_back(live: LiveStore) -> None:
    store = live.connect()

    async def cut() -> tuple[int, object, int]:
        before = await store.reads.call("CLIENT", "ID")
        blocked = asyncio.create_task(store.reads.call("BLPOP", "nothing-there", 0))
        await asyncio.sleep(0)
        await live.store.control.call("CLIENT", "KILL", "ID", before)
        (outcome,) = await asyncio.gather(blocked, return_exceptions=True)
        while True:
            try:
                return before, outcome, await store.reads.call("CLIENT", "ID")
            except Unavailable:
                await asyncio.sleep(0)

    before, outcome, after = live.run(cut())
    assert isinstance(outcome, Unavailable)
    assert outcome.reason == "STORE_UNAVAILABLE"
    assert after != before


def test_a_cancellation_that_is_lost_while_it_connects_does_not_hang_its_end(live: LiveStore) -> None:
    class Deaf(Server):
        """Connects as redis-py does when it loses a cancellation: to whoever gave it up."""

        def __init__(self) -> None:
            super().__init__(live.embedded.url)
            self.connecting = asyncio.Event()

        async def connect(self) -> AbstractConnection:
            self.connecting.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return await super().connect()

    async def ended() -> bool:
        place = Deaf()
        connection = StoreConnection(place, "deaf")
        connection.begin()
        await place.connecting.wait()
        closing = asyncio.ensure_future(connection.close())
        done, _ = await asyncio.wait({closing}, timeout=5)
        closing.cancel()
        return bool(done)

    assert live.run(ended())
