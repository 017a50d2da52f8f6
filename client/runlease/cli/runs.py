"""`runlease ls` and `show`: runs and who holds them."""

from __future__ import annotations

import itertools
from collections import deque

import click

from runlease.cli.events import event_line
from runlease.cli.options import (
    connection_options,
    open_client,
    output_option,
    project_argument,
    run_argument,
)
from runlease.cli.output import cell, duration, echo_json
from runlease.cli.record import record_lines, state_style
from runlease.records import STATES, RunRecord
from runlease.terminal import coloured, table

_HEADER = ("state", "run", "name", "holder", "attempt", "ttl left", "last step", "last log", "points")

#: Events that `show` prints; `runlease events` prints all.
_SHOWN_EVENTS = 10


@click.command(
    "ls",
    short_help="List runs and who holds them.",
    epilog="""\b
Examples:
  runlease ls
  runlease ls speech --state running
  runlease ls --tag nightly -o json
  runlease ls --text nbs --host node-17

`ttl left` is the time until the lease expires if its holder does not renew it;
`last log` is the age of the last accepted points.
""",
)
@project_argument
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state for state in STATES if state != "deleted"]),
    help="Only runs in this state; can be given several times.",
)
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only runs with this tag (all, if several).")
@click.option("--text", metavar="TEXT", help="Only runs whose ID or name contains this.")
@click.option("--host", metavar="HOST", help="Only runs whose last holder was on this host.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    metavar="N",
    help="At most so many, newest first.",
)
@output_option
@connection_options
def list_runs(
    project: str | None,
    states: tuple[str, ...],
    tags: tuple[str, ...],
    text: str | None,
    host: str | None,
    limit: int,
    output: str,
    coordinator: str | None,
    token: str | None,
) -> None:
    """List the runs of PROJECT, or of all projects, most recently updated first."""
    with open_client(coordinator, token) as client:
        found = client.list_runs(project, states=states, tags=tags, text=text or "", host=host or "")
        runs = list(itertools.islice(found, limit + 1))
    if output == "json":
        echo_json(runs[:limit])
        return
    if not runs:
        click.echo(_nothing(project, filtered=bool(states or tags or text or host)))
        return
    rows = [_row(run) for run in runs[:limit]]
    styles = {"state": state_style} if coloured() else {}
    click.echo("\n".join(table(_HEADER, rows, styles)))
    if len(runs) > limit:
        click.echo(f"(the newest {limit}; --limit shows more)", err=True)


@click.command(
    short_help="Show all about one run.",
    epilog="""\b
Examples:
  runlease show speech/nbs1e6hk
  runlease show speech/nbs1e6hk -o json
""",
)
@run_argument
@output_option
@connection_options
def show(run: tuple[str, str], output: str, coordinator: str | None, token: str | None) -> None:
    """Show a run: its lease, attempts, checkpoints, config, tags, notes and latest events."""
    with open_client(coordinator, token) as client:
        record = client.get_run(*run)
        if output == "json":
            echo_json(record)
            return
        latest = deque(client.events(record.project, record.canonical_id), _SHOWN_EVENTS)
    lines = [*record_lines(record), *(("", "events") if latest else ()), *map(event_line, latest)]
    click.echo("\n".join(lines))


def _row(run: RunRecord) -> list[str]:
    held = run.state == "running"
    return [
        run.state,
        cell(run.path),
        cell(run.name),
        cell(f"{run.holder.host}:{run.holder.pid}") if held else "-",
        str(run.attempt),
        duration(run.remaining_s) if held else "-",
        str(run.last_step) if run.last_step >= 0 else "-",
        duration(run.store_time_s - run.last_log_s) if run.last_log_s is not None else "-",
        str(run.points),
    ]


def _nothing(project: str | None, *, filtered: bool) -> str:
    where = f" in project {project}" if project else ""
    if filtered:
        return f"no such runs{where}: leave out --state, --tag, --text and --host to see all"
    return f"no runs{where} yet: a training that calls runlease.init(...) makes one; `runlease demo` shows how"
