"""Curves in the terminal, drawn by plotext (the extra `plot`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from runlease import terminal

#: Marker that connects its points; any other marker is drawn at each point.
LINE = "braille"
MISSING = "it needs plotext 6: pip install 'runlease[plot]'"
NO_UTF8 = "it is drawn in Unicode, and this terminal's encoding is {encoding}"
#: Narrower or flatter ones have no room for their axes.
_SMALLEST = (20, 6)
#: Beyond it the span of an axis may overflow.
_HIGHEST = 1e300


class PlotUnavailable(RuntimeError):
    """No plot can be drawn here; the message says why, with the remedy."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Points (equally long, finite) and the marker to draw them with."""

    steps: Sequence[float]
    values: Sequence[float]
    marker: str = LINE


def draw(curves: Sequence[Curve], *, columns: int, rows: int, steps: tuple[float, float] | None = None) -> list[str]:
    """Draw curves over one another into a frame of `columns` x `rows` characters; return the lines.

    Args:
        curves: at least one with a point in it; later ones lie on top.
        columns: width, axis included.
        rows: height, axis included.
        steps: the range of the horizontal axis; default: that of the points.

    Raises:
        PlotUnavailable: plotext is missing or too old, or the output cannot show Unicode.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if not encoding.lower().startswith("utf"):
        raise PlotUnavailable(NO_UTF8.format(encoding=encoding))
    try:
        import plotext
    except ImportError:
        raise PlotUnavailable(MISSING) from None
    if not hasattr(plotext, "figure"):  # plotext 5 has other names for everything
        raise PlotUnavailable(MISSING)

    low, high = steps or _range(curves)
    figure = plotext.figure
    figure.clear()
    figure.theme("simple")
    figure.plot_size(max(_SMALLEST[0], columns), max(_SMALLEST[1], rows))
    ticks = sorted({round(low + (high - low) * quarter / 4) for quarter in range(5)})
    figure.ruler("x").lim(low, high).ticks(ticks, [str(tick) for tick in ticks])
    for curve in curves:
        signal = figure.signal(list(curve.steps), list(curve.values), marker=curve.marker)
        if curve.marker == LINE:
            signal.lines()
        figure.draw(signal)
    drawn = str(figure.build().string())
    if not terminal.coloured():
        drawn = str(plotext.uncolorize(drawn))
    return [row.rstrip() for row in drawn.strip("\n").splitlines()]


def thin(steps: Sequence[int], values: Sequence[float], buckets: int) -> tuple[list[int], list[float]]:
    """Keep the lowest and the highest value of each of `buckets` equal parts of the steps, so every spike.

    Steps ascend; NaN, infinities and what is close to them are left out.
    """
    finite = [(step, value) for step, value in zip(steps, values, strict=True) if abs(value) < _HIGHEST]
    if len(finite) > 2 * buckets:
        first, span = finite[0][0], finite[-1][0] - finite[0][0] + 1
        parts: dict[int, list[tuple[int, float]]] = {}
        for point in finite:
            parts.setdefault((point[0] - first) * buckets // span, []).append(point)
        ends = ((min(part, key=_value), max(part, key=_value)) for part in parts.values())
        finite = [point for pair in ends for point in sorted(set(pair))]
    return [step for step, _ in finite], [value for _, value in finite]


def _value(point: tuple[int, float]) -> float:
    return point[1]


def _range(curves: Sequence[Curve]) -> tuple[float, float]:
    found = [step for curve in curves for step in curve.steps]
    low, high = min(found), max(found)
    return low, high if high > low else low + 1
