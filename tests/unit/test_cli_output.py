"""What the command line prints, and how it ends, without a coordinator."""

from __future__ import annotations

import io
import json
import math
import sys
from dataclasses import dataclass

import click
import pytest
from runlease import exceptions, plot
from runlease.cli.errors import FAILED, HELD, NOT_FOUND, UNAVAILABLE, exit_code
from runlease.cli.output import cell, duration, echo_json, echo_json_rows, number, printable, to_json
from runlease.cli.serve import _is_local
from runlease.terminal import table


@dataclass(frozen=True, slots=True)
class Inner:
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Outer:
    name: str
    inner: Inner | None
    config: dict[str, object]


def strict(text: str) -> object:
    def refuse(constant: str) -> None:
        raise AssertionError(f"bare {constant} in JSON")

    return json.loads(text, parse_constant=refuse)


def test_records_become_json_without_bare_constants(capsys: pytest.CaptureFixture[str]) -> None:
    record = Outer("é", Inner((math.nan, math.inf, -math.inf, 0.5)), {"a": [1, True, None, math.nan]})
    echo_json([record])
    assert strict(capsys.readouterr().out) == [
        {
            "name": "é",
            "inner": {"values": ["NaN", "Infinity", "-Infinity", 0.5]},
            "config": {"a": [1, True, None, "NaN"]},
        }
    ]


def test_whole_numbers_keep_every_digit() -> None:
    assert json.dumps(to_json({"fence": 2**53 - 1, "flag": True})) == '{"fence": 9007199254740991, "flag": true}'


@pytest.mark.parametrize("rows", [[], [{"a": 1}], [{"a": 1}, {"a": math.nan}]])
def test_streamed_rows_are_one_json_list(rows: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    echo_json_rows(iter(rows))
    assert strict(capsys.readouterr().out) == to_json(rows)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0.0s"),
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (303, "5m03s"),
        (3599.7, "1h00m"),
        (7500, "2h05m"),
        (86_400 * 3 + 4 * 3600, "3d04h"),
    ],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_text_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[31m\r\x07b\x9bé\n") == "a\\x1b[31m\\r\\x07b\\x9bé\n"
    assert cell("two\nlines") == "two lines"
    assert cell("x" * 100) == "x" * 57 + "..."


def test_metrics_have_six_digits() -> None:
    assert [number(v) for v in (0.1, 1 / 3, 1e-9, math.nan, -math.inf)] == ["0.1", "0.333333", "1e-09", "nan", "-inf"]


def test_numbers_stand_to_the_right_and_colour_takes_no_room() -> None:
    header = ("state", "age", "value", "run")
    rows = [("up", "5m03s", "-1e-09", "10"), ("down", "-", "nan", "x1")]
    plain = [
        "state    age   value  run",
        "-----  -----  ------  ---",
        "up     5m03s  -1e-09  10",
        "down       -     nan  x1",
    ]
    assert table(header, rows) == plain
    styled = table(header, rows, {"state": lambda text: click.style(text, fg="red")})
    assert styled[2] == "\x1b[31mup\x1b[0m     5m03s  -1e-09  10"
    assert [click.unstyle(line) for line in styled] == plain


def test_every_exception_has_an_exit_code() -> None:
    kinds = {name: getattr(exceptions, name) for name in exceptions.__all__}
    codes = {
        name: exit_code(kind("why", cause="ended") if name == "LeaseLost" else kind("why"))
        for name, kind in kinds.items()
    }
    special = {
        "InvalidArgument": 2,
        "InvalidRunId": 2,
        "RunNotFound": NOT_FOUND,
        "LeaseHeld": HELD,
        "RunExists": HELD,
        "CoordinatorUnavailable": UNAVAILABLE,
    }
    assert codes == dict.fromkeys(kinds, FAILED) | special


@pytest.mark.parametrize(
    ("listen", "local"),
    [
        ("127.0.0.1:7373", True),
        ("127.8.0.1:0", True),
        ("localhost:7373", True),
        ("[::1]:7373", True),
        ("unix:/run/x.sock", True),
        ("0.0.0.0:7373", False),
        ("[::]:7373", False),
        ("10.0.0.7:7373", False),
        ("trainer.example:7373", False),
    ],
)
def test_only_loopback_and_sockets_are_local(listen: str, local: bool) -> None:
    assert _is_local(listen) is local


def test_thinning_keeps_both_ends_of_every_bucket() -> None:
    steps = list(range(1000))
    values = [0.0] * 1000
    values[123], values[777] = 50.0, -50.0
    values[5] = math.nan
    thin_steps, thin_values = plot.thin(steps, values, 20)
    assert len(thin_steps) <= 40
    assert thin_steps == sorted(set(thin_steps))
    found = dict(zip(thin_steps, thin_values, strict=True))
    assert (found[123], found[777]) == (50.0, -50.0)


def test_few_points_are_left_as_they_are() -> None:
    assert plot.thin([0, 2, 9], [1.0, math.inf, 3.0], 20) == ([0, 9], [1.0, 3.0])
    assert plot.thin([0], [math.nan], 20) == ([], [])


@pytest.mark.parametrize(
    ("steps", "values"),
    [([5], [3.0]), ([0, 1], [2.0, 2.0]), ([0, 1], [9e299, -9e299]), ([2**53 - 3, 2**53 - 2], [0.0, 1e-300])],
)
def test_unusual_curves_are_drawn(steps: list[int], values: list[float]) -> None:
    pytest.importorskip("plotext", reason="plots need the extra `plot`")
    drawn = plot.draw([plot.Curve(steps, values)], columns=60, rows=9)
    assert len(drawn) == 9
    assert max(map(len, drawn)) <= 60
    assert any("⠀" < sign <= "⣿" for line in drawn for sign in line)


def test_a_terminal_without_unicode_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    with pytest.raises(plot.PlotUnavailable, match="latin-1"):
        plot.draw([plot.Curve([0], [1.0])], columns=60, rows=9)
