"""`run.log` beside other trackers' calls, in one run: W&B offline, trackio, TensorBoard, Aim, MLflow on SQLite.

Each is a process of its own, in an environment of its own (`.venv-bench`, made here, versions pinned), with a
directory of its own, without network: all log to this machine. What does not install is left out with a word.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.processes import ROOT
from tests.bench.rounds import Figure, Wanted, interleave

#: What each contender needs; `onetracker.py` has the same names.
PINS: Mapping[str, tuple[str, ...]] = {
    "trackio": ("trackio==0.43.0",),
    "W&B offline": ("wandb==0.31.0",),
    "TensorBoard": ("tensorboardX==2.6.5",),
    "Aim": ("aim==3.29.1",),
    "MLflow": ("mlflow-skinny==3.17.2", "sqlalchemy==2.1.9", "alembic==1.20.1"),
}
#: What runs in this very environment.
_OWN = ("runlease", "dict copy")
VENV = ROOT / ".venv-bench"
_PROGRAM = Path(__file__).with_name("onetracker.py")
_INSTALL_S, _RUN_S = 600, 120
#: Each one's own settings for staying on this machine and for saying nothing to its makers. What asks for the
#: network all the same is sent to a port where nobody listens.
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_MODE": "offline",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
}


def installed() -> list[str]:
    """Make the environment where it is missing; returns the contenders that it has."""
    python = VENV / "bin" / "python"
    if not python.exists():
        print(f"making {VENV.name} ...", end=" ", flush=True, file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    missing = [pin for pins in PINS.values() for pin in pins if not _has(pin)]
    if missing and not _install(*missing):
        for name, pins in PINS.items():
            if not all(map(_has, pins)) and not _install(*pins):
                print(f"{name} is left out: {' '.join(pins)} does not install", file=sys.stderr)
    return [name for name, pins in PINS.items() if all(map(_has, pins))]


def _has(pin: str) -> bool:
    name, wanted = pin.split("==")
    code = f"from importlib.metadata import version; raise SystemExit(version({name!r}) != {wanted!r})"
    return subprocess.run([VENV / "bin" / "python", "-c", code], stderr=subprocess.DEVNULL).returncode == 0


def _install(*pins: str) -> bool:
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins]
    try:
        return subprocess.run(command, capture_output=True, timeout=_INSTALL_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def measure(name: str, environment: Mapping[str, str], seconds: float) -> dict[str, Any]:
    """Run one contender in a directory that goes with it; returns what `onetracker.py` found."""
    with tempfile.TemporaryDirectory(prefix="rlb-", dir="/tmp") as folder:
        own = name in _OWN
        private = {"HOME": folder, "TMPDIR": folder, "TRACKIO_DIR": f"{folder}/trackio", "HF_HOME": f"{folder}/hf"}
        plain = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **private, **_QUIET}
        done = subprocess.run(
            [
                *(sys.executable if own else str(VENV / "bin" / "python"), "-P", str(_PROGRAM)),
                *(name, f"{folder}/work", "--seconds", str(seconds)),
            ],
            env=dict(environment) if own else plain,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_RUN_S,
        )
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def figures(environment: Mapping[str, str], seconds: float, rounds: int) -> AsyncIterator[Figure]:
    """Yield the time of a call and the rows a second of all contenders; says on stderr what each of them logged."""

    async def one(name: str) -> dict[str, Any]:
        return measure(name, environment, seconds)

    names = [*_OWN, *installed()]
    found = await interleave({name: partial(one, name) for name in names}, rounds)
    for name, each in found.items():
        print(f"\n  {name} {each[0]['version']}: {_said(each)}", end="", file=sys.stderr)
    print(file=sys.stderr)

    def of(key: str) -> dict[str, list[float]]:
        return {name: [one[key] for one in each] for name, each in found.items()}

    bounds = {"trackio": 8, "W&B offline": 50}
    p50 = [Wanted(1 / ratio, False, name) for name, ratio in bounds.items() if name in names]
    rate = [Wanted(8, True, "trackio")] if "trackio" in names else []
    yield Figure("log of 5 scalars, p50", "us", of("p50_us"), p50, 1, 3)
    yield Figure("log of 5 scalars, p99", "us", of("p99_us"), digits=1, ratio_digits=3)
    yield Figure("log of 5 scalars, mean, flat out", "us", of("burst_call_us"), digits=1, ratio_digits=3)
    yield Figure("rows of 5 scalars a second until finish() returns", "rows/s", of("rows_a_second"), rate, 0, 1)


def _said(rounds: list[dict[str, Any]]) -> str:
    logged = [one["burst_rows"] for one in rounds]
    stored = [one["stored_rows"] for one in rounds]
    if None in stored:
        return f"rows logged flat out {logged}, not counted in its files"
    return f"rows logged flat out {logged}, " + ("all stored" if stored == logged else f"STORED ONLY {stored}")
