"""A run's log on its way to the coordinator: what `LogThread` takes goes through a `Sender`."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Sequence

import grpc

from runlease.appendstream import AppendStream
from runlease.buffer import WriterSettings
from runlease.channel import give_up
from runlease.durable import Durable
from runlease.exceptions import RunleaseError
from runlease.ids import MAIN_WRITER
from runlease.logthread import LogThread
from runlease.sender import Sender, Stopped
from runlease.spool.writing import Spool
from runlease.stats import Stats
from runlease.v1 import metrics_pb2 as pb
from runlease.v1 import metrics_pb2_grpc, runs_pb2

__all__ = ["Durable", "LogWriter", "Stats", "WriterSettings"]


class LogWriter(LogThread):
    """One writer's log: takes rows, commits and rewinds, and gets them to the coordinator once and in order.

    Guarantees: what is acknowledged is in the coordinator's log, once, after everything logged before it; with a
    spool, what is not is on disk when the writer ends, within the spool's bound. Not guaranteed without one: what is
    left when the lease is lost or the writer is closed is lost; `stats` counts it.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        project: str,
        run_id: str,
        fence: int,
        *,
        writer: str = MAIN_WRITER,
        settings: WriterSettings | None = None,
        rank_ticket: str = "",
        on_stale: Callable[[RunleaseError], None] | None = None,
        on_unconfirmed: Callable[[], None] | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        start: bool = True,
        clock: Callable[[], float] = time.monotonic,
        spool: Spool | None = None,
        session: str = "",
    ) -> None:
        """Take the writer's place; it connects when something is logged (see `WriterSettings.stays_connected`).

        Args:
            channel: to the coordinator; stays the caller's.
            project: the run's project.
            run_id: the run's ID.
            fence: the fence of the grant that it writes under.
            writer: the writer's name.
            rank_ticket: lets a member of the holder's group write; '' for the holder.
            settings: pace and bounds.
            on_stale: called once, on the writer's thread, when the writer may never write again.
            on_unconfirmed: called on the writer's thread where the lease has to be renewed before it may go on.
            metadata: of every call, such as credentials.
            start: whether to start the thread now; else `start` does.
            clock: seconds, monotonic.
            spool: the disk for what finds no room and what is left; None: there is none.
            session: the session that the spool's header names; '' makes one.
        """
        self._channel = channel
        self._stub = metrics_pb2_grpc.MetricServiceStub(channel)
        self._opening = pb.OpenWriter(
            run=runs_pb2.RunRef(project=project, id=run_id),
            fence=fence,
            writer=writer,
            session=session or secrets.token_hex(16),
            rank_ticket=rank_ticket,
        )
        self._metadata = tuple(metadata)
        name, settings = f"{project}/{run_id}", settings or WriterSettings()
        self._sender = Sender(self._open_stream, name, settings, clock(), spool, on_unconfirmed)
        super().__init__(name, self._sender, settings=settings, spool=spool, on_stale=on_stale, clock=clock)
        if start:
            self.start()

    def start(self) -> None:
        """Start the thread that sends."""
        if self._settings.stays_connected:  # here, not on the thread: the process may end before its first turn
            with contextlib.suppress(Stopped):  # the thread meets it again, and tells
                self._sender.connect(self._clock())
        super().start()

    def _open_stream(self) -> AppendStream:
        wait_for_ready = self._settings.stays_connected
        try:
            return AppendStream(self._stub, self._opening, self._metadata, self._deliver, wait_for_ready=wait_for_ready)
        except RuntimeError:  # no thread can be started: the interpreter is ending, or the system has no more
            give_up(self._channel)
            raise
