"""The threads in which histories are decoded and merged, so that the event loop stays free for renewals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Reads at once that get a processor; others wait their turn, a page at a time.
_THREADS = 2


class Workers:
    """A few threads; NumPy lets go of the interpreter's lock while it computes."""

    def __init__(self) -> None:
        """Start none before there is work."""
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="history")

    async def run(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a call in a thread; a caller that is cancelled leaves at once, and a call not yet started is dropped."""
        return await asyncio.wrap_future(self._pool.submit(call, *args, **kwargs))

    def close(self) -> None:
        """Drop what has not started; what runs ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
