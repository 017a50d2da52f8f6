"""The demo as a newcomer runs it: real processes, a real store, and nothing left behind however it ends."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import pytest
from runlease import demo
from runlease.demo import processes
from runlease.demo.processes import Child, Children, DemoFailed, Interrupts, poll

pytest.importorskip("numpy", reason="the demo needs the extra `demo`")

MARK = "DEMO_TEST_MARK"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to find processes")


class Stage:
    """A directory and a mark in the environment, by which whatever the demo leaves behind is found."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mark = uuid.uuid4().hex
        self.environment = os.environ | {MARK: self.mark, "TMPDIR": str(directory), "NO_COLOR": "1"}

    def processes(self) -> dict[int, str]:
        """Return PID and command of every process that has the mark."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                    if command:  # empty: a zombie that its parent has yet to collect
                        found[int(entry.name)] = command
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # gone while we looked, or somebody else's
        return found

    def left_behind(self) -> tuple[dict[int, str], list[Path]]:
        return self.processes(), list(self.directory.iterdir())


@pytest.fixture
def stage() -> Iterator[Stage]:
    # A short path: the store's socket may live below it, and socket paths are limited to 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="rl-", dir="/tmp"))
    yield (made := Stage(directory))
    for pid in made.processes() if sys.platform == "linux" else {}:
        os.kill(pid, signal.SIGKILL)
    rmtree(directory, ignore_errors=True)


def start_demo(stage: Stage) -> Child:
    return Child("demo", ["-m", "runlease", "demo"], environment=stage.environment, cwd=stage.directory)


@linux_only
@pytest.mark.timeout(240)
def test_the_demo_holds_and_leaves_nothing(stage: Stage) -> None:
    child = start_demo(stage)
    status = child.wait(200)

    output = "\n".join(child.lines)
    assert status == 0, output
    assert "FAILED" not in output
    assert output.count("ok    ") == 7
    assert "rival | refused: " in output
    assert "resuming run alice" in output
    assert "starting new run alice-uninterrupted" in output
    assert re.search(r"The successor had the lease \d+\.\d s after the trainer's death", output)
    assert "bit for bit" in output
    assert stage.left_behind() == ({}, [])


@linux_only
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(stage: Stage, signal_number: signal.Signals) -> None:
    child = start_demo(stage)
    child.wait_for_line("trainer | runlease: starting new run", 60)
    running = stage.processes().values()
    assert any("runlease serve" in command for command in running)
    assert any("runlease.demo.trainer" in command for command in running)

    child.send(signal_number)

    assert child.wait(60) == 130, child.tail()
    assert stage.left_behind() == ({}, [])


@pytest.mark.timeout(240)
def test_a_history_that_differs_fails_the_demo(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an uninterrupted training of another seed, when the demo compares, then it names the difference.
    from runlease.demo.story import WHOLE, Story

    start = Story._trainer

    def start_differently(story: Story, name: str, run: str, **more: float) -> Child:
        story._seed = 1 if run == WHOLE else 0
        return start(story, name, run, **more)

    monkeypatch.setattr(Story, "_trainer", start_differently)
    monkeypatch.setattr(tempfile, "tempdir", str(stage.directory))
    for name, value in stage.environment.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []

    assert demo.main(steps=demo.MIN_STEPS, echo=said.append) == 1

    failed = [line.strip() for line in said if "FAILED" in line]
    assert failed[0].startswith("FAILED  both histories agree")
    assert any(" at step 0: " in line and " against " in line for line in said)
    assert not any("All of it holds" in line for line in said)
    if sys.platform == "linux":
        others = {pid for pid in stage.processes() if pid != os.getpid()}
        assert (others, list(stage.directory.iterdir())) == (set(), [])


@pytest.mark.timeout(240)
def test_a_trainer_that_died_before_its_first_checkpoint_starts_over(stage: Stage) -> None:
    # Given a trainer that logs 100 steps and then cannot save, when it is started again, then it logs them
    # again from step 0 rather than go on at step 100 with an untrained model.
    import runlease

    children = Children(stage.directory, Interrupts())
    try:
        serve = ["-m", "runlease", "serve", "--listen", "127.0.0.1:0", "--data-dir"]
        coordinator = children.start("coordinator", *serve, str(stage.directory / "store"))
        address = coordinator.wait_for_line("serving on ", 60).split("serving on ")[1].split()[0]
        (stage.directory / "a-file").touch()

        def train(checkpoints: str) -> Child:
            command = ["-m", "runlease.demo.trainer", "--steps", "200", "--checkpoint-every", "100"]
            command += ["--checkpoints", checkpoints]
            return children.start("trainer", *command, RUNLEASE_COORDINATOR=address)

        assert train("a-file").wait(60) == 1
        second = train("checkpoints")
        assert second.wait(60) == 0, second.tail()

        with runlease.Client(address) as client:
            record = client.get_run("examples", "charlm")
            rows = list(client.history("examples", "charlm", keys=["loss"]).rows())
            everything = list(client.history("examples", "charlm", keys=["loss"], superseded=True).rows())
        assert [str(attempt.outcome) for attempt in record.attempts] == ["failed", "finished"]
        assert [(row[1], row[4]) for row in rows] == [(step, 2) for step in range(200)]
        assert len(everything) == 300
        assert "resuming run charlm" in "\n".join(second.lines)
    finally:
        children.end()


def test_too_few_steps_are_refused_before_anything_starts() -> None:
    said: list[str] = []
    assert demo.main(steps=demo.MIN_STEPS - 1, echo=said.append) == 2
    assert said == ["runlease demo: steps must be at least 1000, not 999: a shorter training ends before it is killed"]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "numpy" else find(name))
    said: list[str] = []
    assert demo.main(echo=said.append) == 2
    assert "pip install 'runlease[demo]'" in said[0]


def test_importing_the_demo_loads_no_numpy() -> None:
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, runlease.demo; print(sys.modules.keys() & {'numpy', 'plotext'})",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout == "set()\n"


def test_a_child_that_heeds_no_signal_is_ended_with_its_own_children(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE_S", 0.2)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    grandchild = deaf + "print('ready', flush=True); signal.pause()"
    deaf += f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    child = Child("deaf", ["-c", deaf], environment=stage.environment, cwd=stage.directory)
    child.wait_for_line("ready", 30)

    child.end()

    assert not child.running
    if sys.platform == "linux":
        for _ in poll(30):
            if not stage.processes():
                return
        pytest.fail(f"still there: {stage.processes()}")


def test_a_stopped_child_is_ended(stage: Stage) -> None:
    child = Child(
        "stopped",
        ["-c", "import signal; print('ready', flush=True); signal.pause()"],
        environment=stage.environment,
        cwd=stage.directory,
    )
    child.wait_for_line("ready", 30)
    child.send(signal.SIGSTOP)
    child.end()
    assert child.wait(0) == -signal.SIGTERM


def test_a_child_that_says_nothing_is_reported_with_its_output(stage: Stage) -> None:
    child = Child(
        "oracle",
        ["-c", "print('only this'); raise SystemExit(3)"],
        environment=stage.environment,
        cwd=stage.directory,
    )
    try:
        with pytest.raises(DemoFailed, match=r"(?s)should have said 'the answer', but .*ended.*only this"):
            child.wait_for_line("the answer", 30)
        assert child.wait(30) == 3
    finally:
        child.end()


def test_a_reader_that_has_gone_away_does_not_block_the_child(stage: Stage) -> None:
    heard = threading.Event()

    def closed(line: str) -> None:
        heard.set()
        raise BrokenPipeError

    child = Child(
        "talker",
        ["-c", "for i in range(20000): print('x' * 80)"],
        environment=stage.environment,
        cwd=stage.directory,
        on_line=closed,
    )
    assert child.wait(60) == 0
    assert heard.is_set()
    child.end()


def test_children_see_one_coordinator_and_no_settings_of_the_caller(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNLEASE_RUN_ID", "foreign")
    monkeypatch.setenv("WANDB_RESUME", "must")
    children = Children(stage.directory, Interrupts())
    show = "import os; print(*sorted(n for n in os.environ if n.startswith(('RUNLEASE_', 'WANDB_'))), 'end')"
    child = children.start("child", "-c", show, RUNLEASE_COORDINATOR="127.0.0.1:1")
    assert child.wait_for_line("end", 30) == "RUNLEASE_COORDINATOR end"
    children.end()
