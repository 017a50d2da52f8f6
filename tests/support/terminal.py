"""A process at a terminal of its own: what it prints is read, what a person types is written."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence

TIMEOUT_S = 45.0
#: Makes the terminal the process's controlling one, so that Ctrl-C typed there becomes SIGINT, which the process must
#: not ignore because the tests happen to run in some shell's background.
_LAUNCH = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """Starts a command; a context manager that ends it. ``text`` is what it has printed so far."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.text = ""
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCH, *command],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env=env,
                start_new_session=True,
            )
        finally:
            os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def read_until(self, text: str) -> None:
        while text not in self.text:
            assert self._read(), f"it ended without {text!r}: {self.text!r}"

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait(self) -> int:
        """Read all that it prints and return its exit status."""
        while self._read():
            pass
        return self.process.wait(TIMEOUT_S)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], TIMEOUT_S)
        assert ready, f"nothing within {TIMEOUT_S:g} s after {self.text!r}"
        try:
            found = os.read(self._master, 65536)
        except OSError:  # EIO: Linux's way to say that the other end is closed
            return False
        self.text += found.decode(errors="replace")
        return bool(found)
