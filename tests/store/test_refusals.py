"""What a real server refuses for a state that passes: the words that callers get, and that the store goes on after.

Elsewhere: out of memory and a full disk (tests/faults/test_memory.py, test_store_states.py), a replica and too few of
them (test_store_states.py), a user's rights (tests/faults/test_rights.py), clusters (tests/faults/test_cluster.py),
scripts that are not known (test_connection.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import redis
from runlease_coordinator.domain.errors import Unavailable
from runlease_coordinator.store.refusals import REFUSALS, refusal_of
from runlease_coordinator.store.store import Store

from tests.support.redis import RedisServer
from tests.support.wait import until

_KEY = "rl:{00}:meta"
_MANY = 200


@pytest.fixture
def server(any_binary: str) -> Iterator[RedisServer]:
    """A server of the test's own."""
    server = RedisServer("enable-debug-command yes", binary=any_binary)
    yield server
    server.close()


@contextmanager
def in_background(server: RedisServer, *words: str) -> Iterator[None]:
    """Have a command on its way for as long as it takes, or until the server ends it."""

    def run() -> None:
        with redis.Redis(unix_socket_path=str(server.socket)) as link, contextlib.suppress(redis.RedisError):
            link.execute_command(*words)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()


@contextmanager
def busy(server: RedisServer) -> Iterator[None]:
    server.ask("CONFIG", "SET", "busy-reply-threshold", "10")
    with in_background(server, "EVAL", "while true do end", "0"):
        until(lambda: server.command("PING").startswith(b"-BUSY"), every_s=0.01)
        yield
        server.ask("SCRIPT", "KILL")


@contextmanager
def loading(server: RedisServer) -> Iterator[None]:
    for number in range(_MANY):
        server.ask("SET", f"k{number}", "v" * 2048)  # it answers others once it has read 1 kB more
    server.ask("CONFIG", "SET", "key-load-delay", "20000", "loading-process-events-interval-bytes", "1024")
    server.ask("CONFIG", "SET", "rdbcompression", "no")
    with in_background(server, "DEBUG", "RELOAD"):
        until(lambda: server.command("DBSIZE").startswith(b"-LOADING"), every_s=0.01)
        yield
        server.ask("CONFIG", "SET", "key-load-delay", "0")


@contextmanager
def without_primary(server: RedisServer) -> Iterator[None]:
    server.ask("CONFIG", "SET", "replica-serve-stale-data", "no")
    server.ask("REPLICAOF", "127.0.0.1", "1")  # nobody listens there
    yield
    server.ask("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize(
    ("state", "word", "called"),
    [
        (busy, "BUSY", ("HSET", _KEY, "f", "v")),
        (loading, "LOADING", ("HSET", _KEY, "f", "v")),
        (without_primary, "MASTERDOWN", ("HGET", _KEY, "f")),
    ],
)
def test_a_state_that_passes_is_named(
    server: RedisServer,
    state: Callable[[RedisServer], AbstractContextManager[None]],
    word: str,
    called: tuple[str, ...],
) -> None:
    async def calls() -> tuple[Unavailable, bytes]:
        store = Store(server.url)
        await store.start()
        try:
            with state(server), pytest.raises(Unavailable, match=REFUSALS[word].words) as caught:
                await store.control.call(*called)
            await store.control.call("HSET", _KEY, "f", "v")
            return caught.value, await store.control.call("HGET", _KEY, "f")
        finally:
            await store.close()

    refused, value = asyncio.run(calls())
    assert word in str(refused)
    assert refused.reason == REFUSALS[word].reason
    assert refused.retry_after_ms == REFUSALS[word].retry_after_ms
    assert value == b"v"


def test_what_is_not_expected_is_no_state_that_passes() -> None:
    assert refusal_of(redis.ResponseError("CROSSSLOT Keys in request don't hash to the same slot")) is None
    assert refusal_of(redis.ResponseError("ERR wrong number of arguments")) is None
    assert refusal_of(redis.ConnectionError("LOADING")) is None
