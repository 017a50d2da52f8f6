"""Threads for what waits on disks and networks: an archive that hangs holds up neither reads nor the process's end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Threads:
    """A bounded number of daemon threads, one a call: a process's end would wait for those of an executor."""

    def __init__(self, name: str, at_most: int) -> None:
        """Take a name for the threads and how many there may be at once."""
        self._name = name
        self._free = asyncio.Semaphore(at_most)

    async def run(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a call in a thread; a caller that is cancelled leaves at once, the call goes on by itself."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            self._free.release()
            if done.cancelled():
                return
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        def work() -> None:
            result, error = None, None
            try:
                result = call(*args, **kwargs)
            except BaseException as raised:  # told to the caller, whatever it is
                error = raised
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, result, error)

        await self._free.acquire()
        threading.Thread(target=work, name=self._name, daemon=True).start()
        return await done
