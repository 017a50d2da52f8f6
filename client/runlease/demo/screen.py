"""What the demo draws in the terminal: the curves as one plot, the table of attempts."""

from __future__ import annotations

from collections.abc import Sequence

from runlease import plot as curves
from runlease.demo.histories import Point
from runlease.terminal import table, width

__all__ = ["curve", "plot", "table"]

#: Rows of the plot, frame included: it fits an 80x24 terminal with the lines around it.
HEIGHT = 17


def curve(points: Sequence[Point], key: str, bucket: int) -> tuple[list[float], list[float]]:
    """Return the mean step and mean value of each `bucket` steps in a row, for one key."""
    buckets: dict[int, list[Point]] = {}
    for point in points:
        if point.key == key:
            buckets.setdefault(point.step // bucket, []).append(point)
    groups = [buckets[number] for number in sorted(buckets)]
    return (
        [sum(point.step for point in group) / len(group) for group in groups],
        [sum(point.value for point in group) / len(group) for group in groups],
    )


def plot(
    key: str,
    *,
    uninterrupted: Sequence[Point],
    resumed: Sequence[Point],
    superseded: Sequence[Point],
    steps: int,
) -> str:
    """Draw both runs' curves of `key` as one plot, or say why there is none."""
    bucket = max(1, steps // 60)
    # Every third mean: enough to see that the marks lie on the line, and to still see the line.
    marks_x, marks_y = curve(resumed, key, bucket)
    drawn = [
        curves.Curve(*curve(uninterrupted, key, bucket)),
        curves.Curve(marks_x[::3], marks_y[::3], marker="o"),
        *([curves.Curve(*curve(superseded, key, bucket), marker="x")] if superseded else []),
    ]
    try:
        frame = curves.draw(drawn, columns=width() - 3, rows=HEIGHT, steps=(0, steps))
    except curves.PlotUnavailable as reason:
        return f"(no plot here: {reason})"
    legend = [
        f"{key} in nats per character by step, mean of {bucket} steps a dot",
        "line: never interrupted    o: killed and resumed    x: superseded (logged, then redone)",
    ]
    return "\n".join([*frame, *legend])
