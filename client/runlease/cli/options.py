"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from runlease.client import Client
from runlease.exceptions import InvalidArgument
from runlease.ids import check_project, parse_run
from runlease.records import RunRecord

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: Seconds that a command tries while the coordinator is away: enough for its restart.
PATIENCE_S = 5.0


def run_path_callback(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, str]:
    """Read `PROJECT/RUN`: the callback of an argument."""
    try:
        return parse_run(value)
    except InvalidArgument as error:
        raise click.BadParameter(str(error), ctx, param) from None


def owner(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, str | None]:
    """Read `PROJECT/RUN`, or `PROJECT` alone: the callback of an argument."""
    try:
        return parse_run(value) if "/" in value else (check_project(value), None)
    except InvalidArgument as error:
        raise click.BadParameter(str(error), ctx, param) from None


def _project(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    try:
        return value if value is None else check_project(value)
    except InvalidArgument as error:
        raise click.BadParameter(str(error), ctx, param) from None


def run_path(run: RunRecord) -> str:
    """Return `PROJECT/RUN` for a shell: the canonical form is as good as an ID as typed, and needs no quotes."""
    return f"{run.project}/{run.canonical_id}"


#: `PROJECT/RUN`, or `RUN` of the default project; the command gets both parts.
run_argument = click.argument("run", callback=run_path_callback, metavar="PROJECT/RUN")
project_argument = click.argument("project", required=False, callback=_project)

_STEP = click.IntRange(min=0)
_SELECTION = (
    click.option("--key", "keys", multiple=True, metavar="KEY", help="Only this metric; can be given several times."),
    click.option(
        "--keys-like",
        "key_patterns",
        multiple=True,
        metavar="PATTERN",
        help="Also metrics like this: `*` is any characters, `?` one.",
    ),
    click.option("--min-step", type=_STEP, metavar="STEP", help="From this step on."),
    click.option("--max-step", type=_STEP, metavar="STEP", help="Up to and including this step."),
)


def selection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what chooses points of a history: ``keys``, ``key_patterns``, ``min_step``, ``max_step``."""
    for option in reversed(_SELECTION):
        command = option(command)
    return command


output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json")),
    default="table",
    show_default=True,
    help="A table for people, or JSON for programs.",
)


def connection_options(command: _Command) -> _Command:
    """Add the options of a command that calls the coordinator."""
    command = click.option(
        "--token",
        metavar="TOKEN",
        help="Sent with every call. Better set RUNLEASE_TOKEN: others can see a command line.",
    )(command)
    return click.option(
        "--coordinator",
        metavar="HOST:PORT",
        help="Which coordinator to ask.  [default: RUNLEASE_COORDINATOR, else localhost:7373]",
    )(command)


def open_client(coordinator: str | None, token: str | None) -> Client:
    """Return a client that gives up sooner than a trainer would."""
    return Client(coordinator, token, timeout_s=PATIENCE_S)
