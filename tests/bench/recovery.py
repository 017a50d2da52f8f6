"""How long a fault lasts for those who hold leases: from the fault to the next renewal, and to the next grant.

`python -m tests.bench.recovery` brings each fault several times and prints medians. The holder is the SDK's: its
renewal falls due at the very moment of the fault, and from then on it tries at the SDK's own pace (a coordinator that
is away is tried again after ttl/60, then less and less often). The clock stops when a renewal is answered.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import runlease
from redis.asyncio import Redis
from runlease.v1 import leases_pb2_grpc

from tests.bench import listing, processes, report
from tests.support.coordinator import CoordinatorProcess
from tests.support.nodes import Node

_PROJECT = "recovery"
#: Far beyond anything that counts as recovered.
_PATIENCE_S = 120.0
#: What a figure is of: seconds, one a repetition.
Found = dict[str, list[float]]


class Holder:
    """A run that this process holds through the SDK."""

    def __init__(self, address: str, ttl_s: float) -> None:
        """Acquire a new run."""
        self._run = runlease.init(
            project=_PROJECT, id=f"r-{secrets.token_hex(5)}", resume="allow", ttl=ttl_s, coordinator=address
        )
        self._keeper: Any = self._run._session._keeper
        assert self._keeper.renew()
        self.logged_after_s()

    def renewed_after_s(self) -> float:
        """Renew until it works, at the SDK's pace; returns how long that took."""
        lease, began = self._run.lease, time.monotonic()
        while not self._keeper.renew():
            assert time.monotonic() - began < _PATIENCE_S, f"not renewed: {lease}"
            time.sleep(lease.next_renewal_in())
        return time.monotonic() - began

    def logged_after_s(self) -> float:
        """Log a point; returns how long it took to be acknowledged."""
        began = time.monotonic()
        self._run.log({"loss": 1.0})
        assert self._run.flush(_PATIENCE_S)
        return time.monotonic() - began

    def close(self) -> None:
        """Give the run back."""
        self._run.finish()


@contextmanager
def _holder(address: str, ttl_s: float) -> Iterator[Holder]:
    holder = Holder(address, ttl_s)
    try:
        yield holder
    finally:
        holder.close()


def granted_after_s(address: str, ttl_s: float) -> float:
    """Acquire a new run; returns how long that took."""
    began = time.monotonic()
    with runlease.Client(address, timeout_s=_PATIENCE_S) as client:
        name, nonce = f"r-{secrets.token_hex(5)}", secrets.token_hex(8)
        grant = client.acquire(_PROJECT, name, nonce=nonce, resume="allow", ttl_s=ttl_s)
        took = time.monotonic() - began
        client.release(_PROJECT, grant.run.id, grant.fence)
    return took


@contextmanager
def _meanwhile(do: Callable[[], object]) -> Iterator[None]:
    """Do something in another thread; wait for its end."""
    thread = threading.Thread(target=do)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def coordinators(rounds: int) -> Found:
    """A coordinator is killed or stopped dead, with another one in the address list; or killed and started again."""
    found: Found = {}
    with processes.two_coordinators() as both:
        if both is None:
            return found
        first, second = both[1]
        assert first.process is not None
        for _ in range(rounds):
            for ttl_s in (30.0, 5.0):
                with _holder(f"{first.address},{second.address}", ttl_s) as holder:
                    first.kill()
                    _note(found, f"SIGKILL of one of two coordinators, ttl {ttl_s:g} s", holder)
                    first.start()
                with _holder(f"{first.address},{second.address}", ttl_s) as holder:
                    first.process.send_signal(signal.SIGSTOP)
                    _note(found, f"SIGSTOP of one of two coordinators, ttl {ttl_s:g} s", holder)
                    first.process.send_signal(signal.SIGCONT)
            with _holder(first.address, 30.0) as holder:
                first.kill()
                with _meanwhile(first.start):
                    _note(found, "SIGKILL of the only coordinator, started again at once, ttl 30 s", holder)
    return found


def _note(found: Found, fault: str, holder: Holder) -> None:
    """Note how long it takes until a renewal is answered, and a point is acknowledged that is logged right now."""
    points = found.setdefault(f"{fault}: point", [])
    with _meanwhile(lambda: points.append(holder.logged_after_s())):
        found.setdefault(f"{fault}: renewal", []).append(holder.renewed_after_s())


def failovers(rounds: int) -> Found:
    """The primary of three data nodes is killed or stopped dead; Sentinels that give it 1 s promote another."""
    found: Found = {}
    for ttl_s in (30.0, 5.0):
        with processes.two_behind_sentinels(ttl_s) as both:
            if both is None:
                return found
            site, coordinators = both
            address = ",".join(each.address for each in coordinators)
            for fault, bring in [("SIGKILL", Node.kill), ("SIGSTOP", Node.freeze)] * rounds:
                what = f"{fault} of the primary, ttl and --max-ttl {ttl_s:g} s"
                with _holder(address, ttl_s) as holder:
                    before = site.primary
                    bring(before)
                    grants = found.setdefault(f"{what}: new grant", [])
                    with _meanwhile(partial(_note_grant, grants, address, ttl_s)):
                        _note(found, what, holder)
                    if before.frozen:
                        before.thaw()
                    else:
                        before.start()
                    site.settle()
    return found


def _note_grant(grants: list[float], address: str, ttl_s: float) -> None:
    grants.append(granted_after_s(address, ttl_s))


def large_store(rounds: int) -> Found:
    """An embedded store with many runs is killed, alone and together with its coordinator."""
    found: Found = {}
    with processes.coordinator() as coordinator:
        asyncio.run(_fill(coordinator))
        with _holder(coordinator.address, 30.0) as holder:
            for _ in range(rounds):
                coordinator.kill_store()
                found.setdefault("the store alone, ttl 30 s", []).append(holder.renewed_after_s())
                found.setdefault("memory of the store, MiB", []).append(processes.resident_mib(coordinator.store_pid))
                coordinator.kill_store()
                coordinator.kill()
                began = time.monotonic()
                with _meanwhile(coordinator.start):
                    holder.renewed_after_s()
                found.setdefault("store and coordinator, ttl 30 s", []).append(time.monotonic() - began)
        found["append-only files, MiB"] = [_files_mib(coordinator)]
    return found


async def _fill(coordinator: CoordinatorProcess) -> None:
    async with (
        processes.open_channel(coordinator.address) as channel,
        Redis.from_url(processes.embedded_url(coordinator)) as store,
    ):
        await listing.fill(store, leases_pb2_grpc.LeaseServiceStub(channel))


def _files_mib(coordinator: CoordinatorProcess) -> float:
    return sum(file.stat().st_size for file in coordinator.data_dir.rglob("*.aof")) / 2**20


SCENARIOS: dict[str, Callable[[int], Found]] = {
    "coordinators": coordinators,
    "failovers": failovers,
    "large-store": large_store,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.recovery", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=SCENARIOS, help="leave out all others; may be repeated")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rlb-", dir="/tmp") as folder:
        os.environ |= {"RUNLEASE_SILENT": "1", "RUNLEASE_DIR": folder}
        print(report.machine(), processes.conditions(), sep="\n")
        print("\n| fault | seconds: median (min..max) |\n|---|---|")
        for name in options.only or SCENARIOS:
            for what, values in SCENARIOS[name](options.rounds).items():
                print(f"| {what} | {median(values):.2f} ({min(values):.2f}..{max(values):.2f}) |", flush=True)
        print(f"\n{processes.conditions()}")


if __name__ == "__main__":
    main()
