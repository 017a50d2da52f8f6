"""`runlease sync`: delivers what could not be delivered, and what was logged offline."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from runlease.cli.errors import FAILED, Failure, exit_code
from runlease.cli.options import connection_options, output_option
from runlease.cli.output import count, echo_json_rows, printable, to_json
from runlease.settings import DEFAULT_DIRECTORY, read_environment
from runlease.spool import Found, Session, find_sessions
from runlease.sync import Result, Synchronizer, Verdict


@click.command(
    short_help="Deliver what is in the spool.",
    epilog="""\b
Examples:
  runlease sync
  runlease sync --dry-run
  runlease sync /scratch/job-17/.runlease --coordinator train-head:7373

\b
What is delivered goes from the spool. What is not stays, with the reason:
  held by another process        sync again later, or give --wait SECONDS
  exists, though it should not   --resume allow adds to it
  deleted                        runlease undelete, or remove the directory
  no coordinator                 sync again later

Killed or interrupted, it goes on where it was. The exit code is that of the
reason, 1 where there are several, and 0 if only live sessions are left.
""",
)
@click.argument(
    "directory",
    required=False,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="[DIR]",
)
@click.option("--dry-run", is_flag=True, help="List what is there; call nobody.")
@click.option("--wait", type=click.FloatRange(min=0), metavar="S", help="Seconds to wait for a run that others hold.")
@click.option(
    "--resume",
    type=click.Choice(("never", "allow", "must")),
    help="How offline segments open their runs.  [default: as each was started]",
)
@output_option
@connection_options
def sync(
    directory: Path | None,
    dry_run: bool,
    wait: float | None,
    resume: str | None,
    output: str,
    coordinator: str | None,
    token: str | None,
) -> None:
    """Deliver what processes could not deliver before they ended, and what they logged offline.

    DIR is a spool directory, or a part of one.  [default: RUNLEASE_DIR, else .runlease]

    Everything keeps its step and its attempt; an offline segment becomes an attempt of its own. Processes that still
    run are left alone.
    """
    directory = directory or Path(read_environment().directory or DEFAULT_DIRECTORY)
    found = find_sessions(directory)
    results = [Result.of(session) for session in found.sessions]
    if dry_run:
        for session, result in zip(found.sessions, results, strict=True):
            result.measure(session)
            result.verdict = Verdict.LIVE if session.locked else Verdict.FOUND
    elif found.sessions:
        with _Progress(found.sessions, quiet=output == "json") as progress:
            synchronizer = Synchronizer(
                coordinator,
                token,
                wait_s=wait,
                resume=resume,
                on_session=progress.session,
                on_points=progress.points,
            )
            with synchronizer:
                synchronizer.deliver(list(zip(found.sessions, results, strict=True)))
    if output == "json":
        echo_json_rows(_row(result) for result in results)
    else:
        _tell(directory, results, dry_run=dry_run)
    _end(found, results)


class _Progress:
    """A bar on a terminal, else a line a session, both on stderr."""

    def __init__(self, sessions: Sequence[Session], *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar = None
        if not quiet and sys.stderr.isatty():
            total = sum(session.points for session in sessions if not session.locked)
            self._bar = click.progressbar(length=max(1, total), label="points", file=sys.stderr, show_pos=True)

    def __enter__(self) -> _Progress:
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()

    def points(self, number: int) -> None:
        if self._bar is not None:
            self._bar.update(number)

    def session(self, result: Result) -> None:
        if self._bar is None and not self._quiet:
            click.echo(f"runlease: {result.verdict}: {_name(result)}", err=True)


def _name(result: Result) -> str:
    writer = "" if result.writer == "main" else f", writer {result.writer}"
    attempt = f"attempt {result.attempt}" if result.attempt else "offline"
    return printable(f"{result.project}/{result.run} ({attempt}{writer}), {count(result.points, 'point')}")


def _row(result: Result) -> dict[str, object]:
    return {name: value for name, value in to_json(result).items() if name != "error"}


def _tell(directory: Path, results: Sequence[Result], *, dry_run: bool) -> None:
    if not results:
        click.echo(f"nothing to deliver in {directory}")
        return
    for result in results:
        click.echo(f"{result.verdict:<10}{_name(result)}")
        if result.reason or dry_run:
            click.echo(f"          {result.path}")
        if result.lost_entries:
            click.echo(f"          {count(result.lost_entries, 'batch')} missing from the spool: recorded as lost")
        for line in [*result.notes, result.reason]:
            if line:
                click.echo(f"          {printable(line)}")


def _end(found: Found, results: Sequence[Result]) -> None:
    for unreadable in found.unreadable:
        click.echo(
            f"runlease: kept: {unreadable.path}: {unreadable.reason}: remove it if nothing can mend it", err=True
        )
    kept = [result for result in results if result.verdict is Verdict.KEPT]
    codes = {exit_code(result.error) for result in kept if result.error is not None}
    codes |= {FAILED} if found.unreadable else set()
    if codes:
        number, all_of_them = len(kept) + len(found.unreadable), len(results) + len(found.unreadable)
        raise Failure(f"{number} of {all_of_them} were not delivered", codes.pop() if len(codes) == 1 else FAILED)
