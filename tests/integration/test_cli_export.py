"""`runlease export`: what is in the files is the history, digit by digit, and a file is whole or not there."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import runlease

from tests.support.cli import RUNLEASE, Cli, without_module
from tests.support.coordinator import CoordinatorProcess
from tests.support.puppet import Puppet
from tests.support.terminal import Terminal
from tests.support.wait import until


@pytest.fixture(scope="module")
def cli(coordinator: CoordinatorProcess) -> Cli:
    return Cli(coordinator.env)


@pytest.fixture
def client(coordinator: CoordinatorProcess) -> Iterator[runlease.Client]:
    with runlease.Client(coordinator.address) as client:
        yield client


@pytest.fixture(scope="module")
def curve(coordinator: CoordinatorProcess) -> tuple[str, str]:
    """A run of two attempts with awkward values and keys, and a second writer's points."""
    project, id = f"test-export-{os.getpid()}", "base/line"
    start = {"project": project, "id": id, "resume": "allow", "coordinator": coordinator.address, "group": "g"}
    odd = [math.nan, math.inf, -math.inf, 5e-324, 1 / 3, -0.0]
    with runlease.init(**start, holder=True) as run:
        for step in range(10):
            run.log({"loss": 1 / (step + 3), 'odd, "key"\n': odd[step % 6]}, step=step)
            if step == 4:
                run.commit_checkpoint(4, uri="s3://bucket/4")
        member = Puppet(coordinator.env)
        try:
            member.call("init", project=project, id=id, group="g", holder=False, writer="rank1")
            member.call("log", metrics={"loss": 7.0}, step=3)
            assert member.call("finish")
        finally:
            member.close()
    with runlease.init(**start, holder=True) as run:
        for step in range(run.step, 8):
            run.log({"loss": 2.0, "step": step}, step=step)
    return project, id


def expected(client: runlease.Client, run: tuple[str, str], **query: Any) -> list[tuple[Any, ...]]:
    return [tuple(point) for point in client.history(*run, **query).rows()]


def same(found: list[tuple[Any, ...]], wanted: list[tuple[Any, ...]]) -> bool:
    """Whether two lists are equal, where NaN equals NaN and -0.0 is not 0.0."""
    return list(map(repr, found)) == list(map(repr, wanted))


def read_csv(text: str) -> list[tuple[Any, ...]]:
    header, *rows = csv.reader(text.splitlines(keepends=True))
    assert header[:6] == ["key", "step", "value", "time", "attempt", "writer"]
    return [(r[0], int(r[1]), float(r[2]), float(r[3]), int(r[4]), r[5], *r[6:]) for r in rows]


def read_parquet(path: Path) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in pq.read_table(path).to_pylist()]


def test_each_format_holds_the_history(
    cli: Cli, client: runlease.Client, curve: tuple[str, str], tmp_path: Path
) -> None:
    wanted = expected(client, curve)
    assert len(wanted) == 2 * 8 - 3 + 3
    for name in ("a.parquet", "a.csv", "a.jsonl"):
        said = cli("export", "/".join(curve), "--to", str(tmp_path / name))
        assert said.stderr == f"{'/'.join(curve)}: {len(wanted)} points to {tmp_path / name}\n"
    assert same(read_parquet(tmp_path / "a.parquet"), wanted)
    assert same(read_csv((tmp_path / "a.csv").read_bytes().decode()), wanted)
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [list(row) for row in rows[:1]] == [["key", "step", "value", "time", "attempt", "writer"]]
    named = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    assert same(
        [(*list(r.values())[:2], named.get(r["value"], r["value"]), *list(r.values())[3:]) for r in rows], wanted
    )
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "a.jsonl", "a.parquet"]


def test_superseded_points_are_marked(cli: Cli, curve: tuple[str, str], tmp_path: Path) -> None:
    path = "/".join(curve)
    marked = {("loss", step, 1) for step in range(5, 10)}
    text = cli("export", path, "--superseded", "--key", "loss").stdout
    assert {(r[0], r[1], r[4]) for r in read_csv(text) if r[6] == "true"} == marked
    assert {r[6] for r in read_csv(text)} == {"true", "false"}
    lines = cli("export", path, "--superseded", "--key", "loss", "--format", "jsonl").stdout.splitlines()
    assert {(r["key"], r["step"], r["attempt"]) for r in map(json.loads, lines) if r["superseded"] is True} == marked
    cli("export", path, "--superseded", "--key", "loss", "--to", str(tmp_path / "s.parquet"))
    assert {(r[0], r[1], r[4]) for r in read_parquet(tmp_path / "s.parquet") if r[6]} == marked


def test_it_is_narrowed(cli: Cli, curve: tuple[str, str]) -> None:
    args = ("--key", "loss", "--min-step", "2", "--max-step", "3", "--writer", "main", "--writer", "rank1")
    rows = read_csv(cli("export", "/".join(curve), *args).stdout)
    assert [(r[0], r[1], r[5]) for r in rows] == [("loss", 2, "main"), ("loss", 3, "main"), ("loss", 3, "rank1")]


def test_keys_are_taken_by_pattern(cli: Cli, curve: tuple[str, str]) -> None:
    keys = {
        row[0] for row in read_csv(cli("export", "/".join(curve), "--keys-like", "s*", "--keys-like", "l?ss").stdout)
    }
    assert keys == {"loss", "step"}


