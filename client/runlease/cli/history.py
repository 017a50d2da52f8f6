"""`runlease history`: a run's metrics as a table, as JSON, or drawn in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from runlease import plot, terminal
from runlease.cli.errors import CANNOT_START, Failure
from runlease.cli.options import connection_options, open_client, output_option, run_argument, selection_options
from runlease.cli.output import cell, echo_json_rows, moment, number, printable
from runlease.history import History, Series

#: Rows of a plot, frame included: with its title it fits an 80x24 terminal.
_PLOT_ROWS = 17
#: Braille has two dots a column, each with a lowest and a highest point; half of the room may go to superseded ones.
_POINTS_A_COLUMN = 8


@click.command(
    short_help="Print or plot a run's metrics.",
    epilog="""\b
Examples:
  runlease history speech/nbs1e6hk --plot
  runlease history speech/nbs1e6hk --key loss --min-step 1000
  runlease history speech/nbs1e6hk --keys-like "train/*" --max-points 100
  runlease history speech/nbs1e6hk -o json > history.json

JSON is a list of {key, step, value, time, attempt, writer}, with
`superseded` where --superseded is given; `time` is UNIX seconds. JSON knows no
NaN and no infinities: these values are the strings "NaN", "Infinity" and
"-Infinity".
""",
)
@run_argument
@selection_options
@click.option(
    "--max-points",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most so many points a metric: the lowest and highest of each part of the steps, so every spike.",
)
@click.option(
    "--superseded",
    is_flag=True,
    help="Also points that a later attempt replaced: one line a point, marked.",
)
@click.option(
    "--writer",
    "writers",
    multiple=True,
    metavar="WRITER",
    help="Whose points; can be given several times.  [default: main]",
)
@click.option("--plot", "plotted", is_flag=True, help="Draw curves in the terminal; needs the extra `plot`.")
@output_option
@connection_options
def history(
    run: tuple[str, str],
    keys: tuple[str, ...],
    key_patterns: tuple[str, ...],
    min_step: int | None,
    max_step: int | None,
    max_points: int | None,
    superseded: bool,
    writers: tuple[str, ...],
    plotted: bool,
    output: str,
    coordinator: str | None,
    token: str | None,
) -> None:
    """Print a run's metrics: one line a step, one column a key."""
    if plotted and output == "json":
        raise click.UsageError("--plot and -o json exclude each other")
    with open_client(coordinator, token) as client:
        found = client.history(
            *run,
            keys=keys,
            key_patterns=key_patterns,
            min_step=min_step,
            max_step=max_step,
            # The coordinator thins out what is drawn: a plot of ten million points is as quick as one of ten.
            max_points=max_points or (_POINTS_A_COLUMN * terminal.width() if plotted else None),
            superseded=superseded,
            writers=writers,
        )
    if output == "json":
        echo_json_rows(_rows(found))
    elif not len(found):
        narrowed = bool(keys or key_patterns or writers or superseded) or min_step is not None or max_step is not None
        click.echo("no such points: see the run with `runlease show`" if narrowed else "no points yet")
    elif plotted:
        click.echo("\n".join(_plots(found)))
    else:
        click.echo("\n".join(_long_table(found) if superseded else _wide_table(found)))


def _rows(found: History) -> Iterator[dict[str, Any]]:
    for series in found.series:
        for row, step in enumerate(series.steps):
            point = {
                "key": series.key,
                "step": step,
                "value": series.values[row],
                "time": series.times[row],
                "attempt": series.attempts[row],
                "writer": series.writer,
            }
            yield point | ({"superseded": series.superseded[row]} if series.superseded else {})


def _wide_table(found: History) -> list[str]:
    several = _several_writers(found)
    columns: dict[str, Mapping[int, float]] = {
        _title(series, several): dict(zip(series.steps, series.values, strict=True)) for series in found.series
    }
    steps = sorted(set().union(*columns.values()))
    rows = [
        [str(step), *(number(column[step]) if step in column else "-" for column in columns.values())] for step in steps
    ]
    return terminal.table(["step", *columns], rows)


def _long_table(found: History) -> list[str]:
    header = ("key", "step", "value", "attempt", "writer", "time", "superseded")
    rows = [
        [
            cell(point["key"]),
            str(point["step"]),
            number(point["value"]),
            str(point["attempt"]),
            point["writer"],
            moment(point["time"]),
            "yes" if point.get("superseded") else "",
        ]
        for point in _rows(found)
    ]
    return terminal.table(header, rows)


def _plots(found: History) -> Iterator[str]:
    """Yield one plot a series: metrics rarely share a scale."""
    several = _several_writers(found)
    columns = terminal.width()
    for place, series in enumerate(found.series):
        if place:
            yield ""
        yield _title(series, several)
        yield from _plot(series, columns)


def _plot(series: Series, columns: int) -> Iterator[str]:
    hidden = series.superseded or [False] * len(series.steps)
    curves = []
    for wanted, marker in ((True, "x"), (False, plot.LINE)):
        rows = [row for row, is_hidden in enumerate(hidden) if is_hidden is wanted]
        steps, values = plot.thin([series.steps[r] for r in rows], [series.values[r] for r in rows], 2 * columns)
        if steps:
            curves.append(plot.Curve(steps, values, marker))
    if not curves:
        yield "(no finite value to draw)"
        return
    try:
        yield from plot.draw(curves, columns=columns, rows=_PLOT_ROWS)
    except plot.PlotUnavailable as reason:
        raise Failure(f"no plot here: {reason}", CANNOT_START) from reason
    if any(series.superseded):
        yield "x: superseded (logged, then redone by a later attempt)"


def _several_writers(found: History) -> bool:
    return len({series.writer for series in found.series}) > 1


def _title(series: Series, several: bool) -> str:
    return printable(f"{series.key}@{series.writer}" if several else series.key)
