"""Some seeds of `make chaos`: the same ones at home, as many as there is time for where CHAOS_SECONDS says how much."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: At home: each kind of store, some twice.
SEEDS = 6


@pytest.mark.timeout(600)
def test_seeds(tmp_path: Path) -> None:
    seconds = os.environ.get("CHAOS_SECONDS", "")
    much = ["--seconds", seconds] if seconds else ["--seeds", str(SEEDS)]
    command = [sys.executable, "-m", "tests.faults.chaos", *much, "--seed", "1", "--jobs", "3", "--keep", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed, 0 could not be played" in done.stdout
    assert " 0 lost, 0 doubled" in done.stdout
