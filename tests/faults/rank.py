"""One rank of a training that logs by the formula: a process of its own, with the SDK as trainers have it.

    python -m tests.faults.rank '{"project": "p", "id": "r", "rank": 0, "steps": 1000, "commit_every": 500,
                                  "rate": 25000, "backlog": 100000, "memory": 1048576}'

Tells on stdout, one JSON object a line, what `run.stats()` says: now and then, and ("done": true) once all that it
logged is acknowledged. Then it waits for the end of stdin, and finishes the run.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
from functools import partial
from typing import Any

import runlease
import runlease.start
from runlease.stats import Stats
from runlease.writersettings import WriterSettings

from tests.faults.formula import RANKS, WRITERS, points_of, rows

TELL_EVERY_S = 0.2
#: Far above any outage that is made here.
PATIENCE_S = 300.0


def main() -> None:
    """Log all steps."""
    wish = json.loads(sys.argv[1])
    rank = wish["rank"]
    # So that an outage of seconds is enough for the spool; the default of 64 MiB would take minutes.
    memory = wish["memory"]
    small = partial(
        WriterSettings, buffer_bytes=memory, window_bytes=memory // 4, batch_bytes=min(256 << 10, memory // 16)
    )
    runlease.start.WriterSettings = small
    run = runlease.init(
        project=wish["project"],
        id=wish["id"],
        resume="allow",
        group=f"{RANKS} ranks",
        holder=rank == 0,
        writer=None if rank == 0 else WRITERS[rank],
        connect_timeout=PATIENCE_S,
    )
    ended = threading.Event()
    teller = threading.Thread(target=_tell_forever, args=(run, ended))
    teller.start()
    try:
        _train(run, wish)
        flushed = run.flush(PATIENCE_S)
    finally:
        ended.set()
        teller.join()
    _tell(run, done=flushed)
    sys.stdin.read()
    _tell(run, finished=run.finish(timeout=PATIENCE_S))


def _train(run: runlease.Run, wish: dict[str, Any]) -> None:
    rank, every, began = wish["rank"], wish["commit_every"], time.monotonic()
    for step in range(wish["steps"]):
        if step % 100 == 0:
            time.sleep(max(0.0, began + points_of(step) / wish["rate"] - time.monotonic()))
            while (
                _waiting(run.stats()) > wish["backlog"]
            ):  # a training that outruns its spool for ever would lose points
                time.sleep(0.01)
        for row in rows(rank, step):
            run.log(row, step=step)
        if rank == 0 and step % every == every - 1:
            run.commit_checkpoint(step, uri=f"/ckpt/{step}")


def _waiting(stats: Stats) -> int:
    return stats.logged - stats.acknowledged


def _tell_forever(run: runlease.Run, ended: threading.Event) -> None:
    while not ended.wait(TELL_EVERY_S):
        _tell(run)


def _tell(run: runlease.Run, **more: Any) -> None:
    print(json.dumps({**dataclasses.asdict(run.stats()), "lease": run.lease.state.value, **more}), flush=True)


if __name__ == "__main__":
    main()
