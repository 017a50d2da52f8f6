"""`runlease limits`: how fast a project and its runs may log, and acquire."""

from __future__ import annotations

import click

from runlease.cli.options import connection_options, open_client, output_option
from runlease.cli.output import echo_json, printable
from runlease.exceptions import InvalidArgument
from runlease.ids import check_project, parse_run
from runlease.limits import Limits

_Owner = tuple[str, str | None]
_NAMES = (
    ("run_points", "a run", "points/s"),
    ("run_bytes", "a run", "bytes/s"),
    ("project_points", "all runs of the project", "points/s"),
    ("project_bytes", "all runs of the project", "bytes/s"),
    ("acquires", "all runs of the project", "acquires/s"),
)
_rate = click.IntRange(min=0)


def _owner(ctx: click.Context, param: click.Parameter, value: str) -> _Owner:
    try:
        return parse_run(value) if "/" in value else (check_project(value), None)
    except InvalidArgument as error:
        raise click.BadParameter(str(error), ctx, param) from None


_owner_argument = click.argument("owner", callback=_owner, metavar="PROJECT[/RUN]")


@click.group(
    short_help="Show or set how fast runs may log and start.",
    epilog="""\b
Examples:
  runlease limits show speech
  runlease limits set speech --run-points 50000 --burst 30
  runlease limits set speech/nbs1e6hk --run-points 0 --run-bytes 0

\b
Where nothing is set:
  a run                     200 000 points/s and 16 MiB/s
  all runs of a project   2 000 000 points/s and 128 MiB/s, 2 000 acquires/s
  burst                          10 seconds' worth above the rate

What is above a limit waits at its trainer, whose loop goes on; points that a
checkpoint waits for are taken in at once, and charged. A process that acquires
above the limit tries again by itself; renewals and releases have none.
""",
)
def limits() -> None:
    """Show or set the rate limits of a project or of one of its runs."""


@limits.command(short_help="Show the limits in force.")
@_owner_argument
@output_option
@connection_options
def show(owner: _Owner, output: str, coordinator: str | None, token: str | None) -> None:
    """Show the limits in force for a project or a run, defaults included."""
    with open_client(coordinator, token) as client:
        found = client.get_limits(*owner)
    if output == "json":
        echo_json(found)
    else:
        _print(found)


@limits.command("set", short_help="Set limits, at once.")
@_owner_argument
@click.option("--run-points", type=_rate, metavar="N", help="Points a second of each run.")
@click.option("--run-bytes", type=_rate, metavar="N", help="Bytes a second of each run.")
@click.option("--project-points", type=_rate, metavar="N", help="Points a second of the project's runs together.")
@click.option("--project-bytes", type=_rate, metavar="N", help="Bytes a second of the project's runs together.")
@click.option("--acquires", type=_rate, metavar="N", help="Acquires a second of the project's runs together.")
@click.option("--burst", type=click.FloatRange(0, 3600), metavar="S", help="Seconds' worth above the rates of metrics.")
@connection_options
def set_(
    owner: _Owner,
    run_points: int | None,
    run_bytes: int | None,
    project_points: int | None,
    project_bytes: int | None,
    acquires: int | None,
    burst: float | None,
    coordinator: str | None,
    token: str | None,
) -> None:
    """Set limits of a project, or of one run; 0 is unlimited, what is not given stays.

    They hold from the next batch on, for every coordinator of the store. A run that has none of its own follows its
    project.
    """
    if all(value is None for value in (run_points, run_bytes, project_points, project_bytes, acquires, burst)):
        raise click.UsageError("nothing to set: give --run-points, --run-bytes, --project-points or another limit")
    with open_client(coordinator, token) as client:
        found = client.set_limits(
            *owner,
            run_points=run_points,
            run_bytes=run_bytes,
            project_points=project_points,
            project_bytes=project_bytes,
            acquires=acquires,
            burst_s=burst,
        )
    project, run_id = owner
    click.echo(f"limits of {printable(f'{project}/{run_id}' if run_id else project)} are now:")
    _print(found)


def _print(found: Limits) -> None:
    for name, whose, unit in _NAMES:
        value = getattr(found, name)
        rate = f"{value:,}".replace(",", " ") if value else "unlimited"
        click.echo(f"{whose:<24}{rate:>15} {unit}")
    click.echo(f"{'burst':<24}{found.burst_s:>15g} s")
