"""How a writer ends: closed, abandoned, forked, or while others still log."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from runlease.exceptions import (
    RunleaseError,
    StaleFence,
)
from runlease.spool.writing import Spool
from runlease.writer import LogWriter, WriterSettings

from tests.support.logserver import LogServer
from tests.support.spools import header
from tests.support.wait import until
from tests.support.writers import LONG, log_steps, own_threads, steps_of


def test_close_sends_the_rest_and_ends_stream_and_threads(make: Callable[..., LogWriter], server: LogServer) -> None:
    writer = make(WriterSettings(drain_interval_s=3600.0))
    log_steps(writer, 0, 1)
    assert writer.close(LONG)
    assert steps_of(server.log) == [0, 1]
    until(lambda: not own_threads())
    until(lambda: server.clean_ends == 1)
    assert writer.close(LONG)
    log_steps(writer, 2)
    assert (writer.stats().lost, writer.stats().acknowledged) == (1, 2)


@pytest.mark.parametrize("away", ["stopped", "frozen"])
def test_close_is_bounded_and_says_what_was_left(away: str, make: Callable[..., LogWriter], server: LogServer) -> None:
    if away == "stopped":
        server.stop()
    server.fate = lambda entry: "freeze"
    writer = make()
    log_steps(writer, 0)
    durable = writer.commit(0, "/c", {})
    assert not writer.close(0.2)
    with pytest.raises(RunleaseError, match="closed"):
        durable.wait(LONG)
    until(lambda: not own_threads())
    assert (writer.stats().lost, writer.stats().buffered) == (1, 0)


def test_abandon_stops_at_once_and_tells_those_who_wait(make: Callable[..., LogWriter], server: LogServer) -> None:
    server.fate = lambda entry: "mute"
    writer, error = make(), StaleFence("the lease is lost")
    log_steps(writer, 0)
    durable = writer.commit(0, "/c", {})
    assert server.came.wait(LONG)
    waiting = threading.Thread(target=writer.flush)
    waiting.start()
    writer.abandon(error)
    waiting.join(LONG)
    assert not waiting.is_alive()
    with pytest.raises(StaleFence):
        durable.wait(LONG)
    until(lambda: not own_threads())
    log_steps(writer, 1)
    assert writer.stats().lost == 2


def test_what_waits_for_the_thread_at_an_abandon_goes_to_the_disk(
    make: Callable[..., LogWriter], server: LogServer, tmp_path: Path
) -> None:
    server.fate = lambda entry: "mute"
    writer = make(spool=Spool(tmp_path, header()))
    log_steps(writer, *range(700))  # fewer than ring its bell
    writer.abandon(StaleFence("the lease is lost"))
    writer.leave()
    stats = writer.stats()
    assert (stats.spooled, stats.lost) == (700, 0)


FORK = """
import os, sys
import grpc
from runlease.writer import LogWriter

writer = LogWriter(grpc.insecure_channel(sys.argv[1]), "p", "r", 7)
writer.log(0, 1e9, ("loss",), (0.5,))
assert writer.flush(20)
child = os.fork()
if child == 0:
    writer.abandon()
    writer.log(1, 1e9, ("loss",), (0.5,))
    writer.commit(1, "/c", {})
    fine = not writer.flush(20) and not writer.close(20) and writer.stats().acknowledged == 1
    os._exit(7 if fine else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
writer.log(2, 1e9, ("loss",), (0.5,))
assert writer.close(20)
"""


def test_a_forked_childs_copy_does_nothing_and_the_parents_goes_on(server: LogServer) -> None:
    environment = os.environ | {"GRPC_ENABLE_FORK_SUPPORT": "0"}
    subprocess.run([sys.executable, "-c", FORK, server.address], check=True, timeout=60, env=environment)
    assert steps_of(server.log) == [0, 2]


def test_an_end_while_others_log_keeps_the_books(make: Callable[..., LogWriter], server: LogServer) -> None:
    writer, stop, pause = make(), threading.Event(), threading.Event()
    counted = 0

    def work() -> None:
        nonlocal counted
        while not stop.is_set():
            log_steps(writer, *range(counted, counted + 50))
            counted += 50
            pause.wait(0.001)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: writer.stats().acknowledged > 0)
    writer.close(LONG)
    until(lambda: writer.stats().lost > 0)
    stop.set()
    thread.join()
    stats = writer.stats()
    assert stats.logged == counted == stats.acknowledged + stats.lost
    # What was in flight at the end may have arrived, though nobody was told.
    arrived = steps_of(server.log)
    assert arrived == list(range(len(arrived)))
    assert stats.acknowledged <= len(arrived) <= stats.logged
