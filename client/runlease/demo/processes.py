"""The child processes of the demo: started, listened to, and ended by PID whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

#: Seconds that a child gets between the polite signal and SIGKILL.
GRACE_S = 15.0
#: Variables of the caller that would point the children at another coordinator, run or mode.
_FOREIGN = ("RUNLEASE_", "WANDB_")


class Interrupts:
    """Turns signals into KeyboardInterrupt, but never between the start of a child and the note of its PID."""

    def __init__(self) -> None:
        """Interrupt at once, as long as nothing is being started."""
        self._starting = self._pending = False

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self._starting:
            self._pending = True
        else:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Keep signals for the end of the block."""
        self._starting = True
        try:
            yield
        finally:
            self._starting = False
            if self._pending:
                self._pending = False
                raise KeyboardInterrupt


class DemoFailed(Exception):
    """Something that the demo promises did not hold; the message names it."""


class Child:
    """A Python process of the demo; its output is collected and, where wanted, passed on line by line."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: dict[str, str],
        cwd: Path,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        """Start `python *command`; its lines go to `lines` and, from a thread, to `on_line`."""
        self.name = name
        self.lines: deque[str] = deque(maxlen=500)
        self._on_line = on_line
        self._changed = threading.Condition()
        self._closed = False
        # A session of its own: Ctrl-C reaches the demo alone, which then ends its children in order.
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=cwd,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"demo-{name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.poll() is None

    def wait_for_line(self, contains: str, timeout_s: float) -> str:
        """Return the first line with the text in it; DemoFailed if there is none within `timeout_s`."""

        def found() -> str | None:
            return next((line for line in self.lines if contains in line), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or self._closed, timeout=timeout_s)
            line, ended = found(), self._closed
        if line is None:
            happened = "ended before it did" if ended else f"did not within {timeout_s:.0f} s"
            raise DemoFailed(f"the {self.name} should have said {contains!r}, but {happened}{self.tail()}")
        return line

    def wait(self, timeout_s: float) -> int:
        """Return the exit status once the child has ended and all its output is read."""
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"the {self.name} did not end within {timeout_s:.0f} s{self.tail()}") from None
        self._reader.join(timeout_s)
        return status

    def tail(self) -> str:
        """Return the last lines of output, to be appended to a message."""
        with self._changed:
            lines = list(self.lines)[-15:]
        return "".join(f"\n    {line}" for line in ("; its last output:", *lines)) if lines else ""

    def send(self, signal_number: int) -> None:
        """Send a signal, if the process still runs."""
        self._process.send_signal(signal_number)

    def end(self) -> None:
        """End the process: SIGTERM, and SIGKILL to all of its session if that is not heeded."""
        if self.running:
            self.send(signal.SIGTERM)
            self.send(signal.SIGCONT)  # a stopped process would not see the other signal
            try:
                self._process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._reader.join(GRACE_S)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for raw in output:
                self._hear(raw.decode("utf-8", "replace").rstrip())
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _hear(self, line: str) -> None:
        with self._changed:
            self.lines.append(line)
            self._changed.notify_all()
        if self._on_line is not None:
            try:
                self._on_line(line)
            except OSError:  # nobody reads the demo any more: go on reading, lest the child blocks
                self._on_line = None


class Children:
    """Every process that the demo has started; `end` ends them, the latest first."""

    def __init__(self, directory: Path, interrupts: Interrupts) -> None:
        """Run children in `directory`; `interrupts` handles the signals that end the demo."""
        self._directory = directory
        self._interrupts = interrupts
        self._started: list[Child] = []

    def start(
        self,
        name: str,
        *command: str,
        on_line: Callable[[str], None] | None = None,
        **environment: str,
    ) -> Child:
        """Start `python *command` with `environment` added to the caller's."""
        with self._interrupts.held_back():
            child = Child(name, command, environment=_environment(environment), cwd=self._directory, on_line=on_line)
            self._started.append(child)
        return child

    def end(self) -> None:
        """End what still runs: trainers before the coordinator that they talk to."""
        while self._started:
            self._started.pop().end()


def _environment(added: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    # One BLAS thread: small matrices are faster so, and the order of additions, hence every bit, is the same.
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return kept | threads | {"PYTHONUNBUFFERED": "1"} | added


def poll(timeout_s: float, every_s: float = 0.03) -> Iterator[None]:
    """Yield again and again until `timeout_s` has passed."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        yield
        time.sleep(every_s)
