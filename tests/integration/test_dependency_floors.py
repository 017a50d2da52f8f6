"""The SDK on the oldest dependencies that it allows, in an environment of its own, against a coordinator of today.

The environment that runs this suite has the newest ones, so both ends are covered.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.coordinator import CoordinatorProcess

ROOT = Path(__file__).parents[2]
#: The environment of this interpreter, and the lock under which it is made.
HOME = ROOT / ".venv-floor" / f"{sys.version_info[0]}.{sys.version_info[1]}"
LOCK = HOME.with_suffix(HOME.suffix + ".lock")

#: grpcio has no wheels of its floor for later interpreters; the lowest that has some stands for it there.
LOWEST_GRPCIO = {(3, 11): "1.49.1", (3, 12): "1.60.0", (3, 13): "1.66.2"}
OTHERS = {"protobuf": "3.20.3", "googleapis-common-protos": "1.56.4", "tenacity": "8.2.0", "click": "8.1.0"}

TRAINING = """
import importlib.metadata as metadata, json, sys, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", module=r"google\\.|grpc|pkg_resources", category=DeprecationWarning)
import runlease
project = sys.argv[1]
with runlease.init(project=project, id="a/b", resume="allow", config={"lr": 0.1}, tags=["floor"]) as run:
    for step in range(run.step, 100):
        run.log({"loss": 1 / (step + 1), "acc": step / 100}, step=step)
    run.commit_checkpoint(99, uri="file:///c99", metadata={"epoch": 3}, wait=True)
    run.update(summary={"best": 0.01})
with runlease.init(project=project, id="a/b", resume="must") as run:
    resumed = [run.step, run.attempt, run.previous_state, run.checkpoint.uri, run.checkpoint.metadata]
    run.rewind(50)
    run.log({"loss": -1.0}, step=50)
try:
    runlease.init(project=project, id="a_b", resume="allow")
except runlease.RunIdCollision as error:
    collision = error.existing_id
with runlease.Client() as client:
    history = client.history(project, "a/b")
    record = client.get_run(project, "a/b")
    listed = [one.id for one in client.list_runs(project, states=["finished"])]
print(json.dumps({
    "versions": {name: metadata.version(name) for name in NAMES},
    "runlease": metadata.version("runlease"),
    "file": runlease.__file__,
    "resumed": resumed,
    "collision": collision,
    "loss": [[point.step, point.value] for point in history.rows() if point.key == "loss"],
    "acc": len([point for point in history.rows() if point.key == "acc"]),
    "config": record.config, "summary": record.summary, "tags": record.tags, "state": record.state, "listed": listed,
}))
"""


def floors() -> dict[str, str]:
    grpcio = LOWEST_GRPCIO.get(sys.version_info[:2])
    if grpcio is None:
        pytest.skip(f"no floor of grpcio is known for Python {sys.version_info[0]}.{sys.version_info[1]}")
    return {"grpcio": grpcio, **OTHERS}


def test_these_are_the_floors_that_the_package_declares() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert dict(one.split(">=") for one in declared) == {"grpcio": LOWEST_GRPCIO[3, 11], **OTHERS}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep two runs of the suite from building one environment at once."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=280, check=False)


def stamp(pins: dict[str, str]) -> str:
    """Return what the environment is made of: the pins, the interpreter, and every file of the SDK."""
    digest = hashlib.sha256(f"{sys.version} {sorted(pins.items())}".encode())
    for path in sorted([ROOT / "pyproject.toml", *(ROOT / "client").rglob("*.py")]):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


def missing(what: str, done: subprocess.CompletedProcess[str]) -> None:
    """Skip at home and fail in CI where packages cannot be had; fail where they are there and do not work."""
    text = done.stdout + done.stderr
    offline = any(
        words in text
        for words in (
            "Temporary failure in name",
            "Connection refused",
            "Network is unreachable",
            "ReadTimeoutError",
            "No matching distribution found",
            "NewConnectionError",
            "ProxyError",
            "Max retries exceeded",
        )
    )
    if offline and not os.environ.get("CI"):
        pytest.skip(f"{what}: no package registry answers")
    pytest.fail(f"{what}:\n{text[-3000:]}")


@pytest.fixture(scope="module")
def floor_python() -> Path:
    """The interpreter of an environment with the SDK, without the coordinator, on its floors."""
    pins = floors()
    python = HOME / "bin" / "python"
    with locked(LOCK):
        mark, wanted = HOME / "runlease.stamp", stamp(pins)
        if mark.exists() and mark.read_text() == wanted:
            return python
        shutil.rmtree(HOME, ignore_errors=True)
        venv.create(HOME, with_pip=True)
        # Not editable: what is installed is the wheel that users get.
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir")
        done = run(*pip, "--only-binary", "grpcio,protobuf", *(f"{n}=={v}" for n, v in pins.items()), str(ROOT))
        if done.returncode:
            missing("cannot build the environment of the floors", done)
        mark.write_text(wanted)
    return python


@pytest.mark.timeout(300)
def test_a_training_on_the_floors(floor_python: Path, coordinator: CoordinatorProcess, project: str) -> None:
    pins = floors()
    done = subprocess.run(
        [str(floor_python), "-c", TRAINING.replace("NAMES", repr(list(pins))), project],
        env=coordinator.env,
        cwd=coordinator.directory,  # else the checkout's own sources might be imported
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["versions"] == pins
    assert got["file"].startswith(str(HOME))
    assert got["resumed"] == [100, 2, "finished", "file:///c99", {"epoch": 3}]
    assert got["collision"] == "a/b"
    # The rewind hid 50..99 of the first attempt; the new 50 stands in their place.
    assert got["loss"] == [[step, 1 / (step + 1)] for step in range(50)] + [[50, -1.0]]
    assert got["acc"] == 50
    assert (got["config"], got["summary"], got["tags"]) == ({"lr": 0.1}, {"best": 0.01}, ["floor"])
    assert (got["state"], got["listed"]) == ("finished", ["a/b"])


@pytest.mark.timeout(300)
def test_the_command_line_on_the_floors(floor_python: Path, coordinator: CoordinatorProcess, project: str) -> None:
    def command(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(floor_python), "-m", "runlease", *args],
            env=coordinator.env,
            cwd=coordinator.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    listed = command("ls", "-o", "json")
    assert listed.returncode == 0, listed.stderr
    json.loads(listed.stdout)
    assert command("show", f"{project}/none").returncode != 0
    made = command("generate-id")
    assert (made.returncode, len(made.stdout.strip())) == (0, 8)
