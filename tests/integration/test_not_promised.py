"""What the README does not promise: what happens there, and how it shows."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import runlease

from tests.support.cli import Cli
from tests.support.coordinator import CoordinatorProcess

#: Trains, is stopped, and then saves a checkpoint into stores that know nothing of leases.
SAVER = """
import os, pathlib, sys, runlease
project, bucket = sys.argv[1], pathlib.Path(sys.argv[2])
run = runlease.init(project=project, id="r", resume="allow", ttl=5, on_lost=lambda lost: None)
print(run.fence, flush=True)
sys.stdin.readline()
(bucket / "latest").write_text(f"by {run.fence}")
(bucket / f"checkpoint-{os.environ['RUNLEASE_FENCE']}").write_text("of an old holder")
os._exit(0)
"""


def test_a_store_that_checks_no_fence_takes_what_an_old_holder_writes(
    coordinator: CoordinatorProcess, project: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", SAVER, project, str(tmp_path)]
    with subprocess.Popen(
        command, env=coordinator.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as old:
        assert old.stdin is not None
        assert old.stdout is not None
        first = int(old.stdout.readline())
        old.send_signal(signal.SIGSTOP)
        # Given a successor that has saved its own checkpoint,
        with runlease.init(
            project=project, id="r", resume="must", wait=30, coordinator=coordinator.address, on_lost="raise"
        ) as run:
            (tmp_path / "latest").write_text(f"by {run.fence}")
            (tmp_path / f"checkpoint-{run.fence}").write_text("of the holder")
            second = run.fence
            # when the old holder goes on in the middle of its own,
            old.send_signal(signal.SIGCONT)
            old.stdin.write("go on\n")
            old.stdin.flush()
            assert old.wait(30) == 0
    # then a name without a fence has the old one's; of those with one, the highest is the holder's.
    assert (tmp_path / "latest").read_text() == f"by {first}"
    named = {int(path.name.partition("-")[2]): path for path in tmp_path.glob("checkpoint-*")}
    assert sorted(named) == [first, second]
    assert named[max(named)].read_text() == "of the holder"


OFFLINE = """
import sys, runlease
with runlease.init(project=sys.argv[1], id="r", mode="offline", resume="allow") as run:
    for step in range(10):
        run.log({"loss": float(sys.argv[2])}, step=step)
"""


def test_two_offline_runs_of_one_name_become_attempts_of_their_own(
    coordinator: CoordinatorProcess, project: str, tmp_path: Path
) -> None:
    # Given two machines that train the same run at the same time, without a lease: nobody can refuse the second.
    environments = [coordinator.env | {"RUNLEASE_DIR": str(tmp_path / name)} for name in ("a", "b")]
    trainers = [
        subprocess.Popen([sys.executable, "-c", OFFLINE, project, str(number)], env=env, stderr=subprocess.PIPE)
        for number, env in enumerate(environments)
    ]
    for trainer in trainers:
        said = trainer.communicate(timeout=60)
        assert trainer.returncode == 0, said
    # When both come back, then both are there, as attempts; the later one shows.
    for number, env in enumerate(environments):
        (row,) = json.loads(Cli(env)("sync", "-o", "json").stdout)
        assert (row["verdict"], row["attempt"]) == ("delivered", number + 1)
    with runlease.Client(coordinator.address) as client:
        assert {row.value for row in client.history(project, "r").rows()} == {1.0}
        everything = list(client.history(project, "r", superseded=True).rows())
    assert sorted((row.attempt, row.value) for row in everything) == [(1, 0.0)] * 10 + [(2, 1.0)] * 10
