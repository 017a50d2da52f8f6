"""MetricService: the Append stream in order, reads of the history."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import grpc.aio
from runlease.ids import MAIN_WRITER
from runlease.v1 import metrics_pb2 as pb
from runlease.v1 import metrics_pb2_grpc

from runlease_coordinator.domain.errors import InvalidField, Unavailable
from runlease_coordinator.domain.metrics import Writer
from runlease_coordinator.domain.tickets import Tickets
from runlease_coordinator.history.reads import HistoryReader
from runlease_coordinator.rpc import entries, history
from runlease_coordinator.rpc.intake import Intake, StreamIntake
from runlease_coordinator.rpc.limits import change_of, limits_message, owner_of
from runlease_coordinator.store.limits import LimitStore
from runlease_coordinator.store.metrics import Appended, Full, Gap, MetricStore, Throttled

_Context = grpc.aio.ServicerContext[Any, Any]
_Answers = asyncio.Queue["asyncio.Task[pb.AppendResponse] | None"]
#: Entries of one stream on their way to the store; beyond it the stream is not read (gRPC's flow control takes over).
_IN_FLIGHT = 64
#: A stream that opens no writer for so long is ended, in seconds.
FIRST_MESSAGE_S = 30.0
#: Names that are remembered of a stream; beyond it they are told again.
_KNOWN_NAMES = 4096
_MAX_UINT32 = 2**32 - 1


class MetricService(metrics_pb2_grpc.MetricServiceServicer):
    """Translates; the append script decides."""

    def __init__(self, metrics: MetricStore, limits: LimitStore, history: HistoryReader, tickets: Tickets) -> None:
        """Take the operations of logs and limits, the reader of histories, and the members' tickets."""
        self._limits = limits
        self._tickets = tickets
        self._metrics = metrics
        self._history = history
        self._intake = Intake()
        self._readers: set[asyncio.Task[None]] = set()
        self._draining = False

    async def Append(
        self, request_iterator: AsyncIterator[pb.AppendRequest], context: _Context
    ) -> AsyncIterator[pb.AppendResponse]:
        """Take in a writer's log; answers come in its order, one acknowledgement may cover many entries."""
        first = await _first(request_iterator)
        if first is None:
            return
        if first.WhichOneof("message") != "open":
            raise InvalidField("open", "the first message of a stream names its writer")
        writer = entries.open_writer(first.open, self._tickets)
        position = await self._metrics.open_writer(writer)
        yield pb.AppendResponse(opened=pb.Opened(seq=position.seq, segment=position.segment, written=position.written))
        answers = _Answers(_IN_FLIGHT)
        reader = asyncio.create_task(self._read(request_iterator, writer, position.fence, answers))
        self._readers.add(reader)
        try:
            async for answer in _merged(answers):
                yield answer
            if self._draining:
                raise Unavailable("DRAINING", "the coordinator is shutting down")
            await reader
        finally:
            self._readers.discard(reader)
            while not answers.empty():  # also lets a reader that waits for a place end
                if task := answers.get_nowait():
                    _drop(task)
            _drop(reader)

    def drain(self) -> None:
        """End all streams once what they have sent is answered; their writers go on elsewhere, or later."""
        self._draining = True
        for reader in self._readers:
            reader.cancel()

    async def _read(
        self, requests: AsyncIterator[pb.AppendRequest], writer: Writer, fence: int, answers: _Answers
    ) -> None:
        intake, names = self._intake.stream(), Names()
        try:
            async for request in requests:
                if request.WhichOneof("message") != "entry":
                    raise InvalidField("entry", "only the first message of a stream opens its writer")
                size = request.ByteSize()
                await intake.enter(size)
                # Tasks start in the order of their creation, so the store sees the entries in the stream's order.
                task = asyncio.create_task(self._append(writer, fence, request.entry, names))
                task.add_done_callback(partial(_leave, intake, size))
                await answers.put(task)
        finally:
            await answers.put(None)

    async def _append(self, writer: Writer, fence: int, message: pb.Entry, names: Names) -> pb.AppendResponse:
        fault: InvalidField | None = None
        try:
            entry = entries.entry_of(message, fence, may_end=bool(writer.attempt) and writer.name == MAIN_WRITER)
        except InvalidField as error:
            fault, entry = error, entries.void_entry(message)
        if fault is None and message.HasField("points"):
            entry = replace(entry, names=names.unknown(series.key for series in message.points.series))
        outcome = await self._metrics.append(writer, entry)
        if isinstance(outcome, Throttled):
            return pb.AppendResponse(throttle=_throttle(message.seq, outcome))
        if isinstance(outcome, Appended):
            names.learn(entry.names)
        elif isinstance(outcome, Full):
            fault = InvalidField(outcome.field, outcome.what)
        elif isinstance(outcome, Gap):
            fault = InvalidField("entry.seq", f"expected {outcome.seq + 1}, not {message.seq}")
        if fault is None:
            return pb.AppendResponse(ack=pb.Ack(seq=message.seq))
        return pb.AppendResponse(
            rejected=pb.Rejected(
                seq=message.seq, field=fault.field, description=fault.description, expected_seq=outcome.seq + 1
            )
        )

    async def History(self, request: pb.HistoryRequest, context: _Context) -> AsyncIterator[pb.HistoryResponse]:
        """Read a history, one series after the other."""
        async for message in history.answers(self._history, request):
            yield message

    async def GetLimits(self, request: pb.GetLimitsRequest, context: _Context) -> pb.GetLimitsResponse:
        """Read the rate limits in force."""
        owner = owner_of(request.project, request.id)
        return pb.GetLimitsResponse(limits=limits_message(await self._limits.get(*owner)))

    async def SetLimits(self, request: pb.SetLimitsRequest, context: _Context) -> pb.SetLimitsResponse:
        """Set some rate limits; those in force come back."""
        owner = owner_of(request.project, request.id)
        limits = await self._limits.set(*owner, change_of(request.limits, of_run=bool(request.id)))
        return pb.SetLimitsResponse(limits=limits_message(limits))


