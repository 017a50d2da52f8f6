"""The clock that leases are judged by."""

from __future__ import annotations

import time

if hasattr(time, "CLOCK_BOOTTIME"):

    def suspend_aware() -> float:
        """Return seconds that go on while the machine sleeps (CLOCK_BOOTTIME): a lease expires meanwhile, too."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:

    def suspend_aware() -> float:
        """Return monotonic seconds; this system has no clock that surely counts its sleep."""
        return time.monotonic()
