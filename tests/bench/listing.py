"""Lists over 100 000 runs, and what a run costs in the store's memory.

The runs are copies, made in the store, of two that were acquired (one of them released again) through the API, under
IDs, names and update times of their own: what they hold is what `acquire.lua` and `release.lua` wrote.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc.aio
from redis.asyncio import Redis
from runlease.v1 import leases_pb2_grpc, runs_pb2, runs_pb2_grpc
from runlease_coordinator.store.keys import RunKeys, run_keys

from tests.bench import idle, processes
from tests.bench.leases import Runlease, new_name
from tests.bench.rounds import Figure, interleave, percentile

RUNS = 100_000
#: Every so many runs one that is held; one that carries a tag of its own.
_RUNNING_EVERY, _TAGGED_EVERY = 100, 1000
_PROJECT = "many"
_CHUNK = 2000
#: Occurs in one run's ID.
_TEXT = "run-031415"
_RENEW_EVERY_S, _QUIET_S = 0.005, 1.0
#: Runs a page when all are read.
_PAGE = 1000

#: KEYS 1 run done  2 its attempts  3 run held  4 its attempts  5 runs  6 live
#: ARGV 1 first number  2 how many  3 update time of run 0 (us)  4 running every  5 tagged every  6 prefix of run keys
#:      7 prefix of attempts keys  8 project
_COPY = """
local first, count, base = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local running, tagged = tonumber(ARGV[4]), tonumber(ARGV[5])
for i = first, first + count - 1 do
  local id, held = string.format('run-%06d', i), i % running == 0
  local key, updated = ARGV[6] .. id, string.format('%.0f', base + i)
  redis.call('COPY', held and KEYS[3] or KEYS[1], key)
  redis.call('COPY', held and KEYS[4] or KEYS[2], ARGV[7] .. id)
  redis.call('HSET', key, 'id', id, 'name', 'gallant-water-' .. i, 'updated', updated)
  if i % tagged == 0 then redis.call('HSET', key, 'tags', '["baseline","rare"]') end
  redis.call('ZADD', KEYS[5], updated, id)
  if held then
    local expiry = string.format('%.0f', base + 36e8)
    redis.call('HSET', key, 'expiry', expiry, 'avail', expiry)
    redis.call('ZADD', KEYS[6], expiry, ARGV[8] .. '/' .. id)
  end
end
"""


async def fill(store: Redis, stub: Any) -> float:
    """Acquire two runs, release one, copy them, release the other; returns the memory of a copy in KiB."""
    done, held = run_keys(_PROJECT, "done"), run_keys(_PROJECT, "held")
    await idle.release(stub, _PROJECT, "done", await idle.acquire(stub, _PROJECT, "done"))
    fence = await idle.acquire(stub, _PROJECT, "held")
    before = (await store.info("memory"))["used_memory"]
    await _copy(store, done, held)
    await idle.release(stub, _PROJECT, "held", fence)
    return float((await store.info("memory"))["used_memory"] - before) / RUNS / 1024


async def _copy(store: Redis, done: RunKeys, held: RunKeys) -> None:
    copy: Any = store.register_script(_COPY)
    seconds, microseconds = await store.time()
    base = int(seconds) * 1_000_000 + int(microseconds)
    keys = [done.run, done.attempts, held.run, held.attempts, done.runs, done.partition.live]
    prefixes = [key.removesuffix(done.canonical_id) for key in (done.run, done.attempts)]
    for first in range(0, RUNS, _CHUNK):
        await copy(keys, [first, _CHUNK, base, _RUNNING_EVERY, _TAGGED_EVERY, *prefixes, _PROJECT])


class Reader:
    """Reads pages as a client does."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Take a channel to the coordinator."""
        self._stub: Any = runs_pb2_grpc.RunServiceStub(channel)

    async def page(self, **fields: Any) -> tuple[float, Any]:
        """Return the milliseconds of one page, and the answer."""
        began = time.perf_counter()
        answer = await self._stub.ListRuns(runs_pb2.ListRunsRequest(project=_PROJECT, **fields))
        return (time.perf_counter() - began) * 1e3, answer

    async def all(self, expected: int, **fields: Any) -> tuple[float, list[str]]:
        """Return the milliseconds of all pages up to the end, and the tokens by which each but the first was found."""
        tokens: list[str] = []
        token, found, total = "", 0, 0.0
        while True:
            took, answer = await self.page(page_token=token, page_size=_PAGE, **fields)
            total, found, token = total + took, found + len(answer.runs), answer.next_page_token
            if not token:
                break
            tokens.append(token)
        assert found == expected, f"{found} runs, not {expected}"
        return total, tokens


