"""One Append call: requests out and replies in, each on a thread, so that its owner never waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import grpc

from runlease.v1 import metrics_pb2 as pb
from runlease.v1 import metrics_pb2_grpc


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The last thing that comes back: how the call ended; without an error the coordinator ended it."""

    error: grpc.RpcError | None


Reply = pb.AppendResponse | StreamEnd


@dataclass(frozen=True, slots=True)
class _HalfStarted:
    """A call whose threads could not all be started, and its channel.

    gRPC closes a channel that nobody refers to, and waits for ever for this call then. So a thread that never ends
    refers to it; as a daemon it holds up nobody.
    """

    stub: metrics_pb2_grpc.MetricServiceStub


class AppendStream:
    """An open call; its methods do not block.

    gRPC's own thread takes the requests from a queue; it stands still where flow control says so, and ends with
    the call. A reader thread hands on the replies and, at last, the end.
    """

    def __init__(
        self,
        stub: metrics_pb2_grpc.MetricServiceStub,
        opening: pb.OpenWriter,
        metadata: Sequence[tuple[str, str]],
        deliver: Callable[[AppendStream, Reply], None],
        *,
        wait_for_ready: bool = False,
    ) -> None:
        """Start the call; ``deliver`` gets its replies on the reader thread.

        While there is no connection the call waits for one (``wait_for_ready``) or fails.

        Raises:
            ValueError: the channel is closed.
            RuntimeError: the interpreter is ending and starts no more threads, or the system has no more. From now
                on the channel must not be closed: see `runlease.channel.give_up`.
        """
        self._deliver = deliver
        self._ended = threading.Event()
        self._requests: SimpleQueue[pb.AppendRequest | None] = SimpleQueue()
        self._requests.put(pb.AppendRequest(open=opening))
        # First the thread, then the call: an interpreter that is ending refuses the one before gRPC begins the other.
        handover: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=self._read, args=(handover,), name="runlease-acks", daemon=True).start()
        requests = iter(self._requests.get, None)
        try:
            self._call = stub.Append(requests, metadata=tuple(metadata), wait_for_ready=wait_for_ready)
        except RuntimeError:
            handover.put(_HalfStarted(stub))
            raise
        except BaseException:  # the thread waits for something in any case
            handover.put(())  # a call without answers
            raise
        handover.put(self._call)

    def send(self, request: pb.AppendRequest) -> None:
        """Queue a request; the owner's window bounds the queue."""
        self._requests.put(request)

    def finish(self, timeout_s: float) -> None:
        """Say that nothing more comes, and wait at most ``timeout_s`` seconds for the coordinator's end."""
        self._requests.put(None)
        self._ended.wait(timeout_s)

    def cancel(self) -> None:
        """End the call and its threads at once."""
        self._call.cancel()
        self._requests.put(None)

    def _read(self, handover: SimpleQueue[Any]) -> None:
        call = handover.get()
        if isinstance(call, _HalfStarted):
            handover.get()  # for ever
        error: grpc.RpcError | None = None
        try:
            for reply in call:
                self._deliver(self, reply)
        except grpc.RpcError as raised:
            error = raised
        finally:
            self._requests.put(None)
            self._ended.set()
            self._deliver(self, StreamEnd(error))
