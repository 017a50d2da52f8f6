"""`runlease compare`: two runs of one training that part at a step."""

from __future__ import annotations

import math
import os

import pytest
import runlease

from tests.support.cli import Cli, without_module
from tests.support.coordinator import CoordinatorProcess

PROJECT = f"test-compare-{os.getpid()}"


@pytest.fixture(scope="module")
def cli(coordinator: CoordinatorProcess) -> Cli:
    """Runs a and b part at step 60, b is longer; a and twin are equal, NaN included."""
    for name, steps, offset in (("a", 100, 0.0), ("twin", 100, 0.0), ("b", 110, 0.25)):
        config = {"lr": 0.1, "seed": 1} if offset == 0 else {"lr": 0.2, "seed": 1, "note": "x"}
        with runlease.init(project=PROJECT, id=name, coordinator=coordinator.address, config=config) as run:
            for step in range(steps):
                loss = 4.0 - step / 50 + (offset * (step - 59) if step >= 60 else 0.0)
                run.log({"loss": math.nan if step == 7 else loss, "acc": 0.5}, step=step)
    return Cli(coordinator.env)


def test_what_differs_is_told(cli: Cli) -> None:
    lines = cli("compare", f"{PROJECT}/a", f"{PROJECT}/b").stdout.splitlines()
    assert lines[0].startswith(f"A  {PROJECT}/a (")
    assert lines[1].startswith(f"B  {PROJECT}/b (")
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert rows["acc"] == ["100", "0", "10", "0", "0", "0", "-", "-"]
    assert rows["loss"] == ["100", "0", "10", "0", "10", "10", "99", "step", "60"]
    assert rows["lr"] == ["0.1", "0.2"]
    assert rows["note"] == ["(absent)", '"x"']
    assert "seed" not in rows
    assert rows["60"] == ["2.8", "3.05", "0.25"]
    assert rows["0"] == ["4", "4", "0"]  # of acc first, then of loss, which is the later one
    assert "(10 of 100 steps; --max-points 0 shows all)" in lines


def test_all_steps_are_shown_when_asked_for(cli: Cli) -> None:
    args = ("compare", f"{PROJECT}/a", f"{PROJECT}/b", "--key", "loss", "--max-points", "0")
    rows = [line.split() for line in cli(*args).stdout.splitlines()]
    assert ["7", "nan", "nan", "0"] in rows
    assert len([row for row in rows if row and row[0].isdigit()]) == 100


def test_json_has_all_of_it(cli: Cli) -> None:
    found = cli.json("compare", f"{PROJECT}/a", f"{PROJECT}/b")
    assert found["identical"] is False
    assert found["config"] == [{"key": "lr", "a": 0.1, "b": 0.2}, {"key": "note", "b": "x"}]
    acc, loss = found["keys"]
    assert (acc["identical"], acc["common_steps"], acc["only_b"]) == (False, 100, 10)
    assert loss["first_different_step"] == 60
    assert (loss["largest_difference"], loss["largest_step"]) == (10.0, 99)
    assert len(loss["values"]) == 100
    assert loss["values"][7] == {"step": 7, "a": "NaN", "b": "NaN", "difference": 0.0}
    few = cli.json("compare", f"{PROJECT}/a", f"{PROJECT}/b", "--max-points", "4")["keys"][1]["values"]
    assert [row["step"] for row in few] == [0, 33, 60, 99]


def test_identical_histories_say_so(cli: Cli) -> None:
    said = cli("compare", f"{PROJECT}/a", f"{PROJECT}/twin").stdout
    assert "identical histories: 200 points of 2 keys, value by value\nidentical configs\n" in said
    assert cli.json("compare", f"{PROJECT}/a", f"{PROJECT}/twin")["identical"] is True


def test_both_curves_are_in_one_frame_without_colour(cli: Cli) -> None:
    pytest.importorskip("plotext", reason="plots need the extra `plot`")
    args = ("compare", f"{PROJECT}/a", f"{PROJECT}/b", "--key", "loss", "--plot")
    frame = cli(*args, COLUMNS="70").stdout.partition("\nloss\n")[2].splitlines()
    assert any("⠀" < sign <= "⣿" for line in frame for sign in line)
    assert sum(line.count("o") for line in frame[:17]) >= 10
    assert frame[-1] == f"line: A, {PROJECT}/a    o: B, {PROJECT}/b"
    assert max(map(len, frame)) <= 70


def test_refusals(cli: Cli) -> None:
    both = (f"{PROJECT}/a", f"{PROJECT}/b")
    cli("compare", f"{PROJECT}/a", f"{PROJECT}/absent", status=3)
    assert "exclude" in cli("compare", *both, "--plot", "-o", "json", status=2).stderr
    assert "neither has such points" in cli("compare", *both, "--key", "nothing").stdout
    assert "runlease[plot]" in without_module("plotext", "compare", *both, "--plot", env=cli.env)
