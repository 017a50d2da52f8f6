"""What clients that do not read, or do not stop sending, cost a coordinator's process: resident memory, bounded."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
import runlease
from runlease.channel import open_channel
from runlease.status import Details
from runlease.v1 import metrics_pb2 as pb
from runlease.v1 import metrics_pb2_grpc, runs_pb2

from tests.support.coordinator import CoordinatorProcess

MIB = 1 << 20
ROWS, ENTRIES, READERS = 100_000, 10, 25
#: The numbers of a whole read, without what is made of them.
WHOLE_MIB = ROWS * ENTRIES * 24 / MIB


def resident_mib(of: CoordinatorProcess) -> float:
    assert of.process is not None
    status = Path(f"/proc/{of.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


class Highest:
    """Samples a coordinator's resident memory all the while."""

    def __init__(self, of: CoordinatorProcess) -> None:
        self.mib = resident_mib(of)
        self._of, self._over = of, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._over.wait(0.02):
            self.mib = max(self.mib, resident_mib(self._of))

    def __enter__(self) -> Highest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture(scope="module")
def own() -> Iterator[CoordinatorProcess]:
    process = CoordinatorProcess("--read-bytes", str(8 * MIB)).start()
    yield process
    process.close()


@pytest.fixture
def channel(own: CoordinatorProcess) -> Iterator[grpc.Channel]:
    channel = open_channel(own.address)
    grpc.channel_ready_future(channel).result(20)
    yield channel
    channel.close()


def opening(own: CoordinatorProcess, run_id: str) -> pb.AppendRequest:
    with runlease.Client(own.address) as client:
        grant = client.acquire("p", run_id, nonce="n", resume="allow")
    run = runs_pb2.RunRef(project="p", id=run_id)
    return pb.AppendRequest(open=pb.OpenWriter(run=run, fence=grant.fence, writer="main", session="s"))


def test_reads_that_nobody_takes(own: CoordinatorProcess, channel: grpc.Channel) -> None:
    # Given a history that one read needs some MiB for, and clients that ask for it and read nothing.
    stub = metrics_pb2_grpc.MetricServiceStub(channel)
    messages = [opening(own, "read")]
    for seq in range(1, ENTRIES + 1):
        entry = pb.Entry(seq=seq)
        entry.points.steps.extend(range((seq - 1) * ROWS, seq * ROWS))
        entry.points.times.extend([1.0] * ROWS)
        entry.points.series.add(key="loss", values=[0.5] * ROWS)
        messages.append(pb.AppendRequest(entry=entry))
    assert list(stub.Append(iter(messages), timeout=60))[-1].ack.seq == ENTRIES
    request = pb.HistoryRequest(run=messages[0].open.run, packed=True)
    assert whole(stub, request)
    before = resident_mib(own)
    with ExitStack() as stack:
        calls = [stub.History(request, timeout=100) for _ in range(READERS)]
        for call in calls:
            stack.callback(call.cancel)
        # When one that found no room is told so, then all together never held as much as their numbers alone are.
        with Highest(own) as sampling, pytest.raises(grpc.RpcError) as caught:
            list(calls[-1])
        assert Details(caught.value).reason == "TOO_MANY_READS"
        assert sampling.mib - before < READERS * WHOLE_MIB, f"{before=:.0f}, {sampling.mib=:.0f}"
    # And once they are gone, the next one gets it all.
    assert whole(stub, request)


def whole(stub: metrics_pb2_grpc.MetricServiceStub, request: pb.HistoryRequest) -> bool:
    """Read a history; returns whether all was there."""
    return sum(len(part.packed_steps) for part in stub.History(request, timeout=60)) == ROWS * ENTRIES * 8


def test_entries_that_the_store_does_not_take(own: CoordinatorProcess, channel: grpc.Channel) -> None:
    # Given a store that stands still, and a client that sends what it can: entries of 3 MiB each.
    metadata = {"a": '"' + "x" * (3 * MIB) + '"'}
    first = opening(own, "stuck")
    sent = 0

    def endless() -> Iterator[pb.AppendRequest]:
        nonlocal sent
        yield first
        assert opened.wait()
        for seq in range(1, 100):
            sent = seq
            yield pb.AppendRequest(entry=pb.Entry(seq=seq, commit=pb.Commit(step=seq, metadata=metadata)))

    opened = threading.Event()
    call = metrics_pb2_grpc.MetricServiceStub(channel).Append(endless(), timeout=60)
    assert next(call).HasField("opened")
    before = resident_mib(own)
    store = own.store_pid
    os.kill(store, signal.SIGSTOP)
    try:
        opened.set()
        with Highest(own) as sampling, pytest.raises(grpc.RpcError) as caught:
            list(call)  # until the coordinator gives the store up
    finally:
        os.kill(store, signal.SIGCONT)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    # Then it had been held back: what was on its way are the 16 MiB of a stream, and what gRPC's windows hold.
    assert sent < 40
    assert sampling.mib - before < 150


def test_connections_that_say_nothing(own: CoordinatorProcess, channel: grpc.Channel) -> None:
    host, _, port = own.address.rpartition(":")
    before = resident_mib(own)
    with ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(socket.create_connection((host, int(port))))
        stub = metrics_pb2_grpc.MetricServiceStub(channel)
        assert stub.GetLimits(pb.GetLimitsRequest(project="p"), timeout=20).limits.run_points
        assert resident_mib(own) - before < 100
