"""A training process that was started again under its predecessor's lease, as a launcher does with a dead child.

    python -m tests.faults.child '{"address": "127.0.0.1:7373", "project": "p", "fence": 1, "number": 2}'

It goes on where the run's record says, and logs until it is told to stop, by the end of stdin, or that another process
has taken the log over. Its points have the value step + number / 8. Tells one JSON object a line: first where it
starts, then, now and then, how many of its points are acknowledged; at last why it ended.
"""

from __future__ import annotations

import json
import sys
import threading

import runlease
from runlease.channel import open_channel
from runlease.exceptions import RunleaseError, StaleFence
from runlease.writer import LogWriter, WriterSettings

PACE = WriterSettings(drain_interval_s=0.02, silence_s=2.0)


def main() -> None:
    """Log until it ends."""
    wish = json.loads(sys.argv[1])
    with runlease.Client(wish["address"], timeout_s=60) as client:
        start = client.get_run(wish["project"], "r").next_step
    stop, stale = threading.Event(), list[RunleaseError]()

    def lost(error: RunleaseError) -> None:
        stale.append(error)
        stop.set()

    channel = open_channel(wish["address"])
    writer = LogWriter(channel, wish["project"], "r", wish["fence"], settings=PACE, on_stale=lost)
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    tell(start=start)
    writer.rewind(start)
    step = start
    while not stop.wait(0.0005):
        writer.log(step, 1e9 + step, ("loss",), (step + wish["number"] / 8,))
        step += 1
        if step % 50 == 0:
            tell(acknowledged=writer.stats().acknowledged)
    delivered = writer.close(60)
    error = stale[0] if stale else None
    reason = error.reason if isinstance(error, StaleFence) else str(error or "")
    tell(acknowledged=writer.stats().acknowledged, logged=step - start, delivered=delivered, reason=reason)
    channel.close()


def tell(**facts: object) -> None:
    """Print facts, as one line."""
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
