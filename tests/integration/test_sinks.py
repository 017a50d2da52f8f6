"""Sinks: what the trackers show, by their own readers, after resumes, and after sinks that died."""

from __future__ import annotations

import math
import os
import signal
import struct
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import runlease

from tests.support.cli import RUNLEASE, Cli, without_module
from tests.support.coordinator import CoordinatorProcess
from tests.support.puppet import Puppet
from tests.support.trackers import Shown, in_mlflow, in_tensorboard, rows_in_wandb
from tests.support.wait import until

Train = Callable[..., None]
StartSink = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def cli(coordinator: CoordinatorProcess, tmp_path: Path) -> Cli:
    """The command line, with its states and W&B's files in the test's directory."""
    return Cli(coordinator.env | {"RUNLEASE_DIR": str(tmp_path / "runlease"), "WANDB_DIR": str(tmp_path / "wb")})


@pytest.fixture
def client(coordinator: CoordinatorProcess) -> Iterator[runlease.Client]:
    with runlease.Client(coordinator.address) as client:
        yield client


@pytest.fixture
def start_sink(cli: Cli) -> Iterator[StartSink]:
    """Start sinks that follow; each is a session of its own, which is killed at the latest when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def start(*args: str) -> subprocess.Popen[str]:
        command = [*RUNLEASE, "sink", *args, "--every", "0.1"]
        started.append(
            subprocess.Popen(command, env=cli.env, stderr=subprocess.PIPE, text=True, start_new_session=True)
        )
        return started[-1]

    yield start
    for sink in started:
        kill(sink)


def kill(sink: subprocess.Popen[str]) -> None:
    """SIGKILL a sink, and what it started."""
    if sink.poll() is None:
        os.killpg(sink.pid, signal.SIGKILL)
        sink.wait()
    if sink.stderr:
        sink.stderr.close()


@pytest.fixture
def train(coordinator: CoordinatorProcess, project: str) -> Train:
    """Train one more attempt of a run: each value tells its attempt and its step."""

    def train(id: str, start: int, stop: int, *, commit: int | None = None, rewind: int | None = None) -> None:
        with runlease.init(project=project, id=id, resume="allow", coordinator=coordinator.address) as run:
            if rewind is not None:
                run.rewind(rewind)
            for step in range(start, stop):
                run.log({"loss": run.attempt + step / 1000, "eval/acc": -step}, step=step)
            if commit is not None:
                run.commit_checkpoint(commit, uri="x")

    return train


def as_floats(client: runlease.Client, project: str, id: str, *keys: str) -> list[Shown]:
    """What TensorBoard must show: values have 32 bits there."""

    def short(value: float) -> float:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])

    points = client.history(project, id, keys=keys).rows()
    return [Shown(point.key, point.step, short(point.value), point.time) for point in points]


def state_of(tmp_path: Path, sink: str, name: str) -> Path:
    (found,) = (tmp_path / "runlease" / "sinks" / sink).glob(f"*/*/{name}.json")
    return found


# TensorBoard


def test_tensorboard_hides_what_a_resume_superseded(
    cli: Cli, client: runlease.Client, train: Train, project: str, tmp_path: Path
) -> None:
    feed = ("sink", "tensorboard", project, "--logdir", str(tmp_path / "tb"), "--once")
    shown = tmp_path / "tb" / project / "r"
    train("r", 0, 20, commit=11)
    assert cli(*feed).stderr == "runlease: sent 40 points\n"
    assert in_tensorboard(shown) == as_floats(client, project, "r")
    # When the run goes back to its checkpoint, then TensorBoard drops the steps above it, logged again or not.
    train("r", 12, 15)
    assert cli(*feed).stderr == "runlease: sent 6 points\n"
    expected = as_floats(client, project, "r")
    assert [point.step for point in expected if point.key == "loss"] == list(range(15))
    assert in_tensorboard(shown) == expected
    # Given nothing new, when it comes again, then it writes nothing.
    before = {path: path.read_bytes() for path in shown.iterdir()}
    assert cli(*feed).stderr == "runlease: sent 0 points\n"
    assert {path: path.read_bytes() for path in shown.iterdir()} == before


def test_tensorboard_follows_rewinds_within_an_attempt(
    cli: Cli, client: runlease.Client, coordinator: CoordinatorProcess, project: str, tmp_path: Path
) -> None:
    feed = ("sink", "tensorboard", f"{project}/r", "--logdir", str(tmp_path / "tb"), "--once")
    with runlease.init(project=project, id="r", coordinator=coordinator.address) as run:
        for round_, start in enumerate((0, 6, 3)):
            run.rewind(start)
            for step in range(start, start + 7):
                run.log({"loss": 10 * round_ + step}, step=step)
            assert run.flush(30)
            cli(*feed)
            assert in_tensorboard(tmp_path / "tb" / project / "r") == as_floats(client, project, "r")


@pytest.mark.parametrize("lost", ["the last pass", "all of it"])
def test_tensorboard_has_each_point_once_when_a_sink_forgot(
    cli: Cli, client: runlease.Client, train: Train, project: str, tmp_path: Path, lost: str
) -> None:
    # Given a sink that was killed after it wrote and before it remembered, or whose memory is gone...
    feed = ("sink", "tensorboard", project, "--logdir", str(tmp_path / "tb"), "--once")
    shown = tmp_path / "tb" / project / "r"
    train("r", 0, 10, commit=7)
    cli(*feed)
    state = state_of(tmp_path, "tensorboard", "r")
    remembered = state.read_bytes()
    train("r", 8, 14)
    cli(*feed)
    if lost == "all of it":
        state.unlink()
    else:
        state.write_bytes(remembered)
    # ...when it is started again, then each point is there once.
    train("r", 14, 16)
    cli(*feed)
    assert in_tensorboard(shown) == as_floats(client, project, "r")


def test_tensorboard_through_kills_of_the_sink(
    cli: Cli,
    client: runlease.Client,
    coordinator: CoordinatorProcess,
    start_puppet: Callable[..., Puppet],
    start_sink: StartSink,
    project: str,
    tmp_path: Path,
) -> None:
    # Given a training that goes on, when its sink is killed again and again, then nothing is missing or doubled.
    shown = tmp_path / "tb" / project / "r"
    feed = ("tensorboard", project, "--logdir", str(tmp_path / "tb"))
    trainer = start_puppet(coordinator)
    trainer.call("init", project=project, id="r")
    trainer.call("train_forever", start=0, period_s=0.002)
    for _ in range(4):
        size = sum(path.stat().st_size for path in shown.glob("*"))
        sink = start_sink(*feed)
        until(lambda size=size: sum(path.stat().st_size for path in shown.glob("*")) > size)
        kill(sink)
    trainer.call("halt_training")
    assert trainer.call("finish")
    cli("sink", *feed, "--once")
    assert in_tensorboard(shown) == as_floats(client, project, "r")


def test_a_sink_follows_a_project_and_ends_cleanly(
    cli: Cli, client: runlease.Client, train: Train, start_sink: StartSink, project: str, tmp_path: Path
) -> None:
    # Given no run yet, when runs come while it follows, then it takes them up; SIGTERM ends it with a clean cursor.
    feed = ("tensorboard", project, "--logdir", str(tmp_path / "tb"))
    sink = start_sink(*feed)
    assert sink.stderr
    assert sink.stderr.readline() == f"runlease: feeding {project} to tensorboard; Ctrl-C ends it\n"
    for id in ("a", "b"):
        train(id, 0, 5)
        until(lambda id=id: state_is(tmp_path, id))
        assert in_tensorboard(tmp_path / "tb" / project / id) == as_floats(client, project, id)
    sink.send_signal(signal.SIGTERM)
    assert sink.stderr.read() == "runlease: sent 20 points\n"
    assert sink.wait(30) == 0
    assert cli("sink", *feed, "--once").stderr == "runlease: sent 0 points\n"


def state_is(tmp_path: Path, name: str) -> bool:
    found = list((tmp_path / "runlease" / "sinks" / "tensorboard").glob(f"*/*/{name}.json"))
    return bool(found) and '"1 finished"' in found[0].read_text()


def test_a_target_that_is_away_is_told_once_and_tried_again(
    cli: Cli, client: runlease.Client, train: Train, start_sink: StartSink, project: str, tmp_path: Path
) -> None:
    # Given a file where the directory of the runs must be...
    in_the_way = tmp_path / "tb" / project
    in_the_way.parent.mkdir()
    in_the_way.write_text("")
    train("a", 0, 5)
    train("b", 0, 5)
    feed = ("tensorboard", project, "--logdir", str(tmp_path / "tb"))
    assert "cannot write for TensorBoard" in cli("sink", *feed, "--once", status=1).stderr
    sink = start_sink(*feed)
    assert sink.stderr
    sink.stderr.readline()
    told = [sink.stderr.readline(), sink.stderr.readline()]
    assert all("trying again until it works" in line for line in told)
    # ...when it goes, then all points get there.
    in_the_way.unlink()
    until(lambda: state_is(tmp_path, "a") and state_is(tmp_path, "b"))
    sink.send_signal(signal.SIGINT)
    rest = sink.stderr.read().splitlines()
    assert sink.wait(30) == 0
    assert sorted(rest[:-1]) == [f"runlease: {project}/{id}: goes on" for id in "ab"]
    assert in_tensorboard(tmp_path / "tb" / project / "b") == as_floats(client, project, "b")


def test_two_sinks_of_one_run_and_place_are_kept_apart(cli: Cli, train: Train, project: str, tmp_path: Path) -> None:
    train("r", 0, 5)
    feed = ("sink", "tensorboard", project, "--logdir", str(tmp_path / "tb"), "--once")
    cli(*feed)
    import fcntl

    with state_of(tmp_path, "tensorboard", "r").with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another sink feeds this run" in cli(*feed, status=1).stderr
    state_of(tmp_path, "tensorboard", "r").write_text("{")
    assert "delete it to send the run again" in cli(*feed, status=1).stderr


def test_a_purged_run_gives_its_name_to_another_one(
    cli: Cli, client: runlease.Client, train: Train, project: str, tmp_path: Path
) -> None:
    feed = ("sink", "tensorboard", project, "--logdir", str(tmp_path / "tb"), "--once")
    train("r", 0, 9)
    cli(*feed)
    fence = client.get_run(project, "r").fence
    client.delete_run(project, "r", fence)
    client.delete_run(project, "r", fence, purge=True)
    train("r", 0, 4)
    cli(*feed)
    assert in_tensorboard(tmp_path / "tb" / project / "r") == as_floats(client, project, "r")
    assert len(as_floats(client, project, "r")) == 8


def test_a_fork_begins_with_its_parent_s_points(
    cli: Cli, client: runlease.Client, coordinator: CoordinatorProcess, train: Train, project: str, tmp_path: Path
) -> None:
    train("parent", 0, 10)
    with runlease.init(project=project, id="child", fork_from="parent?_step=5", coordinator=coordinator.address) as run:
        run.log({"loss": 0.5}, step=6)
    cli("sink", "tensorboard", f"{project}/child", "--logdir", str(tmp_path / "tb"), "--once")
    shown = in_tensorboard(tmp_path / "tb" / project / "child")
    assert shown == as_floats(client, project, "child")
    assert [point.step for point in shown if point.key == "loss"] == list(range(7))


# MLflow


def test_mlflow_keeps_all_values_and_takes_each_once(
    cli: Cli, client: runlease.Client, coordinator: CoordinatorProcess, train: Train, project: str, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    feed = ("sink", "mlflow", project, "--tracking-uri", uri, "--once")
    with runlease.init(project=project, id="r", coordinator=coordinator.address) as run:
        for step, value in enumerate([1 / 3, math.nan, math.inf, -math.inf]):
            run.log({"loss": value, "a,b//c": float(step)}, step=step)
        run.commit_checkpoint(1, uri="x")
    first = list(client.history(project, "r").rows())
    cli(*feed)
    state = state_of(tmp_path, "mlflow", "r")
    remembered = state.read_bytes()
    train("r", 2, 4)
    second = [point for point in client.history(project, "r").rows() if point.attempt == 2]
    assert cli(*feed).stderr == "runlease: sent 4 points\n"
    # Given a sink that was killed before it remembered what it sent, when it comes again, then nothing is doubled.
    state.write_bytes(remembered)
    assert cli(*feed).stderr == "runlease: sent 4 points\n"
    (shown,) = in_mlflow(uri, project)
    record = client.get_run(project, "r")
    assert (shown["name"], shown["status"]) == (record.name, "FINISHED")
    assert shown["tags"]["runlease.run"] == f"{project}/r"
    # MLflow has no infinities: its database keeps the largest numbers in their place.
    kept = {math.inf: 1.7976931348623157e308, -math.inf: -1.7976931348623157e308}
    expected = [
        [point.key.replace("a,b//c", "a_b/_/c"), point.step, repr(kept.get(point.value, point.value)), point.time]
        for point in first + second
    ]
    assert [row[:3] for row in shown["metrics"]] == [row[:3] for row in sorted(expected)]
    times = zip([row[3] for row in shown["metrics"]], [row[3] for row in sorted(expected)], strict=True)
    assert all(abs(found - wanted) <= 0.001 for found, wanted in times)  # whole milliseconds


# W&B


def test_wandb_offline_has_all_points_over_their_steps(
    cli: Cli, client: runlease.Client, coordinator: CoordinatorProcess, train: Train, project: str, tmp_path: Path
) -> None:
    feed = ("sink", "wandb", project, "--once")
    with runlease.init(project=project, id="r", coordinator=coordinator.address, config={"lr": 0.1}) as run:
        for step, value in enumerate([0.5, math.nan, math.inf, 2.0]):
            run.log({"loss": value, "_step": -step}, step=step)
        run.commit_checkpoint(1, uri="x")
    first = [
        point._replace(key=point.key.replace("_step", "metric/_step")) for point in client.history(project, "r").rows()
    ]
    cli(*feed, WANDB_MODE="offline")
    state = state_of(tmp_path, "wandb", "r")
    remembered = state.read_bytes()
    train("r", 2, 4)
    second = [point for point in client.history(project, "r").rows() if point.attempt == 2]
    cli(*feed, WANDB_MODE="offline")
    # W&B counts its own steps upwards; ours are a metric, and superseded points stay beside the new ones.
    found = points_of(rows_in_wandb(tmp_path / "wb", "r"))
    assert found == Counter(map(spelled, first + second))
    # Given a sink that was killed before it remembered what it sent, then W&B has that portion twice.
    state.write_bytes(remembered)
    cli(*feed, WANDB_MODE="offline")
    assert points_of(rows_in_wandb(tmp_path / "wb", "r")) == Counter(map(spelled, first + 2 * second))


def spelled(point: Any) -> tuple[str, int, str, float, int]:
    return point.key, point.step, repr(point.value), point.time, point.attempt


def points_of(rows: list[dict[str, Any]]) -> Counter[tuple[str, int, str, float, int]]:
    own = ("runlease/step", "runlease/attempt", "_timestamp", "_step", "_runtime")
    return Counter(
        (key, row["runlease/step"], repr(float(value)), row["_timestamp"], row["runlease/attempt"])
        for row in rows
        for key, value in row.items()
        if key not in own
    )


def test_wandb_has_all_points_after_its_sink_and_its_own_process_are_killed(
    cli: Cli,
    client: runlease.Client,
    coordinator: CoordinatorProcess,
    start_puppet: Callable[..., Puppet],
    start_sink: StartSink,
    project: str,
    tmp_path: Path,
) -> None:
    # Given a sink whose whole session is killed, W&B's own process too, when another goes on, then no point is missing.
    trainer = start_puppet(coordinator)
    trainer.call("init", project=project, id="r")
    trainer.call("train_forever", start=0, period_s=0.005)
    states = tmp_path / "runlease" / "sinks" / "wandb"

    def remembered() -> list[bytes]:
        return [path.read_bytes() for path in states.glob("*/*/r.json")]

    for _ in range(2):
        before = remembered()
        sink = start_sink("wandb", project, "--offline")
        until(lambda before=before: remembered() != before)
        kill(sink)
    trainer.call("halt_training")
    assert trainer.call("finish")
    cli("sink", "wandb", project, "--offline", "--once")
    found = points_of(rows_in_wandb(tmp_path / "wb", "r"))
    assert set(found) == {spelled(point) for point in client.history(project, "r").rows()}


# Missing packages


@pytest.mark.parametrize(
    ("sink", "module", "options"),
    [("tensorboard", "tensorboard", ("--logdir", "tb")), ("mlflow", "mlflow", ()), ("wandb", "wandb", ("--offline",))],
)
def test_a_missing_package_is_named(cli: Cli, sink: str, module: str, options: tuple[str, ...], tmp_path: Path) -> None:
    said = without_module(module, "sink", sink, "speech", "--state", str(tmp_path), *options, env=cli.env)
    assert f"pip install 'runlease[{sink}]'" in said
