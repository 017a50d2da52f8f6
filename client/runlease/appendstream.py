"""One Append call: requests out and replies in, each on a thread, so that its owner never waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

import grpc

from runlease.v1 import metrics_pb2 as pb
from runlease.v1 import metrics_pb2_grpc


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The last thing that comes back: how the call ended; without an error the coordinator ended it."""

    error: grpc.RpcError | None


Reply = pb.AppendResponse | StreamEnd


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
    ) -> None:
        """Start the call; ``deliver`` gets its replies on the reader thread.

        Raises:
            ValueError: the channel is closed.
            RuntimeError: the interpreter is ending and starts no more threads.
        """
        self._deliver = deliver
        self._ended = threading.Event()
        self._requests: SimpleQueue[pb.AppendRequest | None] = SimpleQueue()
        self._requests.put(pb.AppendRequest(open=opening))
        self._call = stub.Append(iter(self._requests.get, None), metadata=tuple(metadata))
        try:
            threading.Thread(target=self._read, name="runlease-acks", daemon=True).start()
        except RuntimeError:
            self.cancel()
            raise

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

    def _read(self) -> None:
        error: grpc.RpcError | None = None
        try:
            for reply in self._call:
                self._deliver(self, reply)
        except grpc.RpcError as raised:
            error = raised
        finally:
            self._requests.put(None)
            self._ended.set()
            self._deliver(self, StreamEnd(error))
