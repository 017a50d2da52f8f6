"""A coordinator's end of the Append protocol, for tests: what `append.lua` decides, in Python, behind real gRPC.

`WriterLog` is the log alone; `LogServer` serves one on a loopback port and does to its streams what a test says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import grpc
from runlease.columns import Row
from runlease.v1 import metrics_pb2 as pb
from runlease.v1 import metrics_pb2_grpc

#: What a test lets become of an entry: stored and acknowledged; stored, no answer; stream cut before or after
#: it is stored; refused as malformed; no answer ever again, until the stream ends.
Fate = Literal["ack", "mute", "cut", "cut-after", "refuse", "freeze"]


def rows_of(points: pb.Points) -> list[Row]:
    """Return the rows of a batch; the keys of each in the order of the batch's series."""
    rows: list[list[tuple[str, float]]] = [[] for _ in points.steps]
    for series in points.series:
        for place, value in zip(series.rows or range(len(rows)), series.values, strict=True):
            rows[place].append((series.key, value))
    return [
        (step, time_s, tuple(key for key, _ in row), tuple(value for _, value in row))
        for step, time_s, row in zip(points.steps, points.times, rows, strict=True)
    ]


class WriterLog:
    """The log of one writer under one fence, and the rules by which it takes entries."""

    def __init__(self, seq: int = 0, segment: int = 0, written: bool = False) -> None:
        self.seq, self.segment, self.written = seq, segment, written
        #: Stored entries, without those refused.
        self.entries: list[pb.Entry] = []

    def opened(self) -> pb.Opened:
        return pb.Opened(seq=self.seq, segment=self.segment, written=self.written)

    def take(self, entry: pb.Entry, *, refuse: bool = False) -> pb.AppendResponse:
        """Append an entry, or refuse it as malformed, which uses up its seq; returns the answer."""
        kind = entry.WhichOneof("payload")
        expected = entry.seq - entry.lost.entries if kind == "lost" else entry.seq - 1
        if expected > self.seq:
            return self._rejected(entry, "entry.seq")
        if expected == self.seq and not refuse:
            segment = self.segment + (kind == "rewind" and self.written)
            # The coordinator ends the stream at this; a writer that counts its segments right never sees it.
            assert entry.segment == segment, f"entry {entry.seq} is of segment {entry.segment}, not {segment}"
            self.segment = segment
            self.written = self.written or not (kind == "rewind" or (kind == "lost" and not entry.lost.points))
            self.entries.append(entry)
        self.seq = max(self.seq, entry.seq)
        if refuse:
            return self._rejected(entry, f"entry.points.series[{entry.seq}].key")
        return pb.AppendResponse(ack=pb.Ack(seq=entry.seq))

    def _rejected(self, entry: pb.Entry, field: str) -> pb.AppendResponse:
        text = "as the test says"
        return pb.AppendResponse(
            rejected=pb.Rejected(seq=entry.seq, field=field, description=text, expected_seq=self.seq + 1)
        )

    @property
    def rows(self) -> list[Row]:
        """All rows, in the order of the log."""
        return [row for entry in self.entries for row in rows_of(entry.points)]

    @property
    def story(self) -> list[tuple[Any, ...]]:
        """Rows, commits and rewinds in order, each with its segment."""
        story: list[tuple[Any, ...]] = []
        for entry in self.entries:
            match entry.WhichOneof("payload"):
                case "points":
                    story += [(entry.segment, "row", *row) for row in rows_of(entry.points)]
                case "commit":
                    story.append((entry.segment, "commit", entry.commit.step))
                case "rewind":
                    story.append((entry.segment, "rewind", entry.rewind.step))
        return story


class LogServer(metrics_pb2_grpc.MetricServiceServicer):
    """One writer's log behind a gRPC server on loopback."""

    def __init__(self, log: WriterLog | None = None) -> None:
        self.log = log or WriterLog()
        #: Decides the fate of each entry; called under the lock.
        self.fate: Callable[[pb.Entry], Fate] = lambda entry: "ack"
        #: A status that streams end with at once, or None.
        self.refusal: grpc.StatusCode | None = None
        self.openings: list[pb.OpenWriter] = []
        self.metadata: list[dict[str, str | bytes]] = []
        #: Set whenever an entry has come.
        self.came = threading.Event()
        #: How many streams were ended by the client's half-close.
        self.clean_ends = 0
        self._lock = threading.Lock()
        self._port = self._streams = 0
        self._server: grpc.Server | None = None

    @property
    def idle(self) -> bool:
        """Whether no stream is open."""
        return self._streams == 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> LogServer:
        """Serve; on the same port as before, if there was one."""
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        metrics_pb2_grpc.add_MetricServiceServicer_to_server(self, self._server)
        self._port = self._server.add_insecure_port(self.address)
        assert self._port
        self._server.start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def Append(
        self, request_iterator: Iterator[pb.AppendRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.AppendResponse]:
        with self._lock:
            self._streams += 1
        try:
            yield from self._serve(request_iterator, context)
        finally:
            with self._lock:
                self._streams -= 1

    def _serve(
        self, request_iterator: Iterator[pb.AppendRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.AppendResponse]:
        first = next(request_iterator)
        self.openings.append(first.open)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.refusal is not None:
            context.abort(self.refusal, "as the test says")
        with self._lock:
            opened = self.log.opened()
        yield pb.AppendResponse(opened=opened)
        frozen = False
        for request in request_iterator:
            with self._lock:
                fate = "freeze" if frozen else self.fate(request.entry)
                frozen = fate == "freeze"
                answer = None
                if fate not in ("cut", "freeze"):
                    answer = self.log.take(request.entry, refuse=fate == "refuse")
                self.came.set()
            if fate in ("cut", "cut-after"):
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut, as the test says")
            if answer is not None and fate != "mute":
                yield answer
        self.clean_ends += 1