def test_wide_has_a_row_a_step(cli: Cli, curve: tuple[str, str], tmp_path: Path) -> None:
    path = "/".join(curve)
    odd = 'odd, "key"\n'
    header, *rows = csv.reader(cli("export", path, "--wide").stdout.splitlines(keepends=True))
    assert header == ["step", "loss", odd, "step@main"]
    assert [row[0] for row in rows] == [str(step) for step in range(8)]
    assert rows[0] == ["0", repr(1 / 3), "nan", ""]
    assert rows[5] == ["5", "2.0", "", "5.0"]
    lines = cli("export", path, "--wide", "--format", "jsonl").stdout.splitlines()
    assert json.loads(lines[0]) == {"step": 0, "loss": 1 / 3, odd: "NaN"}
    cli("export", path, "--wide", "--to", str(tmp_path / "w.parquet"))
    first, *_, last = pq.read_table(tmp_path / "w.parquet").to_pylist()
    assert math.isnan(first[odd])
    assert last == {"step": 7, "loss": 2.0, odd: None, "step@main": 7.0}
    both = cli("export", path, "--wide", "--writer", "main", "--writer", "rank1", "--key", "loss").stdout.splitlines()
    assert both[0] == "step,loss@main,loss@rank1"
    assert [line for line in both if line.endswith(",7.0")] == [f"3,{1 / 6!r},7.0"]


def test_a_project_becomes_a_file_a_run(cli: Cli, client: runlease.Client, project: str, tmp_path: Path) -> None:
    for name in ("a/1", "b"):
        with runlease.init(project=project, id=name, coordinator=client.coordinator) as run:
            run.log({"loss": 0.5})
    cli("export", project, "--to", str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path / "out")) == ["a-1.parquet", "b.parquet"]
    assert len(read_parquet(tmp_path / "out" / "b.parquet")) == 1
    # Given files that are there, when it comes again, then it replaces them only if told so.
    cli("export", project, f"{project}/b", "--to", str(tmp_path / "out"), "--format", "csv")
    before = (tmp_path / "out" / "b.csv").stat().st_ino
    assert "--force" in cli("export", project, "--to", str(tmp_path / "out"), "--format", "csv", status=1).stderr
    assert (tmp_path / "out" / "b.csv").stat().st_ino == before
    cli("export", project, "--to", str(tmp_path / "out"), "--format", "csv", "--force")
    assert (tmp_path / "out" / "b.csv").stat().st_ino != before


def test_wrong_use_is_told(cli: Cli, curve: tuple[str, str], project: str, tmp_path: Path) -> None:
    path = "/".join(curve)
    assert "--format" in cli("export", path, "--to", str(tmp_path / "a.dat"), status=2).stderr
    assert "--to DIR" in cli("export", curve[0], status=2).stderr
    assert "exclude" in cli("export", path, "--wide", "--superseded", status=2).stderr
    assert "runlease ls" in cli("export", project, "--to", str(tmp_path / "none"), status=1).stderr
    assert "cannot write" in cli("export", path, "--to", str(tmp_path / "no" / "a.csv"), status=1).stderr
    cli("export", f"{project}/absent", "--to", str(tmp_path / "absent.csv"), status=3)
    assert os.listdir(tmp_path) == []


def test_a_missing_pyarrow_is_named(cli: Cli, curve: tuple[str, str], tmp_path: Path) -> None:
    args = ("export", "/".join(curve), "--to", str(tmp_path / "a.parquet"))
    assert "pip install 'runlease[arrow]'" in without_module("pyarrow", *args, env=cli.env)
    assert os.listdir(tmp_path) == []


def test_an_interrupted_export_leaves_nothing(cli: Cli, curve: tuple[str, str], tmp_path: Path) -> None:
    # Given an export whose coordinator is stopped, when Ctrl-C comes, then neither file nor fragment is there.
    coordinator = CoordinatorProcess().start()
    try:
        assert coordinator.process
        coordinator.process.send_signal(signal.SIGSTOP)
        command = [*RUNLEASE, "export", "/".join(curve), "--to", str(tmp_path / "a.csv")]
        with Terminal(command, coordinator.env) as terminal:
            until(lambda: bool(os.listdir(tmp_path)))
            terminal.type("\x03")
            assert terminal.wait() == 130
    finally:
        coordinator.close()
    assert os.listdir(tmp_path) == []


def test_a_terminal_sees_no_parquet(cli: Cli, curve: tuple[str, str]) -> None:
    with Terminal([*RUNLEASE, "export", "/".join(curve), "--format", "parquet"], cli.env) as terminal:
        assert terminal.wait() == 2
        assert "--to FILE" in terminal.text


def test_a_terminal_sees_points_being_counted(cli: Cli, curve: tuple[str, str], tmp_path: Path) -> None:
    command = [*RUNLEASE, "export", "/".join(curve), "--to", str(tmp_path / "a.csv")]
    with Terminal(command, cli.env) as terminal:
        assert terminal.wait() == 0
        counted, _, done = terminal.text.rpartition("\x1b[K")
        assert counted.endswith(f"{'/'.join(curve)}: 16 points\r")
        assert done.strip() == f"{'/'.join(curve)}: 16 points to {tmp_path / 'a.csv'}"
