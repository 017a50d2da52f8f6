"""The wall clock of a store server, stepped by a test while the server runs: libfaketime in front of its libc.

Only the wall clock: timers go on as they are. What a coordinator or a client reads is not touched. Valkey of the wheel
starts behind it; Debian's Redis 7.0 does not (its allocator asks for the time before libfaketime is ready).

It is the build for threads (`libfaketimeMT`): the other one reads the offset into globals without a lock
(fake_clock_gettime in src/libfaketime.c of github.com/wolfcw/libfaketime), so that of two threads that ask at a time
one may be told the offset of before a step, or none.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def find_faketime() -> Path | None:
    """Return Debian's libfaketime, None where it is not installed."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


class WallClock:
    """A wall clock that is so many seconds off; `environment` gives it to a server."""

    def __init__(self, library: Path) -> None:
        """Go right."""
        handle, name = tempfile.mkstemp(prefix="rlc-", dir="/tmp")
        os.close(handle)
        self._file = Path(name)
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": name,
            "FAKETIME_NO_CACHE": "1",  # else a step shows after 10 s
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.set(0)

    def set(self, ahead_s: float) -> None:
        """Be so many seconds ahead of this machine's clock, or behind it."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{ahead_s:+f}\n")
        fresh.replace(self._file)  # never half written: the server reads it at each look at the time

    def close(self) -> None:
        """Forget it; no server may use it any more."""
        self._file.unlink()
