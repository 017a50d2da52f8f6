"""Runs a coordinator as a process: event loop, signals, the line that says that it serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable

from runlease_coordinator.bootstrap import Coordinator, describe_store
from runlease_coordinator.logs import set_up_logs
from runlease_coordinator.memory import search_cycles_seldom, use_one_allocator
from runlease_coordinator.settings import Settings

log = logging.getLogger(__name__)

#: Open files that a coordinator makes use of at most.
_FILES = 65_536


def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain and stop.

    Args:
        settings: checked settings.
        announce: gets one line with the addresses once the coordinator serves.

    Raises:
        StartupError: it cannot start; the message holds the remedy.
    """
    set_up_logs(settings.log_level, settings.log_format)
    use_one_allocator()
    if sys.platform == "win32":
        asyncio.run(_serve(settings, announce))
        return
    _raise_file_limit()
    import uvloop

    uvloop.run(_serve(settings, announce))


def _raise_file_limit() -> None:
    """Allow as many open files as the system does without asking: a shell's 1024 are used up by some hundred clients.

    Each client has a connection for renewals and another one.
    """
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(settings: Settings, announce: Callable[[str], None]) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    coordinator = Coordinator(settings)
    await coordinator.start()
    search_cycles_seldom()
    announce(f"runlease: serving on {coordinator.address} ({describe_store(settings, settings.data_dir)})")
    await stopping.wait()
    log.info("draining")
    await coordinator.stop()
