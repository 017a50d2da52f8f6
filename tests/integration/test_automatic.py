"""Automatic resume: a job finds its run by its keys, on any directory, with any number of projects."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import runlease

from tests.support.coordinator import CoordinatorProcess

SCRIPT = """
import json, os, runlease, signal, sys
args = json.loads(sys.argv[1])
run = runlease.init(resume=args.pop("resume", True), **args.pop("init", {}))
for step in range(run.step, run.step + 5):
    run.log({"a": step}, step=step)
run.commit_checkpoint(run.step - 1, uri="x", wait=True)
print(json.dumps([run.id, run.attempt, run.starting_step, run.previous_state]), flush=True)
end = args.pop("end", "finished")
if end == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
run.finish(end)
"""


def slurm(job: int, **more: str) -> dict[str, str]:
    return {"SLURM_JOB_ID": str(job), "SLURM_CLUSTER_NAME": "c", "SLURM_JOB_NAME": "train"} | more


class Jobs:
    """Starts job processes in directories and environments of their own."""

    def __init__(self, coordinator: CoordinatorProcess, project: str, directory: Path) -> None:
        self.coordinator, self.project, self.directory = coordinator, project, directory
        self.stderr = ""

    def play(
        self, env: dict[str, str] | None = None, where: str = "a", script: str = "train.py", **args: Any
    ) -> list[Any]:
        directory = self.directory / where
        directory.mkdir(exist_ok=True)
        path = directory / script
        path.write_text(SCRIPT)
        args.setdefault("init", {}).setdefault("project", self.project)
        done = subprocess.run(
            [sys.executable, str(path), json.dumps(args)],
            env=self.coordinator.env | (env or {}),
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.stderr = done.stderr
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        answer: list[Any] = json.loads(done.stdout)
        return answer


@pytest.fixture
def jobs(coordinator: CoordinatorProcess, project: str, tmp_path: Path) -> Jobs:
    return Jobs(coordinator, project, tmp_path)


def test_a_requeue_in_another_directory_finds_its_run(jobs: Jobs) -> None:
    first = jobs.play(slurm(1), "a", end="preempted")
    assert jobs.play(slurm(1), "b", end="failed") == [first[0], 2, 5, "preempted"]
    other = jobs.play(slurm(2), "c")
    assert other[0] != first[0]


def test_a_new_job_in_the_same_directory_finds_its_run(jobs: Jobs) -> None:
    first = jobs.play(slurm(1), end="preempted")
    assert jobs.play(slurm(2), end="preempted") == [first[0], 2, 5, "preempted"]
    # The run is bound to all keys by now: the new job's too.
    assert jobs.play(slurm(2), "elsewhere")[:2] == [first[0], 3]


def test_without_a_scheduler_the_directory_is_the_key(jobs: Jobs) -> None:
    first = jobs.play(end="killed")
    assert jobs.play(end="failed") == [first[0], 2, 5, "crashed"]  # at once: the holder is proved dead
    assert jobs.play(where="b")[0] != first[0]
    assert jobs.play(script="other.py")[0] != first[0]
    assert jobs.play(init={"project": jobs.project + "-2"})[0] != first[0]
    assert jobs.play()[:2] == [first[0], 3]


def test_a_finished_run_starts_anew(jobs: Jobs) -> None:
    first = jobs.play(slurm(1))
    second = jobs.play(slurm(1))
    assert second[0] != first[0]
    assert second[1:] == [1, 0, ""]


def test_the_explicit_key_wins_over_job_and_directory(jobs: Jobs) -> None:
    first = jobs.play(slurm(1), init={"auto_key": "sweep-3"}, end="failed")
    assert jobs.play(slurm(9), "b", init={"auto_key": "sweep-3"}, end="failed")[:2] == [first[0], 2]
    assert jobs.play(slurm(9) | {"RUNLEASE_AUTO_KEY": "sweep-3"}, "d", end="failed")[:2] == [first[0], 3]
    assert jobs.play(slurm(1), init={"auto_key": "sweep-4"})[0] == first[0]  # a new key falls back to the job's


def test_an_explicit_id_wins_over_all_keys(jobs: Jobs) -> None:
    first = jobs.play(slurm(1), end="failed")
    assert jobs.play(slurm(1), init={"id": "mine"}, end="failed") == ["mine", 1, 0, ""]
    # The keys lead to the run that they were last bound to.
    assert jobs.play(slurm(1))[:2] == ["mine", 2]
    assert first[0] != "mine"


def test_array_tasks_do_not_meet(jobs: Jobs) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "50"}
    one = jobs.play(slurm(51, SLURM_ARRAY_TASK_ID="1", **array), end="failed")
    two = jobs.play(slurm(52, SLURM_ARRAY_TASK_ID="2", **array), end="failed")
    assert one[0] != two[0]
    assert jobs.play(slurm(51, SLURM_ARRAY_TASK_ID="1", **array), "b")[:2] == [one[0], 2]
    assert jobs.play(slurm(61, SLURM_ARRAY_TASK_ID="2", SLURM_ARRAY_JOB_ID="60"))[:2] == [two[0], 2]


def test_an_interactive_job_is_no_key(jobs: Jobs) -> None:
    interactive = slurm(1, SLURM_JOB_NAME="interactive")
    first = jobs.play(interactive, "a", end="failed")
    assert jobs.play(interactive, "b")[0] != first[0]
    assert jobs.play(interactive, "a")[0] == first[0]  # its directory still is


@pytest.mark.parametrize(
    "content", ["", "{", '{"version": 1, "entries": {', "[]", "null", '{"entries": 7}', "\x00\xff"]
)
def test_a_broken_resume_file_starts_anew_and_is_mended(jobs: Jobs, content: str) -> None:
    first = jobs.play(end="failed")
    path = jobs.directory / "a" / ".runlease" / "resume.json"
    assert path.exists()
    path.write_text(content)
    second = jobs.play(end="failed")
    assert second[0] != first[0]
    assert "resume.json" in jobs.stderr
    assert jobs.play()[:2] == [second[0], 2]


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
def test_a_directory_that_takes_no_file_warns_and_goes_on(jobs: Jobs) -> None:
    (jobs.directory / "a").mkdir()
    (jobs.directory / "a" / ".runlease").write_text("a file where the directory should be")
    first = jobs.play(slurm(1), end="failed")
    assert "resume" in jobs.stderr
    assert "Traceback" not in jobs.stderr
    assert jobs.play(slurm(1))[:2] == [first[0], 2]


def test_two_processes_with_one_key_make_one_run(coordinator: CoordinatorProcess, project: str) -> None:
    with runlease.Client(coordinator.address) as client:
        answers: list[Any] = []
        processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "import runlease, sys\n"
                    "try: run = runlease.init(project=sys.argv[1], resume='auto', auto_key='k', wait=0)\n"
                    "except runlease.LeaseHeld: print('held')\n"
                    "else: print('granted', flush=True); sys.stdin.read(); run.finish('failed')",
                    project,
                ],
                env=coordinator.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for _ in range(8)
        ]
        for process in processes:
            assert process.stdout
            answers.append(process.stdout.readline().strip())
        for process in processes:
            process.communicate(timeout=60)
        assert sorted(answers) == ["granted"] + ["held"] * 7
        assert len(list(client.list_runs(project))) == 1
