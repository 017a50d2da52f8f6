"""A writer under test: settings that make it quick, what is logged with it, what becomes of its entries."""

from __future__ import annotations

import threading
from collections.abc import Callable

from runlease.v1 import metrics_pb2 as pb
from runlease.writer import LogWriter, WriterSettings

from tests.support.logserver import Fate, WriterLog

FAST = WriterSettings(
    drain_interval_s=0.02, backoff_min_s=0.01, backoff_max_s=0.05, silence_s=5.0, stays_connected=False
)
#: Bound of waits that end long before when all is well, in seconds.
LONG = 20.0


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("runlease-")]


def log_steps(writer: LogWriter, *steps: int) -> None:
    for step in steps:
        writer.log(step, 1e9 + step, ("loss",), (step / 4,))


def steps_of(log: WriterLog) -> list[int]:
    return [row[0] for row in log.rows]


def fates(*first: Fate) -> Callable[[pb.Entry], Fate]:
    """One fate each for the entries that come first, then acknowledge."""
    rest = iter(first)
    return lambda entry: next(rest, "ack")
