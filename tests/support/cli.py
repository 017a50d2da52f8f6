"""The command line as a process, with what must hold for every command."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.support.coordinator import program

RUNLEASE = program()
#: In the environment of every command; none may print it.
SECRET = "s3cret-token"


class Cli:
    """Runs `runlease` against one coordinator and checks what holds for every command."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env | {"RUNLEASE_TOKEN": SECRET}

    def __call__(self, *args: str, status: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*RUNLEASE, *args],
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == status, said
        assert "Traceback" not in said
        assert SECRET not in said
        assert "\x1b" not in said  # no terminal, no colour; and no run can smuggle in its own
        return done

    def json(self, *args: str) -> Any:
        def refuse(constant: str) -> None:
            raise AssertionError(f"bare {constant} in JSON")

        return json.loads(self(*args, "-o", "json").stdout, parse_constant=refuse)


def bootstrap(url: str, *flags: str, variant: str | None = None) -> str:
    """Open a store for coordinators, with a variant as a known-bad one does; returns what was said."""
    command = [*program(variant), "bootstrap", *flags, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def without_module(module: str, *args: str, env: dict[str, str]) -> str:
    """Run a command where a module cannot be imported; return stderr."""
    code = f"import sys; sys.modules[{module!r}] = None; from runlease.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *args], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr
