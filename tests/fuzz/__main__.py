"""Fuzz one target with atheris: `python -m tests.fuzz TARGET --seconds 60`.

Atheris watches which code each input reaches and changes those that reach more. An input that makes the target fail is
printed, and written to ./crash-...; add it to `tests/fuzz/test_targets.py`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import atheris

#: libFuzzer ends its process without a word to Python: what has to be cleaned up belongs to the process around it.
_INSIDE = "RUNLEASE_FUZZ_STORE"


def main() -> int:
    """Fuzz in a process of its own; returns its exit status."""
    from tests.support.stores import LiveStore

    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="rlz-", dir="/tmp"))
        store = LiveStore() if _arguments().target == "handlers" else None
        if store is not None:
            stack.callback(store.close)
        environment = os.environ | {"TMPDIR": scratch, _INSIDE: store.url if store else ""}
        return subprocess.run([sys.executable, "-m", "tests.fuzz", *sys.argv[1:]], env=environment).returncode


def fuzz(store_url: str) -> None:
    """Run until the time is up, the runs are made, or an input fails."""
    with atheris.instrument_imports(include=["runlease", "runlease_coordinator"]):
        from tests.fuzz.targets import opened

    given = _arguments()
    with opened(given.target, store_url) as target, tempfile.TemporaryDirectory() as seeds:
        for number, seed in enumerate(target.seeds):
            (Path(seeds) / str(number)).write_bytes(seed)
        folders = [*([str(given.corpus)] if given.corpus else []), seeds]
        bounds = [f"-max_total_time={given.seconds}", f"-runs={given.runs}", f"-seed={given.seed}"]
        flags = [*bounds, "-max_len=4096", "-timeout=60", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *flags, *folders], target.check)
        atheris.Fuzz()


def _arguments() -> argparse.Namespace:
    from tests.fuzz.names import NAMES

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz one target with atheris.")
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=60, help="for how long")
    parser.add_argument("--runs", type=int, default=-1, help="at most so many inputs")
    parser.add_argument("--seed", type=int, default=0, help="of the changes, 0: another each time")
    parser.add_argument("--corpus", type=Path, help="a directory that keeps what reached more code")
    return parser.parse_args()


if __name__ == "__main__":
    inside = os.environ.get(_INSIDE)
    sys.exit(main() if inside is None else fuzz(inside))