async def figures(rounds: int) -> AsyncIterator[Figure]:
    """Start a coordinator of its own, fill its store, and yield memory and times."""
    with processes.coordinator() as coordinator:
        async with (
            processes.open_channel(coordinator.address) as channel,
            Redis.from_url(processes.embedded_url(coordinator)) as store,
        ):
            await processes.ready(channel)
            share = await fill(store, leases_pb2_grpc.LeaseServiceStub(channel))
            total = {"runlease": [share]}
            yield Figure(f"memory of a run, share of {RUNS:,} in the store", "KiB", total, [idle.WANTED_KIB], 2)
            async for figure in _times(Reader(channel), rounds):
                yield figure
            yield await _renewals_meanwhile(channel, rounds)


async def _renewals_meanwhile(channel: grpc.aio.Channel, rounds: int) -> Figure:
    """Return how long a renewal takes while somebody searches all runs, and while nobody does."""
    own, name, reader = Runlease(channel), new_name(), Reader(channel)
    fence = (await own.acquire(name)).grant.fence

    async def renewals(until: asyncio.Future[None]) -> float:
        took = []
        while not until.done():
            began = time.perf_counter()
            await own.renew(name, fence)
            took.append((time.perf_counter() - began) * 1e3)
            await asyncio.sleep(_RENEW_EVERY_S)
        until.result()  # a search that failed is no search
        return percentile(took, 0.99)

    async def searching() -> float:
        search = asyncio.create_task(_nothing(reader.all(1, text=_TEXT)))
        return await renewals(search)

    async def quiet() -> float:
        return await renewals(asyncio.create_task(asyncio.sleep(_QUIET_S)))

    found = await interleave({"runlease": searching, "nobody searches": quiet}, rounds)
    return Figure("a renewal while all runs are searched for a text, p99", "ms", found, digits=1)


async def _nothing(call: Awaitable[Any]) -> None:
    await call


async def _times(reader: Reader, rounds: int) -> AsyncIterator[Figure]:
    walked, tokens = await reader.all(RUNS + 2)
    yield Figure(f"all of {RUNS:,} runs, pages of {_PAGE}", "ms", {"runlease": [walked]})
    assert len(tokens) == RUNS // _PAGE
    behind = tokens[RUNS // 2 // _PAGE - 1]
    running = [runs_pb2.RUN_STATE_RUNNING]
    pages: dict[str, dict[str, Any]] = {
        "first page of 100": {},
        "page of 100 behind the first 50,000": {"page_token": behind},
        "first page of 100 that run": {"states": running},
    }
    whole: dict[str, tuple[int, dict[str, Any]]] = {
        "all 1000 that run": (RUNS // _RUNNING_EVERY, {"states": running}),
        "all 100 with a tag": (RUNS // _TAGGED_EVERY, {"tags": ["rare"]}),
        "the one whose ID has a text": (1, {"text": _TEXT}),
    }
    for title, fields in pages.items():
        await reader.page(**fields)
        took = []
        for _ in range(rounds):
            ms, answer = await reader.page(**fields)
            assert len(answer.runs) == 100
            took.append(ms)
        yield Figure(f"list of {RUNS:,} runs: {title}", "ms", {"runlease": took}, digits=1)
    for title, (expected, fields) in whole.items():
        took = [(await reader.all(expected, **fields))[0] for _ in range(rounds)]
        yield Figure(f"list of {RUNS:,} runs: {title}", "ms", {"runlease": took}, digits=1)
