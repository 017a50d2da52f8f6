"""A buffer under test: what is put in, and its way to a log that decides as the coordinator does."""

from __future__ import annotations

from collections import deque

from runlease.buffer import Buffer, Item, Mark
from runlease.columns import Row
from runlease.durable import Durable
from runlease.exceptions import InvalidArgument
from runlease.v1 import metrics_pb2 as pb

from tests.support.logserver import WriterLog

KEYS = ("loss", "acc", "lr")
REFUSAL = InvalidArgument("refused by the test")


def row(step: int, *keys: str, value: float = 0.5) -> Row:
    return step, 1e9 + step, keys, tuple(value + i for i in range(len(keys)))


def put(buffer: Buffer, *items: Item) -> None:
    buffer.take_in(deque(items))


def commit(step: int) -> Mark:
    return Mark(pb.Commit(step=step, uri=f"/c/{step}", metadata={"a": "1"}), Durable())


def rewind(step: int) -> Mark:
    return Mark(pb.Rewind(step=step))


def requests(buffer: Buffer) -> list[pb.Entry]:
    return [request.entry for request in iter(buffer.next_request, None)]


def deliver_all(buffer: Buffer, log: WriterLog) -> None:
    """Open, send and acknowledge until nothing is left."""
    buffer.opened(log.seq, log.segment, log.written)
    while not buffer.empty:
        entries = requests(buffer)
        assert entries, "nothing may be sent, yet something waits"
        for entry in entries:
            hear(buffer, log.take(entry))


def hear(buffer: Buffer, answer: pb.AppendResponse) -> None:
    if answer.WhichOneof("message") == "ack":
        buffer.acknowledge(answer.ack.seq)
    else:
        assert answer.rejected.expected_seq == answer.rejected.seq + 1, "a gap"
        buffer.reject(answer.rejected.seq, REFUSAL)
