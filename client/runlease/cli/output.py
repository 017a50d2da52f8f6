"""What commands print: JSON without bare NaN, durations, times, text that cannot steer the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any

import click

#: Characters of a value in a table, before it is cut.
_WIDEST = 60


def to_json(value: Any) -> Any:
    """Return records as JSON values: dataclasses become objects, NaN and infinities strings."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def echo_json(value: Any) -> None:
    """Print a record, or a list of records, as indented JSON."""
    click.echo(json.dumps(to_json(value), indent=2, allow_nan=False))


def echo_json_rows(rows: Iterable[Any]) -> None:
    """Print a JSON list with one row a line, without holding all of it in memory."""
    opening = "["
    for row in rows:
        click.echo(opening)
        click.echo(json.dumps(to_json(row), allow_nan=False), nl=False)
        opening = ","
    click.echo("[]" if opening == "[" else "\n]")


def printable(text: str) -> str:
    r"""Return text with its control characters written out, as in `\x1b`: IDs and messages may hold any."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def cell(text: str) -> str:
    """Return text for one cell of a table: printable, on one line, cut where it is long."""
    line = printable(text.replace("\n", " "))
    return line if len(line) <= _WIDEST else line[: _WIDEST - 3] + "..."


def json_cell(value: Any) -> str:
    """Return a JSON value for one cell of a table."""
    return cell(json.dumps(to_json(value), ensure_ascii=False))


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: `0.4s`, `23s`, `5m03s`, `2h05m`, `3d04h`."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for unit, size, next_unit, next_size in (
        ("d", 86_400, "h", 3600),
        ("h", 3600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // next_size:02d}{next_unit}"
    return f"{whole}s"


def moment(time_s: float) -> str:
    """Return UNIX seconds as local time with its offset, to the second."""
    return datetime.fromtimestamp(time_s).astimezone().isoformat(sep=" ", timespec="seconds")


def number(value: float) -> str:
    """Return a metric's value as tables show it: six digits."""
    return f"{value:.6g}"


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 attempt`, `2 attempts`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
