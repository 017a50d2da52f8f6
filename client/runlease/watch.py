"""The audit log as an iterator: it goes on where a broken stream ended, and neither loses nor repeats an event."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import grpc
import tenacity

from runlease.channel import wait_for_coordinator
from runlease.exceptions import CoordinatorUnavailable, RunleaseError
from runlease.records import Event, event_of
from runlease.status import error_from
from runlease.v1 import runs_pb2

#: Position before all events that are kept.
FROM_THE_START = "*=0-0"


class EventStream(Iterator[Event]):
    """Events, oldest first within a project; ends once it, or its client, is closed.

    Closing it from another thread ends an iteration that waits. ``cursor`` is the position behind the last event that
    was returned, and moves on without events, too.
    """

    def __init__(
        self,
        watch: Callable[..., Any],
        request: runs_pb2.WatchRequest,
        *,
        address: str,
        metadata: Sequence[tuple[str, str]],
        timeout_s: float,
        follow: bool,
        on_broken: Callable[[RunleaseError], None] | None = None,
    ) -> None:
        """Open the stream: what happens from now on is seen.

        Args:
            watch: the stub's method.
            request: names project and run; ``after`` where to begin.
            address: the coordinator's, to name in errors.
            metadata: sent with the call.
            timeout_s: how long to try to open it; a stream that breaks later is opened again for ever.
            follow: False ends it with the last event that there is.
            on_broken: called with the reason when a stream breaks, before it is opened again.

        Raises:
            RunleaseError: as `runlease.status` tells.
        """
        self._watch, self._request = watch, request
        self._address, self._metadata = address, tuple(metadata)
        self._follow, self._on_broken = follow, on_broken
        self._closed = threading.Event()
        self._ready: deque[Event] = deque()
        self._call: Any = None
        self.cursor = request.after
        self._open(tenacity.stop_after_delay(timeout_s))

    def __enter__(self) -> EventStream:
        """Return the stream."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream."""
        self.close()

    def close(self) -> None:
        """End the iteration."""
        self._closed.set()
        if self._call is not None:
            self._call.cancel()

    def __next__(self) -> Event:
        """Return the next event; waits for it.

        Raises:
            StopIteration: the stream was closed, or, not following, there is no more.
            RunleaseError: the coordinator refuses to go on.
        """
        while not self._ready:
            if self._closed.is_set():
                raise StopIteration
            try:
                self._take(self._receive(self._call))
            except CoordinatorUnavailable as error:
                if not self._closed.is_set():
                    if self._on_broken is not None:
                        self._on_broken(error)
                    self._open(tenacity.stop_never)
        event = self._ready.popleft()
        self.cursor = event.cursor
        return event

    def _open(self, stop: Any) -> None:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(CoordinatorUnavailable) & _unless(self._closed),
            stop=stop,
            wait=wait_for_coordinator,
            sleep=tenacity.sleep_using_event(self._closed),
            reraise=True,
        )
        try:
            retrying(self._open_once)
        except CoordinatorUnavailable:
            if not self._closed.is_set():
                raise

    def _open_once(self) -> None:
        self._request.after = self.cursor
        try:
            self._call = self._watch(self._request, metadata=self._metadata)
        except ValueError as error:  # the channel was closed
            self._closed.set()
            raise CoordinatorUnavailable("the client was closed") from error
        self._take(self._receive(self._call))  # an event, or a sign of life: from here on nothing is missed

    def _receive(self, call: Any) -> runs_pb2.WatchResponse:
        try:
            response: runs_pb2.WatchResponse | None = next(call, None)
        except grpc.RpcError as error:
            raise error_from(error, coordinator=self._address) from None
        if response is None:
            raise CoordinatorUnavailable(f"the coordinator at {self._address} ended the stream")
        return response

    def _take(self, response: runs_pb2.WatchResponse) -> None:
        if response.HasField("event"):
            self._ready.append(event_of(response.event, response.cursor))
            return
        self.cursor = response.cursor
        if not self._follow:
            self._closed.set()
            self._call.cancel()


def _unless(closed: threading.Event) -> Any:
    return tenacity.retry_if_exception(lambda error: not closed.is_set())
