"""What an idle run keeps in the store's memory: MEMORY USAGE of its own keys, on the embedded store and on Redis.

The run has a holder as the SDK tells it, a tag and five config keys; its attempts ended `finished`, without metrics.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from redis.asyncio import Redis
from runlease.v1 import leases_pb2, leases_pb2_grpc, runs_pb2
from runlease_coordinator.store.keys import RunKeys, run_keys

from tests.bench.leases import HOLDER, PROJECT, new_name
from tests.bench.rounds import Figure, Wanted

WANTED_KIB = Wanted(3, False)
_CONFIG = {"lr": "0.0003", "batch_size": "256", "model": '"resnet50"', "epochs": "90", "seed": "17"}
_MANY_ATTEMPTS = 10


async def acquire(stub: Any, project: str, name: str) -> int:
    """Acquire a run as a trainer does; returns the fence."""
    answer = await stub.Acquire(
        leases_pb2.AcquireRequest(
            run=runs_pb2.RunRef(project=project, id=name),
            mode=leases_pb2.RESUME_MODE_ALLOW,
            nonce=secrets.token_hex(16),
            holder=HOLDER,
            config=_CONFIG,
            tags=runs_pb2.Tags(tags=["baseline"]),
        )
    )
    return int(answer.grant.fence)


async def release(stub: Any, project: str, name: str, fence: int) -> None:
    """Release it as finished."""
    ref = runs_pb2.RunRef(project=project, id=name)
    await stub.Release(leases_pb2.ReleaseRequest(run=ref, fence=fence, outcome=runs_pb2.RUN_STATE_FINISHED))


async def usage_kib(store: Redis, keys: RunKeys) -> float:
    """Return what MEMORY USAGE says of a run's own keys, in KiB."""
    own = (keys.run, keys.attempts, keys.ckpt, keys.ckptdoc, keys.seq, keys.log, keys.wait, keys.waitx)
    return sum([await store.memory_usage(key, samples=0) or 0 for key in own]) / 1024


async def figures(channel: grpc.aio.Channel, store_url: str, *, where: str = "") -> AsyncIterator[Figure]:
    """Yield the memory of a run with one attempt, and with ten."""
    stub = leases_pb2_grpc.LeaseServiceStub(channel)
    name = new_name()
    async with Redis.from_url(store_url) as store:
        for attempts in range(1, _MANY_ATTEMPTS + 1):
            await release(stub, PROJECT, name, await acquire(stub, PROJECT, name))
            if attempts in (1, _MANY_ATTEMPTS):
                usage = {"runlease": [await usage_kib(store, run_keys(PROJECT, name))]}
                what = "1 attempt" if attempts == 1 else f"{attempts} attempts"
                yield Figure(f"memory of an idle run, {what}{where}", "KiB", usage, [WANTED_KIB], 2)
