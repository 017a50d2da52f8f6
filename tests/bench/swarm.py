"""Many holders in one process: leases renewed as the SDK renews them, open metric streams, runs that come and go.

Raw stubs on few connections, so that it costs less than what it loads; each lease has the SDK's own `LeaseMachine`,
which knows when a renewal is due and when its holder must stop to believe. `python -m tests.bench.swarm` reads its
plan, JSON, from the first argument and prints a line of JSON a period, and one at the end; see `tests.bench.load`.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import json
import math
import random
import secrets
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc
import grpc.aio
import uvloop
from runlease.channel import OPTIONS, target
from runlease.clock import suspend_aware
from runlease.leasestate import LeaseMachine, LeaseState, Loss
from runlease.status import Details
from runlease.v1 import leases_pb2, leases_pb2_grpc, metrics_pb2, metrics_pb2_grpc, runs_pb2

from tests.bench.leases import HOLDER
from tests.bench.rounds import percentile

#: Calls on their way at most while all leases are taken, and while all are renewed at the end.
_IN_FLIGHT = 64
#: How long a lease may take to be renewed at the end: far beyond a failover.
_PATIENCE_S = 60.0
#: How often is looked which renewals are due, in seconds.
_LOOK_S = 0.01
_SERIES = 5
#: As the SDK's: renewals that may follow each other at once.
_TRIES_AT_ONCE = 3
#: As the SDK's: the pauses before a broken stream is opened again, in seconds.
_BACKOFF_S = (0.1, 2.0)


@dataclass(frozen=True)
class Plan:
    """What to do."""

    address: str
    """Of the coordinators, with commas."""
    leases: int = 2000
    streams: int = 400
    """How many of the leases have one."""
    seconds: float = 60.0
    period_s: float = 10.0
    """How often a line is printed."""
    ttl_s: float = 30.0
    append_every_s: float = 4.0
    """How often each stream sends a batch of one row."""
    churn: float = 5.0
    """Runs a second that are acquired and released at once."""
    projects: int = 128
    connections: int = 16


class Tally:
    """What came of the calls of a period: milliseconds of those that were answered, reasons of those that were not."""

    def __init__(self) -> None:
        """Count from 0."""
        self.took_ms: dict[str, list[float]] = {}
        self.failed: Counter[str] = Counter()

    def took(self, kind: str, since: float) -> None:
        """Count an answer to what was sent at ``since``."""
        self.took_ms.setdefault(kind, []).append((suspend_aware() - since) * 1e3)

    def refused(self, kind: str, error: grpc.RpcError) -> None:
        """Count a call without an answer, or with a refusal."""
        reason = Details(error).reason or error.code().name
        self.failed[f"{kind} {reason}"] += 1

    def take(self) -> dict[str, Any]:
        """Return what was counted, and begin again."""
        latencies = {
            kind: {"n": len(took)}
            | {name: round(percentile(took, part), 2) for name, part in _PARTS.items()}
            | {"max": round(max(took), 2)}
            for kind, took in self.took_ms.items()
        }
        failed, self.took_ms, self.failed = dict(self.failed), {}, Counter()
        return {"took_ms": latencies, "failed": failed}


_PARTS = {"p50": 0.5, "p99": 0.99, "p999": 0.999}


@dataclass(slots=True)
class Held:
    """A lease, as its holder knows it."""

    number: int
    ref: runs_pb2.RunRef
    stub: Any
    fence: int
    machine: LeaseMachine
    granted: leases_pb2.Granted
    in_doubt: bool = False
    """Whether the store has lost data, and did not confirm the lease since."""
    suspended_s: float = 0.0
    reinstated: int = 0
    acked: int = 0
    """Batches of its stream that were acknowledged."""


@dataclass
class Outcome:
    """What became of everything."""

    leases: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    """Causes of what the coordinator took away."""
    suspended: int = 0
    """Leases whose deadline passed once or more."""
    longest_suspension_s: float = 0.0
    reinstated: int = 0
    unrenewed: int = 0
    """Leases that could not be renewed at the end, under their fence."""
    points: int = 0
    rolled_back: int = 0
    """Batches that were acknowledged, were gone when their stream was opened again, and were sent again."""


class Swarm:
    """The holders."""

    def __init__(self, plan: Plan) -> None:
        """Take the plan; `run` carries it out."""
        self._plan = plan
        self._tally = Tally()
        self._outcome = Outcome(leases=plan.leases)
        self._held: list[Held] = []
        self._due: list[tuple[float, int]] = []
        self._ends_at = math.inf
        options = [*OPTIONS, ("grpc.enable_http_proxy", 0)]
        self._channels = [
            grpc.aio.insecure_channel(target(plan.address), options=options) for _ in range(plan.connections)
        ]
        self._prefix = secrets.token_hex(3)

    async def run(self) -> Outcome:
        """Take all leases, keep them until the time is up, and see whether they can still be renewed."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew_all(group))
            await asyncio.gather(*(self._acquire_some(number) for number in range(_IN_FLIGHT)))
            print(json.dumps({"began": True} | self._tally.take()), flush=True)
            self._ends_at = suspend_aware() + self._plan.seconds
            streams = [asyncio.create_task(self._stream(held)) for held in self._held[: self._plan.streams]]
            group.create_task(self._come_and_go(group))
            group.create_task(self._report())
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
        for number in range(0, len(self._held), _IN_FLIGHT):
            await asyncio.gather(*map(self._last_renewal, self._held[number : number + _IN_FLIGHT]))
        self._conclude()
        await asyncio.gather(*(channel.close() for channel in self._channels))
        return self._outcome

    # Leases.

    async def _acquire_some(self, first: int) -> None:
        number = first
        while number < self._plan.leases:
            try:
                held = await self._acquire(f"held-{self._prefix}-{number}", number, self._plan.ttl_s)
            except grpc.aio.AioRpcError as error:  # a store that was just opened or changed may be in quarantine
                self._tally.refused("acquire", error)
                await asyncio.sleep(_BACKOFF_S[1])
            else:
                # As if all had been granted over the whole last period, not at once.
                due = suspend_aware() + random.random() * self._plan.ttl_s / 3
                heapq.heappush(self._due, (due, len(self._held)))
                self._held.append(held)
                number += _IN_FLIGHT

    async def _acquire(self, name: str, number: int, ttl_s: float) -> Held:
        stub = leases_pb2_grpc.LeaseServiceStub(self._channels[number % len(self._channels)])
        ref = runs_pb2.RunRef(project=f"load-{number % self._plan.projects}", id=name)
        request = leases_pb2.AcquireRequest(
            run=ref,
            mode=leases_pb2.RESUME_MODE_ALLOW,
            nonce=secrets.token_hex(16),
            ttl_ms=int(ttl_s * 1e3),
            holder=HOLDER,
        )
        sent_at = suspend_aware()
        answer = await stub.Acquire(request, timeout=10.0)
        self._tally.took("acquire", sent_at)
        grant = answer.grant
        machine = LeaseMachine(ttl_s, sent_at, grant.remaining_ms / 1e3, grant.incarnation)
        granted = leases_pb2.Granted(
            wish=request, attempt=grant.attempt, next_step=grant.next_step, starting_step=grant.starting_step
        )
        return Held(number, ref, stub, grant.fence, machine, granted)

    async def _renew_all(self, group: asyncio.TaskGroup) -> None:
        while (now := suspend_aware()) < self._ends_at:
            while self._due and self._due[0][0] <= now:
                due, number = heapq.heappop(self._due)
                self._tally.took("late", due)  # by how much this process itself was late
                group.create_task(self._renew_in_turn(number))
            await asyncio.sleep(_LOOK_S)

    async def _renew_in_turn(self, number: int) -> None:
        held = self._held[number]
        await self._renew(held)
        if held.machine.state(now := suspend_aware()) is not LeaseState.LOST:
            heapq.heappush(self._due, (held.machine.next_renewal(now, random.random), number))

    async def _renew(self, held: Held) -> bool:
        """Renew as the SDK does, again at once where that helps; returns whether the lease was extended."""
        for _ in range(_TRIES_AT_ONCE):
            extended = await self._try(held)
            if extended is not None:
                return extended
        held.machine.failed()
        return False

    async def _try(self, held: Held) -> bool | None:
        machine, sent_at = held.machine, suspend_aware()
        believes = machine.state(sent_at) is LeaseState.HELD
        request = leases_pb2.RenewRequest(
            run=held.ref, fence=held.fence, held_by_own_clock=believes, incarnation=machine.incarnation
        )
        if held.in_doubt and believes:
            request.granted.CopyFrom(held.granted)
        try:
            answer = await held.stub.Renew(request, timeout=max(1.0, min(5.0, machine.ttl_s / 6)))
        except grpc.aio.AioRpcError as error:
            return self._refused(held, error)
        self._tally.took("renewal", sent_at)
        held.in_doubt = False
        now = suspend_aware()
        held.suspended_s = max(held.suspended_s, now - machine.deadline)
        if believes and machine.state(now) is LeaseState.SUSPENDED:  # too late to be believed
            return None
        held.reinstated += answer.reinstated
        machine.renewed(sent_at, answer.remaining_ms / 1e3, answer.incarnation)
        return True

    def _refused(self, held: Held, error: grpc.aio.AioRpcError) -> bool | None:
        self._tally.refused("renewal", error)
        details = Details(error)
        if error.code() is grpc.StatusCode.ABORTED:
            held.machine.lost(Loss(details.reason, error.details() or ""))
            return False
        if details.reason == "UNCONFIRMED":
            held.in_doubt = True
            if held.machine.claim(suspend_aware(), details.facts.get("incarnation", "")):
                return None
        held.machine.failed()
        return False

    async def _last_renewal(self, held: Held) -> None:
        """Renew at the SDK's pace until it works, or clearly does not."""
        until = suspend_aware() + _PATIENCE_S
        while held.machine.state(now := suspend_aware()) is not LeaseState.LOST:
            if await self._renew(held):
                return
            if now > until:
                self._outcome.unrenewed += 1
                return
            await asyncio.sleep(held.machine.next_renewal(now, random.random) - now)

    # Runs that come and go.

    async def _come_and_go(self, group: asyncio.TaskGroup) -> None:
        if not self._plan.churn:
            return
        number = 0
        began = suspend_aware()
        while (now := suspend_aware()) < self._ends_at:
            number += 1
            group.create_task(self._one_goes(number))
            await asyncio.sleep(max(0.0, began + number / self._plan.churn - now))

    async def _one_goes(self, number: int) -> None:
        kind = "acquire"
        try:
            held = await self._acquire(f"goes-{self._prefix}-{number}", number, self._plan.ttl_s)
            kind, sent_at = "release", suspend_aware()
            await held.stub.Release(
                leases_pb2.ReleaseRequest(run=held.ref, fence=held.fence, outcome=runs_pb2.RUN_STATE_FINISHED),
                timeout=10.0,
            )
            self._tally.took(kind, sent_at)
        except grpc.aio.AioRpcError as error:
            self._tally.refused(kind, error)

    # Streams.

    async def _stream(self, held: Held) -> None:
        # Another connection than its renewals have, as the SDK does it.
        channel = self._channels[(held.number + 1) % len(self._channels)]
        stub: Any = metrics_pb2_grpc.MetricServiceStub(channel)
        await asyncio.sleep(random.random() * self._plan.append_every_s)
        backoff = _BACKOFF_S[0]
        while True:
            acked = held.acked
            try:
                await self._log_on(held, stub.Append(wait_for_ready=True))
            except asyncio.InvalidStateError:  # written into a call that had ended since
                self._tally.failed["append BROKEN"] += 1
            except grpc.aio.AioRpcError as error:
                self._tally.refused("append", error)
                if error.code() is grpc.StatusCode.ABORTED:
                    return
                if Details(error).reason == "UNCONFIRMED":
                    await self._renew(held)
            backoff = _BACKOFF_S[0] if held.acked > acked else min(backoff * 2, _BACKOFF_S[1])
            await asyncio.sleep(backoff * (0.5 + random.random()))

    async def _log_on(self, held: Held, call: Any) -> None:
        opening = metrics_pb2.OpenWriter(run=held.ref, fence=held.fence, writer="main", session=secrets.token_hex(16))
        await call.write(metrics_pb2.AppendRequest(open=opening))
        opened = await call.read()
        if opened is grpc.aio.EOF:
            return
        seq = opened.opened.seq
        self._outcome.rolled_back += max(0, held.acked - seq)
        while True:
            seq += 1
            sent_at = suspend_aware()
            await call.write(_batch(seq))
            answer = await call.read()
            if answer is grpc.aio.EOF:
                return
            assert answer.ack.seq == seq, answer
            held.acked = max(held.acked, seq)
            self._tally.took("append", sent_at)
            await asyncio.sleep(self._plan.append_every_s)

    # What is said of it.

    async def _report(self) -> None:
        began = suspend_aware()
        number = 0
        while (now := suspend_aware()) < self._ends_at:
            number += 1
            await asyncio.sleep(min(began + number * self._plan.period_s, self._ends_at) - now)
            now = suspend_aware()
            states = Counter(held.machine.state(now).value for held in self._held)
            print(json.dumps({"at": round(now - began, 1), "states": states} | self._tally.take()), flush=True)

    def _conclude(self) -> None:
        outcome = self._outcome
        for held in self._held:
            if held.machine.loss is not None:
                outcome.lost[held.machine.loss.cause] += 1
            outcome.suspended += held.suspended_s > 0
            outcome.longest_suspension_s = max(outcome.longest_suspension_s, round(held.suspended_s, 2))
            outcome.reinstated += held.reinstated
            outcome.points += held.acked * _SERIES


def _batch(seq: int) -> metrics_pb2.AppendRequest:
    request = metrics_pb2.AppendRequest()
    request.entry.seq = seq
    points = request.entry.points
    points.steps.append(seq)
    points.times.append(1.7e9 + seq)
    for number in range(_SERIES):
        points.series.add(key=f"train/metric_{number}", values=[seq * 0.1 + number])
    return request


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    # Holders are processes of their own: none of them would search the objects of thousands for cycles.
    gc.set_threshold(100_000, 20, 100)

    async def carry_out() -> Outcome:
        return await Swarm(plan).run()

    print(json.dumps({"outcome": asdict(uvloop.run(carry_out()))}), flush=True)


if __name__ == "__main__":
    main()
