"""What a coordinator does about its memory: what is freed goes back to the system, and little time goes into cycles."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
from collections.abc import Callable

_EVERY_S = 5.0
#: New objects until the young ones are searched for cycles, and how many such searches make one of the next generation.
_SEARCHES = (20_000, 10, 50)


def search_cycles_seldom() -> None:
    """Search fewer objects for cycles, and all of them seldom; what has been loaded by now is never searched.

    Python's own pace looks at every object that lives once their number has grown by a quarter. With thousands of
    streams and calls that end and come again, as behind a failover, that was once a second, for 0.2 to 0.6 s, in which
    nobody was answered. Most of what a call leaves behind goes without a search, or with that of the young.
    """
    gc.freeze()
    gc.set_threshold(*_SEARCHES)


def use_one_allocator() -> None:
    """Let Arrow use malloc, like the rest of this process, unless the environment says otherwise.

    Before pyarrow is imported: its own pools keep what is freed for as long as the process lives.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


async def trim_forever(taken: Callable[[], int]) -> None:
    """Give free memory back every few seconds where something large was held meanwhile, as ``taken`` counts.

    glibc keeps what is freed in arenas that fragment, the more so the larger the blocks are: it learns from each large
    block to keep the next. Resident MiB after each of 60 reads, one a second, of a run that grew to 1.2 million steps:
    186 to 302; without this, and with Arrow's own pool, 276 to 359. With large blocks always mapped (mallopt) it was
    175 all along, but reads took half as long again.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    before = taken()
    while trim is not None:  # another C library has none
        await asyncio.sleep(_EVERY_S)
        if (now := taken()) != before:
            before = now
            await asyncio.to_thread(trim, 0)
