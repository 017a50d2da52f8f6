"""`runlease break`, `update`, `link`, `delete` and `undelete`: an operator's hands."""

from __future__ import annotations

import json
import sys
from typing import Any, NoReturn

import click

from runlease.cli.errors import CANNOT_START, HELD, Failure
from runlease.cli.options import connection_options, open_client, run_argument, run_path
from runlease.cli.output import cell, count, duration, moment, printable
from runlease.exceptions import InvalidArgument
from runlease.ids import canonical_id
from runlease.records import RunRecord

_yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command(
    "break",
    short_help="Take a lease away from its holder.",
    epilog="""\b
Examples:
  runlease break speech/nbs1e6hk --reason "node 17 hangs"
  runlease break speech/nbs1e6hk --force --yes --reason "node 17 is gone"
""",
)
@run_argument
@click.option("--reason", required=True, metavar="TEXT", help="Why; recorded, and shown to those who look.")
@click.option("--force", is_flag=True, help="At once: the attempt ends, what its holder still sends is refused.")
@_yes_option
@connection_options
def break_lease(
    run: tuple[str, str], reason: str, force: bool, yes: bool, coordinator: str | None, token: str | None
) -> None:
    """Take a run's lease away from its holder.

    Without --force the lease is revoked: its holder is told at its next renewal, and the run is free once it
    releases, or once the lease has expired. With --force the run is free at once. The lease as it is shown is
    broken, or none: if somebody else acquires the run meanwhile, nothing happens.
    """
    _refuse_to_ask_nobody(yes)
    with open_client(coordinator, token) as client:
        record = client.get_run(*run)
        path = printable(record.path)
        if record.state != "running" and (record.state == "deleted" or not record.lock_delay_s):
            click.echo(f"nobody holds {path} ({record.state}); nothing to do")
            return
        click.echo(_held_line(record))
        if not yes and not click.confirm("End its attempt by force?" if force else "Revoke its lease?"):
            raise Failure("nothing was broken")
        fence = client.break_lease(record.project, record.id, record.fence, reason=reason, force=force)
    if force:
        click.echo(f"broke {path}: it is free now, under fence {fence}")
    else:
        left = duration(record.remaining_s + record.lock_delay_s)
        click.echo(f"revoked {path}: it is free once its holder releases it, in {left} at the latest")


