"""Histories on the wire: requests into queries, series into messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from hashlib import sha256

from runlease.ids import MAIN_WRITER
from runlease.v1 import metrics_pb2 as pb

from runlease_coordinator.domain.errors import InvalidField
from runlease_coordinator.domain.metrics import LogPosition, Series
from runlease_coordinator.history.pages import Place, continued, token_of
from runlease_coordinator.history.reads import HistoryReader, Query
from runlease_coordinator.history.selection import KeyFilter
from runlease_coordinator.rpc import fields
from runlease_coordinator.rpc.entries import MAX_KEY

#: Points of one message: about 1 MB.
_POINTS_A_MESSAGE = 32_768
MAX_PATTERNS = 64


async def answers(reader: HistoryReader, request: pb.HistoryRequest) -> AsyncGenerator[pb.HistoryResponse]:
    """Answer a request: messages of one series each, then one that says where the log ended or the page goes on.

    Raises:
        InvalidField, RunNotFound, RunIdCollision, Unavailable.
    """
    name = fields.run_name(request.run)
    query, asked = query_of(request), _fingerprint(request)
    moment = await reader.moment(*name)
    start: Place | None = None
    if request.page_token:
        moment, start = continued(moment, asked, request.page_token)
    pages = _Pages(request.page_points, start)
    turn: list[Series] = []
    points = 0
    async with aclosing(reader.series(moment, query, start)) as found:
        async for series in found:
            for part in pages.cut(series):
                if isinstance(part, Series):
                    turn.append(part)
                    points += len(part)
                    if points < _POINTS_A_MESSAGE:
                        continue
                for message in await reader.workers.run(_messages, turn, request.packed):
                    yield message
                turn, points = [], 0
                if isinstance(part, Place):
                    yield pb.HistoryResponse(next_page_token=token_of(moment, asked, part))
                    if not request.stream_pages:
                        return
    for message in _messages(turn, request.packed):
        yield message
    yield pb.HistoryResponse(cursor=str(moment.position))


def query_of(request: pb.HistoryRequest) -> Query:
    """Check a request.

    Raises:
        InvalidField: naming the field at fault.
    """
    if len(request.key_patterns) > MAX_PATTERNS:
        raise InvalidField("key_patterns", f"at most {MAX_PATTERNS}, not {len(request.key_patterns)}")
    for index, pattern in enumerate(request.key_patterns):
        if not 0 < len(pattern) <= MAX_KEY:
            raise InvalidField(f"key_patterns[{index}]", f"1..{MAX_KEY} characters, not {len(pattern)}")
    return Query(
        writers=frozenset(fields.writer_name(w, "writers") for w in request.writers) or frozenset((MAIN_WRITER,)),
        keys=KeyFilter(request.keys, request.key_patterns),
        min_step=fields.step(request.min_step, "min_step") if request.HasField("min_step") else None,
        max_step=fields.step(request.max_step, "max_step") if request.HasField("max_step") else None,
        superseded=request.superseded,
        max_points=request.max_points,
        after=_after(request),
    )


def _after(request: pb.HistoryRequest) -> LogPosition | None:
    if not request.after:
        return None
    for field in ("superseded", "max_points"):
        if getattr(request, field):
            raise InvalidField(field, "not together with after, which reads what came in, in its order")
    try:
        return LogPosition.parse(request.after)
    except ValueError:
        raise InvalidField("after", "it is no position of a log: give the cursor of an earlier read") from None


def _fingerprint(request: pb.HistoryRequest) -> str:
    """Return what stands for all that a request asks for, but how its pages are cut and packed."""
    asked = pb.HistoryRequest()
    asked.CopyFrom(request)
    for field in ("page_points", "page_token", "packed", "stream_pages"):
        asked.ClearField(field)
    return sha256(asked.SerializeToString(deterministic=True)).hexdigest()[:24]


class _Pages:
    """Cuts series into what fits a message, and tells where a page is full and something more is there."""

    def __init__(self, page_points: int, start: Place | None) -> None:
        self._page_points, self._start = page_points, start
        self._room = page_points
        self._last: Place | None = None

    def cut(self, series: Series) -> Iterator[Series | Place]:
        """Yield the parts of a series, and between them the places where pages begin."""
        before = 0
        if self._start is not None and (series.key, series.writer) == self._start[:2]:
            before = self._start.given
        at = 0
        while at < len(series):
            size = min(_POINTS_A_MESSAGE, len(series) - at)
            if self._page_points:
                if not self._room and self._last is not None:
                    yield self._last
                    self._room = self._page_points
                size = min(size, self._room)
                self._room -= size
            part = series.take(slice(at, at + size))
            at += size
            self._last = Place(series.key, series.writer, before + at, int(part.steps[-1]))
            yield part


def _messages(parts: Iterable[Series], packed: bool) -> Sequence[pb.HistoryResponse]:
    return [_packed(part) if packed else _plain(part) for part in parts]


def _packed(part: Series) -> pb.HistoryResponse:
    return pb.HistoryResponse(
        key=part.key,
        writer=part.writer,
        packed_steps=part.steps.astype("<i8", copy=False).tobytes(),
        packed_values=part.values.astype("<f8", copy=False).tobytes(),
        packed_times=part.times.astype("<f8", copy=False).tobytes(),
        packed_attempts=part.attempts.astype("<u4", copy=False).tobytes(),
        superseded=() if part.superseded is None else part.superseded.tolist(),
        nan_in_bucket=() if part.nan_in_bucket is None else part.nan_in_bucket.tolist(),
    )


def _plain(part: Series) -> pb.HistoryResponse:
    return pb.HistoryResponse(
        key=part.key,
        writer=part.writer,
        steps=part.steps.tolist(),
        values=part.values.tolist(),
        times=part.times.tolist(),
        attempts=part.attempts.tolist(),
        superseded=() if part.superseded is None else part.superseded.tolist(),
        nan_in_bucket=() if part.nan_in_bucket is None else part.nan_in_bucket.tolist(),
    )
