"""`runlease demo`: one real training is killed in the middle and goes on exactly where it should.

It shows, with real processes and a real store on this machine, that a run has one writer at a time, that a
successor resumes at the step after the last checkpoint, and that the run's history then equals, bit for bit,
that of a training which nothing happened to. `main` returns 0 only if all of that was verified. What it needs
comes with `pip install 'runlease[demo]'`; nothing of it is loaded by `import runlease`.

The text in `prose.txt` is from "Alice's Adventures in Wonderland" by Lewis Carroll (1865), which is in the
public domain.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from runlease.demo.processes import Interrupts

__all__ = ["DEFAULT_STEPS", "MIN_STEPS", "main"]

#: A training long enough to be killed in the middle, and short enough to be watched.
DEFAULT_STEPS = 3000
#: A shorter one could end before it is killed.
MIN_STEPS = 1000

_INTRODUCTION = """\
runlease demo: a training is killed half-way, and goes on exactly where it should.
All of it runs on this machine, in {directory}."""

_SUMMARY = """
What you saw: only one process at a time could write the run. After the SIGKILL, a
successor went on at the step after the last checkpoint. Steps that were trained twice
show once; what the dead trainer had logged of them is kept aside. The curve equals,
bit for bit, that of a training which was never interrupted.

Try next:
  runlease serve                               start a coordinator of your own
  python -m runlease.demo.trainer --id mine    train under it; kill it, start it again
  runlease ls                                  see who holds what
  runlease history examples/mine --plot        see the curve
The trainer is examples/train_charlm.py, a file to copy from."""


def main(
    *,
    data_dir: Path | None = None,
    steps: int = DEFAULT_STEPS,
    seed: int = 0,
    keep: bool = False,
    echo: Callable[[str], None] = print,
) -> int:
    """Play the demo and verify what it shows.

    Args:
        data_dir: Work in a new directory inside this one, and leave it there; default: a temporary directory.
        steps: Length of the training, at least `MIN_STEPS`.
        seed: Seed of the training.
        keep: Leave the temporary directory there, with the store and the checkpoints.
        echo: Takes each line of output.

    Returns:
        The exit status: 0 if everything holds, 1 if something does not (the output names it), 2 if the demo
        cannot run here, 130 if it was interrupted. Nothing is left running in any case.
    """
    if obstacle := _obstacle(steps):
        echo(f"runlease demo: {obstacle}")
        return 2
    started = time.monotonic()
    interrupts = Interrupts()
    # SIGTERM and SIGHUP end the demo as Ctrl-C does, so that nothing stays behind.
    with (
        _workplace(data_dir, keep=keep, echo=echo) as directory,
        _handling(interrupts, signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
    ):
        echo(_INTRODUCTION.format(directory=directory))
        status = _play(directory, interrupts, steps=steps, seed=seed, echo=echo)
    if status == 0:
        echo(_SUMMARY)
        echo(f"\nAll of it holds; {time.monotonic() - started:.0f} s. Nothing was left running.")
    return status


def _obstacle(steps: int) -> str:
    """Return why the demo cannot run, with the remedy; empty if it can."""
    if sys.platform == "win32":
        return "the embedded store and SIGKILL need Linux or macOS; on Windows use WSL"
    if steps < MIN_STEPS:
        return f"steps must be at least {MIN_STEPS}, not {steps}: a shorter training ends before it is killed"
    if importlib.util.find_spec("numpy") is None or importlib.util.find_spec("redis") is None:
        return "it needs NumPy and the coordinator: pip install 'runlease[demo]'"
    return ""


def _play(directory: Path, interrupts: Interrupts, *, steps: int, seed: int, echo: Callable[[str], None]) -> int:
    # Imported here: NumPy and gRPC must not be loaded by `import runlease.demo`.
    import runlease
    from runlease.demo.processes import Children, DemoFailed
    from runlease.demo.story import Story

    children = Children(directory, interrupts)
    try:
        if Story(children, directory, steps=steps, seed=seed, echo=echo).play():
            return 0
        echo("\nrunlease demo: failed; the lines marked FAILED name what does not hold.")
    except (DemoFailed, runlease.RunleaseError) as failure:
        echo(f"\nrunlease demo: failed: {failure}")
    except KeyboardInterrupt:
        echo("\nrunlease demo: interrupted; ending what was started.")
        return 130
    finally:
        with _deaf():
            children.end()
    return 1


@contextlib.contextmanager
def _workplace(data_dir: Path | None, *, keep: bool, echo: Callable[[str], None]) -> Iterator[Path]:
    """Make a directory to work in; remove it at the end unless it shall stay."""
    if data_dir is not None:
        data_dir.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="runlease-demo-", dir=data_dir)).resolve()
    try:
        yield directory
    finally:
        if keep or data_dir is not None:
            echo(f"\nStore and checkpoints are in {directory}; look around with:")
            echo(f"  runlease serve --data-dir {directory / 'store'}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ignore impatient signals: the end of the children takes a bounded time, and must not be cut short."""
    with _handling(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextlib.contextmanager
def _handling(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers, *signals: signal.Signals
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers there only
        yield
        return
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
