"""The demo's own checks can fail: each fault that it looks for is found and named."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import pytest
from runlease.demo import screen
from runlease.demo.histories import (
    Check,
    Point,
    every_step_once,
    nothing_superseded,
    points,
    same_points,
    superseded_kept,
    superseded_points,
)
from runlease.plot import MISSING

STEPS = {"loss": range(6), "held_out": range(2, 6, 3)}


def history(attempt: int, first: int, last: int) -> list[Point]:
    """Return the points that an attempt logged from one step to another."""
    return [
        Point(key, step, step / 3, 1000.0 + 10 * attempt + step, attempt, "main")
        for key, steps in STEPS.items()
        for step in steps
        if first <= step <= last
    ]


# A run that was killed at step 3 and resumed at step 2: attempt 1's steps 2 and 3 are superseded.
EVERYTHING = history(1, 0, 3) + history(2, 2, 5)
SHOWN = history(1, 0, 1) + history(2, 2, 5)
WHOLE = history(1, 0, 5)


def changed(shown: list[Point], key: str, step: int, change: Callable[[Point], list[Point]]) -> list[Point]:
    """Put what `change` returns in the place of one point."""
    return [p for point in shown for p in (change(point) if point[:2] == (key, step) else [point])]


def kept(everything: list[Point], shown: list[Point]) -> Check:
    return superseded_kept(everything, shown, attempt=1, start=2)


def test_a_right_history_passes_every_check() -> None:
    checks = [
        every_step_once("run", SHOWN, STEPS),
        same_points(SHOWN, WHOLE),
        kept(EVERYTHING, SHOWN),
        nothing_superseded("run", WHOLE, WHOLE),
    ]
    assert [check.faults for check in checks] == [()] * 4
    assert [len(check.lines()) for check in checks] == [1] * 4
    assert superseded_points(EVERYTHING, SHOWN) == history(1, 2, 3)


@pytest.mark.parametrize(
    ("shown", "fault"),
    [
        (changed(SHOWN, "loss", 4, lambda _: []), "loss misses step 4"),
        (changed(SHOWN, "loss", 4, lambda point: [point, point]), "loss has step 4 2 times"),
        (SHOWN + history(1, 3, 3), "loss has step 3 2 times"),
        (changed(SHOWN, "held_out", 5, lambda point: [point._replace(step=6)]), "held_out misses step 5"),
        ([*SHOWN, Point("loss", 6, 0.0, 0.0, 2, "main")], "loss has an unexpected step 6"),
        ([*SHOWN, Point("other", 0, 0.0, 0.0, 2, "main")], "other has an unexpected step 0"),
    ],
)
def test_a_missing_doubled_or_foreign_step_is_named(shown: list[Point], fault: str) -> None:
    check = every_step_once("run", shown, STEPS)
    assert not check.holds
    assert fault in check.faults
    assert check.lines()[0].startswith("FAILED")


@pytest.mark.parametrize(
    ("value", "other"), [(1.0, math.nextafter(1.0, 2.0)), (0.0, -0.0), (math.nan, 1.0), (math.inf, -math.inf)]
)
def test_values_that_differ_in_one_bit_are_named(value: float, other: float) -> None:
    left, right = (changed(SHOWN, "loss", 4, lambda p, v=v: [p._replace(value=v)]) for v in (value, other))
    assert same_points(left, left).holds
    assert same_points(left, right).faults == (f"loss at step 4: {value!r} against {other!r}",)


def test_a_point_that_only_one_history_has_is_named() -> None:
    assert same_points(SHOWN[:-1], WHOLE).faults == ("held_out at step 5: only in one of them",)
    assert same_points(SHOWN, WHOLE[1:]).faults == ("loss at step 0: only in one of them",)


@pytest.mark.parametrize(
    ("everything", "shown", "fault"),
    [
        (SHOWN, SHOWN, "no superseded point is there"),
        (EVERYTHING, EVERYTHING, "loss at step 2 of attempt 1 is still shown"),
        (EVERYTHING, SHOWN[1:], "loss at step 0 of attempt 1 is hidden"),
        (EVERYTHING, SHOWN[:-1], "held_out at step 5 of attempt 2 is hidden"),
        (EVERYTHING[1:], SHOWN, "loss at step 0 is shown but not in the full view"),
        (SHOWN + history(1, 3, 3), SHOWN, "the superseded steps are not 2..3 without a gap"),
    ],
)
def test_what_is_wrong_with_superseded_points_is_named(everything: list[Point], shown: list[Point], fault: str) -> None:
    assert fault in kept(everything, shown).faults


def test_a_hidden_point_of_an_uninterrupted_run_is_named() -> None:
    assert nothing_superseded("run", WHOLE, WHOLE[1:]).faults == ("loss at step 0 is hidden",)


def test_only_the_first_faults_are_named() -> None:
    faults = every_step_once("run", [], STEPS).faults
    assert len(faults) == 4
    assert faults[-1] == "and 5 more"


def test_rows_become_points() -> None:
    assert points([("loss", 1, 0.5, 2.0, 3, "main")]) == [Point("loss", 1, 0.5, 2.0, 3, "main")]


def test_the_curve_is_the_mean_of_each_bucket() -> None:
    shown = [Point("loss", step, float(step), 0.0, 1, "main") for step in (5, 0, 1, 4, 9)]
    shown.append(Point("other", 0, 100.0, 0.0, 1, "main"))
    assert screen.curve(shown, "loss", 4) == ([0.5, 4.5, 9.0], [0.5, 4.5, 9.0])


def test_the_table_is_aligned() -> None:
    assert screen.table(["run", "fence", "ended"], [["a", "7", "crashed"], ["longer", "-", "finished"]]) == [
        "run     fence  ended",
        "------  -----  --------",
        "a           7  crashed",
        "longer      -  finished",
    ]


def test_the_plot_fits_the_terminal_and_obeys_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("plotext", reason="the plot needs the extra `plot`")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)

    def draw() -> str:
        return screen.plot("loss", uninterrupted=WHOLE, resumed=SHOWN, superseded=history(1, 2, 3), steps=6)

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in draw()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = draw()
    assert "\x1b[" not in plain
    frame = plain.splitlines()[: screen.HEIGHT]
    assert max(map(len, frame)) <= 60
    assert sum(line.count("x") for line in frame) >= 1
    assert sum(line.count("o") for line in frame) >= 1


def test_without_plotext_the_plot_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotext", None)
    drawn = screen.plot("loss", uninterrupted=WHOLE, resumed=SHOWN, superseded=[], steps=6)
    assert drawn == f"(no plot here: {MISSING})"
    assert "pip install" in drawn
