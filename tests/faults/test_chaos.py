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


@pytest.mark.parametrize("nothing", ["--seconds", "--jobs", "--seeds"])
def test_a_run_that_would_play_nothing_is_refused(nothing: str) -> None:
    command = [sys.executable, "-m", "tests.faults.chaos", nothing, "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "take more than 0" in done.stderr


@pytest.mark.timeout(300)
def test_a_rule_that_is_broken_is_found(tmp_path: Path) -> None:
    """Given a client whose deadline counts from the answer, then a seed fails, and says by which answer."""
    command = [sys.executable, "-m", "tests.faults.chaos", "--variant", "deadline_from_receipt", "--seed", "3"]
    command += ["--topology", "embedded", "--seeds", "1", "--fault-seconds", "4", "--keep", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "I8: " in done.stdout
    assert "too long" in (tmp_path / "deadline_from_receipt-embedded-3" / "REPORT").read_text()
