"""What WAIT costs: leases and renewals on a store whose control writes reach a replica, beside one where they need not.

    python -m tests.bench.waiting --seconds 2 --rounds 5

Three stores on loopback, each of servers that sync once a second, each with a coordinator of its own: one server; the
same with two replicas that nobody waits for; and with two replicas, one of which must have each control write.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median

import grpc.aio
import uvloop
from runlease_coordinator.store.server_binary import find_server

from tests.bench.leases import Runlease, calls_a_second, median_ms, new_name, rate
from tests.bench.rounds import interleave
from tests.support.cli import bootstrap
from tests.support.coordinator import CoordinatorProcess
from tests.support.nodes import Node

WORKERS = 32
#: Replicas, and the data nodes that the coordinator is told.
STORES = {"no replicas": (0, 1), "2 replicas, W = 0": (2, 1), "2 replicas, W = 1": (2, 3)}


@contextmanager
def coordinator(replicas: int, data_nodes: int) -> Iterator[str]:
    """A coordinator on a store of its own; yields its address."""
    with ExitStack() as stack:
        binary, durable = str(find_server().path), ("appendonly yes", "appendfsync everysec")
        primary, *others = (Node(*durable, binary=binary) for _ in range(1 + replicas))
        for node in (primary, *others):
            stack.callback(node.close)
        for node in others:
            node.follow(primary)
        flags = ("--data-nodes", str(data_nodes))
        bootstrap(primary.tcp_url, *flags)
        process = CoordinatorProcess("--store", primary.tcp_url, "--log-level", "error", *flags)
        stack.callback(process.close)
        yield process.start().address


async def measure(addresses: dict[str, str], seconds: float, rounds: int) -> None:
    """Print the medians of all stores."""
    own = {name: Runlease(grpc.aio.insecure_channel(address)) for name, address in addresses.items()}
    pairs = {name: partial(median_ms, each, seconds) for name, each in own.items()}
    show("acquire + release, 1 client, ms", await interleave(pairs, rounds), 2)
    many = {name: partial(rate, each, WORKERS, seconds) for name, each in own.items()}
    show(f"acquire + release, {WORKERS} clients, pairs/s", await interleave(many, rounds), 0)
    renewals = {}
    for name, each in own.items():
        held = [(run, (await each.acquire(run)).grant.fence) for run in (new_name() for _ in range(WORKERS))]
        calls = [partial(each.renew, run, fence) for run, fence in held]
        renewals[name] = partial(calls_a_second, calls, seconds)
    show(f"renewals, {WORKERS} clients, calls/s", await interleave(renewals, rounds), 0)


def show(title: str, values: dict[str, list[float]], digits: int) -> None:
    """Print the median of each store and its span, and what the last one is of the one before, round by round."""
    print(title)
    for name, found in values.items():
        print(f"  {name:20} {median(found):8.{digits}f}  ({min(found):.{digits}f} .. {max(found):.{digits}f})")
    before, last = list(values.values())[-2:]
    print(f"  W = 1 against W = 0: {median(w / o for w, o in zip(last, before, strict=True)):.2f}")


def main() -> None:
    """Start the stores, measure, end them."""
    parser = argparse.ArgumentParser(description="What WAIT costs leases.")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with ExitStack() as stack:
        addresses = {name: stack.enter_context(coordinator(*store)) for name, store in STORES.items()}
        uvloop.run(measure(addresses, options.seconds, options.rounds))


if __name__ == "__main__":
    main()
