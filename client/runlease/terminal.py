"""Text for terminals: how wide they are, whether they take colour, tables in plain columns."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence

#: Cells that stand to the right of their column: numbers, also with units as in `5m03s`, and `-` for none.
_NUMBER = re.compile(r"-|nan|[-+]?inf|[-+]?\d[\d.]*(e[-+]?\d+)?([smhd]\d+)?[smhd]?")


def width(at_most: int = 100) -> int:
    """Return the columns to use: the terminal's, 80 where there is none."""
    return min(at_most, shutil.get_terminal_size((80, 24)).columns)


def coloured() -> bool:
    """Return whether stdout shall have colour."""
    # https://no-color.org: set and not empty turns colour off.
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    styles: Mapping[str, Callable[[str], str]] | None = None,
) -> list[str]:
    """Lay out cells in columns, numbers to the right; return the lines.

    Args:
        header: the columns' names.
        rows: one cell a column each.
        styles: by column, what adds colour to a cell; called with the bare text, applied around it.
    """
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(_NUMBER.fullmatch(cell) for cell in column[1:]) for column in columns]

    def line(cells: Sequence[str], style: Mapping[str, Callable[[str], str]]) -> str:
        laid = []
        for name, cell, wide, to_right in zip(header, cells, widths, right, strict=True):
            gap = " " * (wide - len(cell))
            shown = style[name](cell) if name in style else cell
            laid.append(gap + shown if to_right else shown + gap)
        return "  ".join(laid).rstrip()

    rule = "  ".join("-" * wide for wide in widths)
    return [line(header, {}), rule, *(line(row, styles or {}) for row in rows)]
