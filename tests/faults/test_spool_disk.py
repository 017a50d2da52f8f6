"""The disk under a trainer's spool is full, read-only, damaged or gone, while the coordinator is away.

Training goes on, what was lost by it is counted exactly, told and recorded, and all else arrives once.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import runlease

from tests.support.cli import Cli
from tests.support.coordinator import CoordinatorProcess
from tests.support.tmpfs import SmallDisk, small_disk

STEPS = 20_000
#: Logs 20 000 points, of which memory has room for a few thousand; tells what became of them.
TRAINER = """
import dataclasses, json, sys
import runlease
from runlease.writersettings import WriterSettings
defaults = WriterSettings.__init__.__kwdefaults__
defaults["buffer_bytes"], defaults["window_bytes"], defaults["batch_points"] = 50_000, 10_000, 100
run = runlease.init(project="p", id="r")
print("ready", flush=True)
assert sys.stdin.readline()
for step in range(20_000):
    run.log({"loss": step})
run.stats()
print("logged", flush=True)
assert sys.stdin.readline()
run.flush(60)
run.lease.check()
print(json.dumps(dataclasses.asdict(run.stats())), flush=True)
assert run.finish()
"""


def fill(disk: SmallDisk) -> None:
    disk.fill()


def make_read_only(disk: SmallDisk) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)


def damage(disk: SmallDisk) -> None:
    """Flip bytes in the middle of every file."""
    files = [path for path in disk.folder.rglob("*") if path.is_file() and path.stat().st_size > 4096]
    assert files
    for path in files:
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            found = file.read(64)
            file.seek(-len(found), 1)
            file.write(bytes(byte ^ 0xFF for byte in found))


def remove(disk: SmallDisk) -> None:
    shutil.rmtree(disk.folder / "spool")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (fill, None, "No space left on device"),
        (make_read_only, None, "Read-only file system"),
        (None, damage, "is damaged"),
        (None, remove, "No such file or directory"),
    ],
    ids=["full", "read-only", "damaged", "removed"],
)
def test_a_spool_that_cannot_be_used(
    start_coordinator: Callable[..., CoordinatorProcess],
    tmp_path: Path,
    before: Callable[[SmallDisk], None] | None,
    after: Callable[[SmallDisk], None] | None,
    said: str,
) -> None:
    coordinator = start_coordinator()
    with (
        small_disk(tmp_path / "disk", "8m") as disk,
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", TRAINER],
            env=coordinator.env | {"RUNLEASE_DIR": str(disk.folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        coordinator.kill()
        if before is not None:
            before(disk)
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "logged\n"
        if after is not None:
            after(disk)
        coordinator.start()
        out, errors = process.communicate("go\n", timeout=90)
    assert process.returncode == 0, errors
    assert errors.count(said) == 1, errors  # told, yet no flood
    assert "Traceback" not in errors
    stats = json.loads(out)
    gone = stats["dropped"] + stats["lost"]
    assert (stats["logged"], stats["rejected"], stats["buffered"], stats["spooled"]) == (STEPS, 0, 0, 0)
    assert stats["acknowledged"] + gone == STEPS
    assert 0 < gone < STEPS
    with runlease.Client(coordinator.address) as client:
        steps = [row.step for row in client.history("p", "r", superseded=True).rows()]
        run = client.get_run("p", "r")
    assert steps == sorted(set(steps))
    assert (len(steps), run.points, run.attempt) == (stats["acknowledged"], stats["acknowledged"], 1)
    assert after is remove or steps[-1] == STEPS - 1
    told = [event for event in Cli(coordinator.env).json("events", "p/r") if event["kind"] == "points_lost"]
    assert sum(int(event["details"]["points"]) for event in told) == gone
