"""`runlease watch` and `runlease events`: what happened to which run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import click

from runlease.cli.options import connection_options, open_client, output_option
from runlease.cli.output import echo_json_rows, json_cell, moment, printable, to_json
from runlease.client import Client
from runlease.exceptions import InvalidArgument, RunleaseError
from runlease.ids import check_project, parse_run
from runlease.records import Event

Target = tuple[str | None, str | None]

_KINDS = """created, granted, reinstated, released, expired,
proved-dead, given-back, revoked, broken, updated, linked, limits, deleted,
undeleted, purged, points_expired, sync_began, sync_ended, outcome,
points_lost"""


def _target(ctx: click.Context, param: click.Parameter, value: str | None) -> Target:
    try:
        if value is None:
            return None, None
        return parse_run(value) if "/" in value else (check_project(value), None)
    except InvalidArgument as error:
        raise click.BadParameter(str(error), ctx, param) from None


target_argument = click.argument("target", required=False, callback=_target, metavar="[PROJECT[/RUN]]")


@click.command(
    short_help="Show what happens to runs, as it happens.",
    epilog=f"""\b
Examples:
  runlease watch
  runlease watch speech
  runlease watch speech/nbs1e6hk -o json

\b
What happens is one of: {_KINDS}.
JSON is one object a line.
""",
)
@target_argument
@output_option
@connection_options
def watch(target: Target, output: str, coordinator: str | None, token: str | None) -> None:
    """Show events from now on, one line each, until Ctrl-C.

    A broken connection is made again, and no event is missed.
    """
    with open_client(coordinator, token) as client:
        _follow(client, target, None, output)


@click.command(
    short_help="Show what happened to runs.",
    epilog="""\b
Examples:
  runlease events speech/nbs1e6hk
  runlease events --follow
  runlease events speech -o json

The audit log keeps about the last 10 000 events of each of the store's 64
partitions. JSON is a list; with --follow, one object a line.
""",
)
@target_argument
@click.option("--follow", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@output_option
@connection_options
def events(target: Target, follow: bool, output: str, coordinator: str | None, token: str | None) -> None:
    """Show the events of the audit log, oldest first."""
    with open_client(coordinator, token) as client:
        stream = client.events(*target)
        past = sorted(stream, key=lambda event: event.time_s)  # stable: those of one run stay in their order
        if follow:
            _print(past, output)
            _follow(client, target, stream.cursor, output)
        elif output == "json":
            echo_json_rows(past)
        elif past:
            _print(past, output)
        else:
            click.echo("no events: see what there is with `runlease ls`")


def event_line(event: Event) -> str:
    """Return an event as one line."""
    details = (f"{printable(name)}: {_text(value)}" for name, value in sorted(event.details.items()))
    parts = [
        moment(event.time_s),
        printable(event.path),
        event.kind,
        f"attempt {event.attempt}" if event.attempt else "",  # limits of a project concern none
        f"fence {event.fence}" if event.fence else "",
        ", ".join(details),
    ]
    return "  ".join(part for part in parts if part)


def _text(value: object) -> str:
    return printable(value.replace("\n", " ")) if isinstance(value, str) else json_cell(value)


def _follow(client: Client, target: Target, after: str | None, output: str) -> None:
    def tell(reason: RunleaseError) -> None:
        click.echo(f"runlease: the events broke off, trying to go on: {printable(str(reason))}", err=True)

    with client.watch(*target, after=after, on_broken=tell) as stream:
        what = "/".join(part for part in target if part) or "all projects"
        click.echo(f"runlease: watching {printable(what)}; Ctrl-C ends it", err=True)
        _print(stream, output)


def _print(shown: Iterable[Event], output: str) -> None:
    for line in _lines(shown, output):
        click.echo(line)


def _lines(shown: Iterable[Event], output: str) -> Iterator[str]:
    for event in shown:
        yield json.dumps(to_json(event), allow_nan=False) if output == "json" else event_line(event)
