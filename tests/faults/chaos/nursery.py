"""Forks the processes of a chaos run from one that has imported all: a start costs milliseconds then, not a second.

python -m tests.faults.chaos.nursery     # a line of JSON a process on stdin, its PID on stdout
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path


def main() -> None:
    """Fork for each line."""
    from tests.faults.chaos import trainer  # before any thread is there

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
    for line in sys.stdin:
        wish = json.loads(line)
        child = os.fork()
        if child:
            print(child, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _become(Path(wish["folder"], f"{wish['name']}.err"))
        try:
            trainer.main(wish)
        except BaseException:  # a forked child has no other way to end
            traceback.print_exc()
            os._exit(1)
        os._exit(0)


def _become(log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(file, 1)
    os.dup2(file, 2)


if __name__ == "__main__":
    main()
