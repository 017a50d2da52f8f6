"""Compactors that are killed (SIGKILL) at one of their steps.

`python -m tests.support.mortal URL` reads lines FOLDER PROJECT/RUN STEP, lets a process of its own do the compaction,
and prints its exit status.

Steps are the calls that leave a trace: those to the store, and of the file system each sync and rename. Step 2n is the
moment before the n-th of them, step 2n + 1 the moment behind it. Exits with 0 where there are fewer steps.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runlease_coordinator.history.compactor import Compactor, Pacing
from runlease_coordinator.history.objects import LocalObjects
from runlease_coordinator.store.archive import ArchiveStore
from runlease_coordinator.store.runs import RunStore
from runlease_coordinator.store.store import Store

#: Others may go on where it was killed after so long.
CLAIM_S = 0.05


class Fate:
    """Kills the process at a step."""

    def __init__(self, step: int) -> None:
        self._step = step
        self._calls = itertools.count()

    def _reach(self, step: int) -> None:
        if step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)

    def call(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def mortal(*args: Any, **kwargs: Any) -> Any:
            number = next(self._calls)
            self._reach(2 * number)
            result = function(*args, **kwargs)
            self._reach(2 * number + 1)
            return result

        return mortal

    def coroutine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def mortal(*args: Any, **kwargs: Any) -> Any:
            number = next(self._calls)
            self._reach(2 * number)
            result = await function(*args, **kwargs)
            self._reach(2 * number + 1)
            return result

        return mortal


async def compact(url: str, folder: str, run: str, step: int) -> None:
    store, fate = Store(url), Fate(step)
    await store.start()
    archive = ArchiveStore(store, "mortal")
    for name in ("claim", "begin", "commit"):
        setattr(archive, name, fate.coroutine(getattr(archive, name)))
    os.fsync, os.replace = fate.call(os.fsync), fate.call(os.replace)
    pacing = Pacing(claim_s=CLAIM_S)
    compactor = Compactor(archive, RunStore(store), LocalObjects(Path(folder)), pacing)
    await compactor.compact(*run.split("/"))
    await store.close()


def main(url: str) -> None:
    """Fork for each line: the imports, which take longest, are done once."""
    for line in sys.stdin:
        folder, run, step = line.split()
        child = os.fork()
        if child == 0:
            asyncio.run(compact(url, folder, run, int(step)))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
