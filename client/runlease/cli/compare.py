"""`runlease compare`: two runs side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from runlease import plot, terminal
from runlease.cli.errors import CANNOT_START, Failure
from runlease.cli.options import connection_options, open_client, output_option, run_path_callback, selection_options
from runlease.cli.output import cell, count, echo_json, json_cell, number, printable
from runlease.comparison import ConfigDifference, KeyComparison, compare_config, difference
from runlease.comparison import compare as compare_histories
from runlease.history import History
from runlease.records import RunRecord

#: Rows of a plot, frame included: with title and legend it fits an 80x24 terminal.
_PLOT_ROWS = 17


@click.command(
    short_help="Show two runs side by side.",
    epilog="""\b
Examples:
  runlease compare speech/nbs1e6hk speech/q3kd82ma
  runlease compare speech/nbs1e6hk speech/q3kd82ma --key loss --plot
  runlease compare speech/nbs1e6hk speech/q3kd82ma -o json

\b
Differences are B - A, at steps that both runs have. NaN equals NaN. A table
shows at most --max-points steps a key: the first and the last one, the first
that differs, the one that differs most, and others evenly between them. JSON
has all steps unless --max-points is given.
""",
)
@click.argument("a", callback=run_path_callback, metavar="A")
@click.argument("b", callback=run_path_callback, metavar="B")
@selection_options
@click.option(
    "--max-points",
    type=click.IntRange(min=0),
    metavar="N",
    help="Show at most so many steps a key, 0: all.  [default: 10; json: 0]",
)
@click.option("--plot", "plotted", is_flag=True, help="Draw both curves in one frame; needs the extra `plot`.")
@output_option
@connection_options
def compare(
    a: tuple[str, str],
    b: tuple[str, str],
    keys: tuple[str, ...],
    key_patterns: tuple[str, ...],
    min_step: int | None,
    max_step: int | None,
    max_points: int | None,
    plotted: bool,
    output: str,
    coordinator: str | None,
    token: str | None,
) -> None:
    """Compare the metrics and the config of runs A and B, each as PROJECT/RUN."""
    if plotted and output == "json":
        raise click.UsageError("--plot and -o json exclude each other")
    query: dict[str, Any] = {"keys": keys, "key_patterns": key_patterns, "min_step": min_step, "max_step": max_step}
    with open_client(coordinator, token) as client:
        records = client.get_run(*a), client.get_run(*b)
        histories = client.history(*a, **query), client.history(*b, **query)
    found = compare_histories(*histories)
    config = compare_config(records[0].config, records[1].config)
    if output == "json":
        echo_json(_json(records, found, config, max_points or 0))
        return
    click.echo("\n".join(_summary(records, found, config)))
    if plotted:
        click.echo("\n".join(_plots(records, histories, found)))
    else:
        click.echo("\n".join(_values(found, 10 if max_points is None else max_points)), nl=bool(found))


def _summary(
    records: tuple[RunRecord, RunRecord], found: Sequence[KeyComparison], config: Sequence[ConfigDifference]
) -> Iterator[str]:
    for letter, record in zip("AB", records, strict=True):
        logged = count(record.points, "point")
        yield f"{letter}  {printable(record.path)} ({cell(record.name)})  {record.state}, {logged} logged"
    yield ""
    if not found:
        yield "neither has such points: see the runs with `runlease show`"
    elif all(one.identical for one in found):
        points = sum(len(one.steps) for one in found)
        yield f"identical histories: {count(points, 'point')} of {count(len(found), 'key')}, value by value"
    else:
        header = ("key", "common", "only A", "only B", "first B-A", "last B-A", "max |B-A|", "at step", "differ from")
        yield from terminal.table(header, [_row(one) for one in found])
    if config:
        yield ""
        there = [
            (
                cell(one.key),
                json_cell(one.a) if one.in_a else "(absent)",
                json_cell(one.b) if one.in_b else "(absent)",
            )
            for one in config
        ]
        yield from terminal.table(("config", "A", "B"), there)
    elif records[0].config or records[1].config:
        yield "identical configs"


def _row(one: KeyComparison) -> list[str]:
    def shown(value: float | None) -> str:
        return "-" if value is None else number(value)

    return [
        cell(one.key),
        str(len(one.steps)),
        str(one.only_a),
        str(one.only_b),
        shown(one.first_difference),
        shown(one.last_difference),
        shown(one.largest),
        str(one.largest_step) if one.largest else "-",
        "-" if one.first_different_step is None else f"step {one.first_different_step}",
    ]


def _values(found: Sequence[KeyComparison], at_most: int) -> Iterator[str]:
    for one in found:
        if one.identical or not one.steps:
            continue
        rows = _chosen(one, at_most)
        yield ""
        yield from terminal.table(
            ("step", f"{cell(one.key)} of A", "of B", "B-A"),
            [
                [str(one.steps[r]), number(one.a[r]), number(one.b[r]), number(difference(one.a[r], one.b[r]))]
                for r in rows
            ],
        )
        if len(rows) < len(one.steps):
            yield f"({len(rows)} of {len(one.steps)} steps; --max-points 0 shows all)"


def _chosen(one: KeyComparison, at_most: int) -> list[int]:
    """Return the rows to show: those that matter first, then evenly spaced ones."""
    total = len(one.steps)
    if not at_most or total <= at_most:
        return list(range(total))
    place = {step: row for row, step in enumerate(one.steps)}
    marked = (one.first_different_step, one.largest_step)
    wanted = [0, total - 1, *(place[step] for step in marked if step is not None)]
    wanted += [round(part * (total - 1) / max(1, at_most - 1)) for part in range(at_most)]
    return sorted(list(dict.fromkeys(wanted))[:at_most])


def _json(
    records: tuple[RunRecord, RunRecord],
    found: Sequence[KeyComparison],
    config: Sequence[ConfigDifference],
    at_most: int,
) -> dict[str, Any]:
    return {
        "a": records[0].path,
        "b": records[1].path,
        "identical": all(one.identical for one in found),
        "config": [
            {"key": one.key} | ({"a": one.a} if one.in_a else {}) | ({"b": one.b} if one.in_b else {}) for one in config
        ],
        "keys": [_json_key(one, at_most) for one in found],
    }


def _json_key(one: KeyComparison, at_most: int) -> dict[str, Any]:
    return {
        "key": one.key,
        "identical": one.identical,
        "common_steps": len(one.steps),
        "only_a": one.only_a,
        "only_b": one.only_b,
        "first_difference": one.first_difference,
        "last_difference": one.last_difference,
        "largest_difference": one.largest,
        "largest_step": one.largest_step,
        "first_different_step": one.first_different_step,
        "values": [
            {"step": one.steps[r], "a": one.a[r], "b": one.b[r], "difference": difference(one.a[r], one.b[r])}
            for r in _chosen(one, at_most)
        ],
    }


def _plots(
    records: tuple[RunRecord, RunRecord], histories: tuple[History, History], found: Sequence[KeyComparison]
) -> Iterator[str]:
    """Yield one plot a key: A as a line, B as marks of its own shape, so that it reads without colour."""
    columns = terminal.width()
    for one in found:
        curves = []
        for history, marker, buckets in zip(histories, (plot.LINE, "o"), (2 * columns, columns // 4), strict=True):
            for series in history.series:
                if series.key == one.key:
                    steps, values = plot.thin(series.steps, series.values, buckets)
                    curves += [plot.Curve(steps, values, marker)] if steps else []
        yield ""
        yield cell(one.key)
        if not curves:
            yield "(no finite value to draw)"
            continue
        try:
            yield from plot.draw(curves, columns=columns, rows=_PLOT_ROWS)
        except plot.PlotUnavailable as reason:
            raise Failure(f"no plot here: {reason}", CANNOT_START) from reason
    if found:
        yield f"line: A, {printable(records[0].path)}    o: B, {printable(records[1].path)}"
