"""Lines as an SVG, written by hand: no library draws so little."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 320, 50, 130, 12, 36
#: Okabe and Ito's colours, which the colour-blind tell apart as well.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x_unit: str, y_unit: str) -> str:
    """Return an SVG of (x, y) points by name; both axes start at 0."""
    x_end = max(x for points in series.values() for x, _ in points) or 1.0
    y_step = _step(max(y for points in series.values() for _, y in points))
    y_end = y_step * math.ceil(max(y for points in series.values() for _, y in points) / y_step)
    inner_x, inner_y = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + x / x_end * inner_x, _TOP + (1 - y / y_end) * inner_y

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"',
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for value in _ticks(y_end, y_step):
        x, y = place(0, value)
        parts.append(f'<path d="M{x:.1f} {y:.1f}H{_LEFT + inner_x}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in _ticks(x_end, _step(x_end)):
        x, y = place(value, 0)
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{_LEFT + inner_x / 2:.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{x_unit}</text>')
    parts.append(f'<text x="4" y="{_TOP + 8}">{y_unit}</text>')
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = "L".join("{:.1f} {:.1f}".format(*place(x, y)) for x, y in points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        at = _TOP + 10 + 16 * number
        parts.append(f'<rect x="{_WIDTH - _RIGHT + 12}" y="{at - 8}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT + 28}" y="{at + 1}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _step(end: float) -> float:
    """Return a round distance of ticks, of which 4 to 10 fit."""
    scale = 10.0 ** math.floor(math.log10(end / 4 or 1.0))
    return max(scale * factor for factor in (1, 2, 5) if scale * factor <= end / 4)


def _ticks(end: float, step: float) -> list[float]:
    return [step * number for number in range(int(end / step + 1e-9) + 1)]
