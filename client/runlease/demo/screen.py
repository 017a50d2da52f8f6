"""What the demo draws in the terminal: the curves as one plot, the table of attempts."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

from runlease.demo.histories import Point

#: Rows of the plot, frame included: it fits an 80x24 terminal with the lines around it.
HEIGHT = 17
MISSING_PLOTEXT = "(no plot here: it needs plotext 6, which `pip install 'runlease[demo]'` brings)"
NO_UTF8 = "(no plot here: it is drawn in Unicode, and this terminal's encoding is {encoding})"


def width() -> int:
    """Return the columns to use: the terminal's, at most 100."""
    return min(100, shutil.get_terminal_size((80, 24)).columns)


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
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if not encoding.lower().startswith("utf"):
        return NO_UTF8.format(encoding=encoding)
    try:
        import plotext
    except ImportError:
        return MISSING_PLOTEXT
    if not hasattr(plotext, "figure"):  # plotext 5 has other names for everything
        return MISSING_PLOTEXT

    bucket = max(1, steps // 60)
    figure = plotext.figure
    figure.clear()
    figure.theme("simple")
    figure.plot_size(width() - 3, HEIGHT)
    ticks = [steps * quarter // 4 for quarter in range(5)]
    figure.ruler("x").lim(0, steps).ticks(ticks, [str(tick) for tick in ticks])
    line = figure.signal(*curve(uninterrupted, key, bucket), marker="braille")
    line.lines()
    figure.draw(line)
    # Every third mean: enough to see that the marks lie on the line, and to still see the line.
    marks_x, marks_y = curve(resumed, key, bucket)
    figure.draw(figure.signal(marks_x[::3], marks_y[::3], marker="o"))
    if superseded:
        figure.draw(figure.signal(*curve(superseded, key, bucket), marker="x"))
    drawn = str(figure.build().string())
    if not _coloured():
        drawn = str(plotext.uncolorize(drawn))
    legend = [
        f"{key} in nats per character by step, mean of {bucket} steps a dot",
        "line: never interrupted    o: killed and resumed    x: superseded (logged, then redone)",
    ]
    return "\n".join([*(row.rstrip() for row in drawn.strip("\n").splitlines()), *legend])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out cells in columns, numbers to the right; return the lines."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(cell.isdigit() or cell == "-" for cell in column[1:]) for column in columns]
    lines = [
        "  ".join(
            cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in (header, *rows)
    ]
    return [lines[0], "  ".join("-" * w for w in widths), *lines[1:]]


def _coloured() -> bool:
    # https://no-color.org: set and not empty turns colour off.
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