@click.command(
    short_help="Change a run's name, notes, tags, config or summary.",
    epilog="""\b
Examples:
  runlease update speech/nbs1e6hk --name baseline --tag nightly --tag en
  runlease update speech/nbs1e6hk --config lr=0.1 --summary 'best="s3://b/7"'

Values are JSON: numbers as they are, text in double quotes.
""",
)
@run_argument
@click.option("--name", metavar="TEXT", help="A new name.")
@click.option("--notes", metavar="TEXT", help="New notes, in place of the old ones.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="The tags, in place of the old ones.")
@click.option("--no-tags", is_flag=True, help="Take all tags away.")
@click.option("--config", multiple=True, metavar="KEY=JSON", help="Set one key; can be given several times.")
@click.option("--summary", multiple=True, metavar="KEY=JSON", help="Set one key; can be given several times.")
@connection_options
def update(
    run: tuple[str, str],
    name: str | None,
    notes: str | None,
    tags: tuple[str, ...],
    no_tags: bool,
    config: tuple[str, ...],
    summary: tuple[str, ...],
    coordinator: str | None,
    token: str | None,
) -> None:
    """Change what is said about a run, whether it is held or not; what is not given stays."""
    if tags and no_tags:
        raise click.UsageError("--tag and --no-tags exclude each other")
    new_tags = None if not tags and not no_tags else tags
    settings, results = _values(config, "--config"), _values(summary, "--summary")
    if name is None and notes is None and new_tags is None and not settings and not results:
        raise click.UsageError("nothing to change: give --name, --notes, --tag, --config or --summary")
    with open_client(coordinator, token) as client:
        record = client.update_run(
            *run, name=name, notes=notes, tags=new_tags, config=settings or None, summary=results or None
        )
    click.echo(f"updated {printable(record.path)} ({cell(record.name)})")


@click.command(
    short_help="Let a run show another one's history before its own.",
    epilog="""\b
Example:
  runlease link speech/second --continues first --step 15000
""",
)
@run_argument
@click.option("--continues", required=True, metavar="RUN", help="The earlier run, of the same project.")
@click.option(
    "--step",
    type=click.IntRange(min=0),
    metavar="STEP",
    help="Keep its history up to and including this step.  [default: all of it]",
)
@connection_options
def link(run: tuple[str, str], continues: str, step: int | None, coordinator: str | None, token: str | None) -> None:
    """Let PROJECT/RUN show the history of an earlier run, as it is now, before its own.

    This mends a resume that made a second run. Both keep their data; it cannot be undone.
    """
    project, id = run
    earlier = continues.removeprefix(f"{project}/")
    try:
        canonical_id(earlier)
    except InvalidArgument as error:
        raise click.BadParameter(str(error), param_hint="--continues") from None
    with open_client(coordinator, token) as client:
        record = client.link(project, id, earlier, step)
    parent = record.parent
    upto = "" if parent is None else f" up to step {parent.step}"
    click.echo(
        f"{printable(record.path)} continues {printable(f'{project}/{earlier}')}{upto}; "
        f"its next step is {record.next_step}"
    )


@click.command(
    short_help="Delete a run.",
    epilog="""\b
Examples:
  runlease delete speech/nbs1e6hk
  runlease delete speech/nbs1e6hk --yes --reason "wrong data"
  runlease delete speech/nbs1e6hk --purge
""",
)
@run_argument
@_yes_option
@click.option("--purge", is_flag=True, help="Remove its data for good, too; its ID is free again.")
@click.option("--reason", default="", metavar="TEXT", help="Recorded with the deletion.")
@connection_options
def delete(
    run: tuple[str, str], yes: bool, purge: bool, reason: str, coordinator: str | None, token: str | None
) -> None:
    """Delete a run that nobody holds.

    The run as it is shown is deleted, or none: if somebody acquires it meanwhile, nothing happens.
    Its ID stays taken, so that nothing can be mistaken for it later, and `runlease undelete` takes it back;
    after --purge nothing does.
    """
    _refuse_to_ask_nobody(yes)
    with open_client(coordinator, token) as client:
        record = client.get_run(*run)
        path = printable(record.path)
        deleted = record.state == "deleted"
        if deleted and not purge:
            click.echo(f"{path} was deleted before; nothing to do")
            return
        if record.state == "running":
            _refuse_held(record)
        attempts, points = count(record.attempt, "attempt"), count(record.points, "point")
        click.echo(f"{path} ({cell(record.name)}): {record.state}, {attempts}, {points}")
        if not yes and not click.confirm("Remove it and its data for good?" if purge else "Delete it?"):
            raise Failure("nothing was deleted")
        if not deleted:
            client.delete_run(record.project, record.id, record.fence, reason=reason)
        if purge:
            client.delete_run(record.project, record.id, record.fence, purge=True, reason=reason)
    click.echo(f"{'purged' if purge else 'deleted'} {path}")


@click.command(
    short_help="Take a deletion back.",
    epilog="""\b
Example:
  runlease undelete speech/nbs1e6hk
""",
)
@run_argument
@click.option("--reason", default="", metavar="TEXT", help="Recorded with it.")
@connection_options
def undelete(run: tuple[str, str], reason: str, coordinator: str | None, token: str | None) -> None:
    """Take the deletion of a run back, unless it was purged."""
    with open_client(coordinator, token) as client:
        before = client.get_run(*run)
        if before.state != "deleted":
            click.echo(f"{printable(before.path)} is not deleted; nothing to do")
            return
        record = client.undelete_run(before.project, before.id, reason=reason)
    click.echo(f"undeleted {printable(record.path)}: {record.state}")


def _refuse_to_ask_nobody(yes: bool) -> None:
    if not yes and not sys.stdin.isatty():
        raise Failure("stdin is no terminal, so nobody can be asked: give --yes", CANNOT_START)


def _refuse_held(record: RunRecord) -> NoReturn:
    raise Failure(
        f"{printable(record.path)} is held by {record.holder}: end that process first, or take the lease away: "
        f"runlease break {run_path(record)} --reason TEXT",
        HELD,
    )


def _held_line(record: RunRecord) -> str:
    path, holder = f"{printable(record.path)} ({cell(record.name)})", cell(str(record.holder))
    if record.state != "running":
        return f"{path}: its last holder {holder} did not release it, free in {duration(record.lock_delay_s)}"
    logged = "nothing logged yet"
    if record.last_log_s is not None:
        logged = f"last log {duration(record.store_time_s - record.last_log_s)} ago, next step {record.next_step}"
    attempts = [one for one in record.attempts if one.attempt == record.attempt]
    since = f" since {moment(attempts[0].granted_s)}" if attempts else ""
    revoked = ", revoked already" if record.revoked else ""
    left = duration(record.remaining_s)
    return f"{path}: held by {holder}{since}, attempt {record.attempt}, {left} left{revoked}, {logged}"


def _values(given: tuple[str, ...], option: str) -> dict[str, Any]:
    values = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{text!r} is not KEY=JSON", param_hint=option)
        try:
            values[key] = json.loads(value, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            hint = f"{key}=0.1, or {key}='\"text\"' with the quotes"
            raise click.BadParameter(f"{value!r} is not JSON: give {hint}", param_hint=option) from None
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
