"""`runlease ls`, `show` and `delete`: runs and who holds them."""

from __future__ import annotations

import heapq
import itertools
import sys
from collections.abc import Iterable

import click

from runlease.cli.errors import CANNOT_START, HELD, Failure
from runlease.cli.options import (
    connection_options,
    open_client,
    output_option,
    project_argument,
    run_argument,
)
from runlease.cli.output import cell, duration, echo_json, printable
from runlease.cli.record import record_lines, state_style
from runlease.records import STATES, RunRecord
from runlease.terminal import coloured, table

_HEADER = ("state", "run", "name", "holder", "attempt", "ttl left", "last step", "last log", "points")


@click.command(
    "ls",
    short_help="List runs and who holds them.",
    epilog="""\b
Examples:
  runlease ls
  runlease ls speech --state running
  runlease ls --tag nightly -o json

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
    limit: int,
    output: str,
    coordinator: str | None,
    token: str | None,
) -> None:
    """List the runs of PROJECT, or of all projects, most recently updated first."""
    with open_client(coordinator, token) as client:
        every = client.list_runs(project, states=states, tags=tags)
        runs = list(itertools.islice(every, limit + 1)) if project else _newest(every, limit + 1)
    if output == "json":
        echo_json(runs[:limit])
        return
    if not runs:
        click.echo(_nothing(project, filtered=bool(states or tags)))
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
    """Show a run: its lease, attempts, checkpoints, config, tags and notes."""
    with open_client(coordinator, token) as client:
        record = client.get_run(*run)
    if output == "json":
        echo_json(record)
    else:
        click.echo("\n".join(record_lines(record)))


@click.command(
    short_help="Delete a run.",
    epilog="""\b
Examples:
  runlease delete speech/nbs1e6hk
  runlease delete speech/nbs1e6hk --yes --reason "wrong data"
""",
)
@run_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--reason", default="", metavar="TEXT", help="Recorded with the deletion.")
@connection_options
def delete(run: tuple[str, str], yes: bool, reason: str, coordinator: str | None, token: str | None) -> None:
    """Delete a run that nobody holds.

    The run as it is shown is deleted, or none: if somebody acquires it meanwhile, nothing happens.
    Its ID stays taken, so that nothing can be mistaken for it later. This version cannot undo it.
    """
    if not yes and not sys.stdin.isatty():
        raise Failure("stdin is no terminal, so nobody can be asked: give --yes", CANNOT_START)
    with open_client(coordinator, token) as client:
        record = client.get_run(*run)
        path = printable(record.path)
        if record.state == "deleted":
            click.echo(f"{path} was deleted before; nothing to do")
            return
        if record.state == "running":
            left = duration(record.remaining_s)
            raise Failure(
                f"{path} is held by {record.holder}: end that process first (if it is dead "
                f"already, its lease expires in {left})",
                HELD,
            )
        click.echo(f"{path} ({cell(record.name)}): {record.state}, {_count(record.attempt, 'attempt')}, ", nl=False)
        click.echo(_count(record.points, "point"))
        if not yes and not click.confirm("Delete it?"):
            raise Failure("nothing was deleted")
        client.delete_run(record.project, record.id, record.fence, reason=reason)
    click.echo(f"deleted {path}")


def _newest(runs: Iterable[RunRecord], limit: int) -> list[RunRecord]:
    # The coordinator orders runs within a project only.
    return heapq.nlargest(limit, runs, key=lambda run: run.updated_s)


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
        return f"no such runs{where}: leave out --state and --tag to see all"
    return f"no runs{where} yet: a training that calls runlease.init(...) makes one; `runlease demo` shows how"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
