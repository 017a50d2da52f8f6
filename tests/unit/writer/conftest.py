"""A log server, and writers that log to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest
from runlease.channel import close_channel
from runlease.writer import LogWriter, WriterSettings

from tests.support.logserver import LogServer
from tests.support.wait import until
from tests.support.writers import FAST, own_threads


@pytest.fixture
def server() -> Iterator[LogServer]:
    server = LogServer().start()
    yield server
    server.stop()


@pytest.fixture
def make(server: LogServer) -> Iterator[Callable[..., LogWriter]]:
    """Make writers on the server; no thread of theirs may outlive the test."""
    channels: list[grpc.Channel] = []
    writers: list[LogWriter] = []

    def make(settings: WriterSettings = FAST, **arguments: object) -> LogWriter:
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]
        channels.append(grpc.insecure_channel(server.address, options=options))
        writer = LogWriter(channels[-1], "p", "r", 7, settings=settings, **arguments)
        writers.append(writer)
        return writer

    yield make
    for writer in writers:
        writer.abandon()
    until(lambda: not own_threads(), every_s=0.005)
    for channel in channels:
        close_channel(channel)
