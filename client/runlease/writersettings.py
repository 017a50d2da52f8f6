"""How a writer paces and bounds itself."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from runlease.batches import BATCH_BYTES, BATCH_POINTS


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterSettings:
    """How a writer paces and bounds itself."""

    drain_interval_s: float = 0.5
    """Seconds that a row waits for others before it is sent."""

    batch_points: int = BATCH_POINTS
    """Points of one entry, at most."""

    batch_bytes: int = BATCH_BYTES
    """Bytes of one entry on the wire, about; a batch that is full is sent at once."""

    buffer_bytes: int = 64 << 20
    """Memory for all that is not acknowledged, in bytes; beyond it entries go to the spool, or the oldest drop."""

    spool_bytes: int = 1 << 30
    """Disk for entries of one session, in bytes; beyond it the oldest drop."""

    keep_s: float = 5.0
    """Seconds for which acknowledged entries are kept, in case that the store loses them."""

    keep_bytes: int = 16 << 20
    """Memory for acknowledged entries, in bytes; commits and rewinds are kept beyond it."""

    window_entries: int = 64
    """Entries in flight, at most."""

    window_bytes: int = 16 << 20
    """Bytes in flight, about."""

    silence_s: float = 10.0
    """Seconds without an answer, while one is due, after which a connection counts as dead."""

    backoff_min_s: float = 0.1
    """Seconds before the first attempt to connect again; doubles up to `backoff_max_s`."""

    backoff_max_s: float = 2.0
    """Seconds between attempts to connect, at most."""

    stays_connected: bool = (3, 12) <= sys.version_info < (3, 12, 3)
    """Whether to connect at once and again after a break, though nothing waits to be sent.

    CPython 3.12.0 to 3.12.2 start no thread once the main thread has come to its end, not even for `atexit` or for
    threads that still run (python/cpython#113964), and a gRPC stream needs threads. There a stream has to be ready
    before, or what is logged last would be lost. All others start threads until the exit hooks are done.
    """
