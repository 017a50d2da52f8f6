"""A real coordinator process with an embedded store, for tests: start, kill, start again on the same directory."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

START_TIMEOUT_S = 30.0
ROOT = str(Path(__file__).resolve().parents[2])
#: Where processes under test find `tests`, too, wherever they run.
PATHS = [ROOT, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


def program(variant: str | None = None) -> tuple[str, ...]:
    """Return the command `runlease`; with a variant a known-bad one (tests/faults/variants.py)."""
    return (sys.executable, "-m", *(("tests.faults.variants", variant) if variant else ("runlease",)))


class CoordinatorProcess:
    """One `runlease serve` on loopback; `restart` keeps its port and its directory."""

    def __init__(self, *flags: str, server_binary: str | None = None, variant: str | None = None) -> None:
        """Be ready to `start`; with a variant it is a known-bad one (tests/faults/variants.py)."""
        self.directory = Path(tempfile.mkdtemp(prefix="rlt-", dir="/tmp"))
        self.data_dir = self.directory / "data"
        self.flags = [*flags, *(("--server-binary", server_binary) if server_binary else ())]
        self._program = program(variant)
        self.address = "127.0.0.1:0"
        self.log = self.directory / "coordinator.log"
        self.process: subprocess.Popen[str] | None = None

    @property
    def spools(self) -> Path:
        """The RUNLEASE_DIR of its clients."""
        return self.directory / "clients"

    @property
    def env(self) -> dict[str, str]:
        """The environment of a client of this coordinator; nothing of the caller's own runs."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("RUNLEASE_", "WANDB_", "SLURM_"))}
        return clean | {"RUNLEASE_COORDINATOR": self.address, "RUNLEASE_DIR": str(self.spools)}

    @property
    def store_pid(self) -> int:
        return int(json.loads((self.data_dir / "store.json").read_text())["pid"])

    def start(self) -> CoordinatorProcess:
        command = [*self._program, "serve", "--listen", self.address]
        environment = self.env | {"XDG_RUNTIME_DIR": str(self.directory), "PYTHONPATH": os.pathsep.join(PATHS)}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--data-dir", str(self.data_dir), *self.flags],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        stdout = self.process.stdout
        assert stdout is not None
        timer = threading.Timer(START_TIMEOUT_S, self.process.kill)
        timer.start()
        line = stdout.readline()
        timer.cancel()
        match = re.search(r"serving on (\S+)", line)
        assert match, f"no coordinator: {line!r}\n{self.log.read_text()}"
        self.address = match.group(1)
        return self

    def kill(self) -> None:
        """SIGKILL the coordinator alone; its store server lives on."""
        assert self.process is not None
        self.process.kill()
        self._reap()

    def kill_store(self) -> None:
        os.kill(self.store_pid, signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, and wait; returns the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self._reap()

    def _reap(self) -> int:
        assert self.process is not None
        status = self.process.wait(timeout=30)
        if self.process.stdout:
            self.process.stdout.close()
        return status

    def close(self) -> None:
        """End whatever lives and remove the directory."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.stop()
        elif self.process is not None and (self.data_dir / "store.json").exists():
            self.start().stop()  # its store may have outlived it: only a coordinator may end that one safely
        shutil.rmtree(self.directory, ignore_errors=True)