async def _first(requests: AsyncIterator[pb.AppendRequest]) -> pb.AppendRequest | None:
    try:
        async with asyncio.timeout(FIRST_MESSAGE_S):
            return await anext(aiter(requests), None)
    except TimeoutError:
        message = f"no message came within {FIRST_MESSAGE_S:g} s: open the stream again"
        raise Unavailable("SILENT_CLIENT", message) from None


def _leave(intake: StreamIntake, size: int, task: asyncio.Task[pb.AppendResponse]) -> None:
    intake.leave(size)


class Names:
    """Names that the store is known to have counted for a stream's run: most batches have those of the one before."""

    def __init__(self) -> None:
        """Know none."""
        self._known: set[str] = set()

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Return those that the store has to be told."""
        return [name for name in names if name not in self._known]

    def learn(self, names: Sequence[str]) -> None:
        """Note that the store has counted them."""
        if len(self._known) + len(names) > _KNOWN_NAMES:
            self._known.clear()
        self._known.update(names)


def _throttle(seq: int, outcome: Throttled) -> pb.Throttle:
    return pb.Throttle(
        seq=seq,
        limited=outcome.limited,
        limit=outcome.limit,
        remaining=outcome.remaining,
        retry_after_ms=min(outcome.retry_after_us // 1000 + 1, _MAX_UINT32),
        reset_ms=min(outcome.reset_us // 1000 + 1, _MAX_UINT32),
    )


def _drop(task: asyncio.Task[Any]) -> None:
    """End a task whose outcome nobody waits for; asyncio would complain of an error that nobody looked at."""
    if not task.done():
        task.cancel()
    elif not task.cancelled():
        task.exception()


async def _merged(answers: _Answers) -> AsyncIterator[pb.AppendResponse]:
    """Yield the answers in order; of acknowledgements that wait together only the last.

    Entries that were under way behind a throttled one are gaps that their writer did not make: they get no answer.
    """
    held: pb.AppendResponse | None = None
    throttled = 0
    while (task := await answers.get()) is not None:
        answer = await task
        kind = answer.WhichOneof("message")
        if kind == "throttle":
            throttled = answer.throttle.seq
        elif kind == "ack" and answer.ack.seq >= throttled:
            throttled = 0
        elif kind == "rejected" and throttled and answer.rejected.expected_seq == throttled < answer.rejected.seq:
            continue  # the throttle went out at once, so no acknowledgement is held back here
        if held is not None and kind != "ack":
            yield held
        held = answer
        if answers.empty() or kind != "ack":
            yield answer
            held = None
    if held is not None:
        yield held
