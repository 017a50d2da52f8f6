"""`runlease doctor`: what is wrong with this machine, with a coordinator, or with a store, and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runlease.cli.errors import FAILED, UNAVAILABLE
from runlease.cli.options import connection_options, output_option
from runlease.cli.output import echo_json, printable
from runlease.cli.serve import coordinator_errors
from runlease.doctor.coordinator import check_coordinators
from runlease.doctor.finding import Finding
from runlease.doctor.machine import check_machine
from runlease.settings import read_environment

if TYPE_CHECKING:
    from runlease_coordinator.doctor.promises import Promise

_EPILOG = """\b
Examples:
  runlease doctor
  runlease doctor --coordinator train-head:7373
  runlease doctor --store redis://127.0.0.1:6379
  runlease doctor --store embedded --data-dir ./coordinator

Without a store it checks what a trainer needs: this machine and the coordinator. With one it checks the
store, and says which promises hold as it is set up. It changes nothing there but one key, which goes after
10 s. The URL can also come from RUNLEASE_STORE, where others do not see its password.

The exit code is 0 without errors (there may be warnings), 1 with errors, 5 if no coordinator or store answers.
"""


@click.command(short_help="Find what is wrong, and what to do.", epilog=_EPILOG)
@click.option(
    "--store", envvar="RUNLEASE_STORE", metavar="URL", help="A store to check: embedded, or a URL as for serve."
)
@click.option(
    "--data-nodes",
    envvar="RUNLEASE_DATA_NODES",
    type=click.IntRange(min=1),
    metavar="N",
    help="Data nodes a shard is to have.  [default: as the store was opened]",
)
@click.option("--data-dir", metavar="DIR", help="Of an embedded store.  [default: as for serve]")
@connection_options
@output_option
def doctor(
    store: str | None,
    data_nodes: int | None,
    data_dir: str | None,
    coordinator: str | None,
    token: str | None,
    output: str,
) -> None:
    """Find what is wrong, and say what to do about it."""
    findings: list[Finding] = []
    held: list[Promise] = []
    if store is None or coordinator is not None:
        findings += check_machine(read_environment(), os.environ)
        findings += check_coordinators(coordinator, token)
    if store is not None:
        of_store, held = _examine(store, data_nodes, data_dir)
        findings += of_store
    if output == "json":
        echo_json({"checks": findings, "promises": held})
    else:
        _show(findings)
        _show_promises(held)
    if any(each.name == "reached" and each.verdict == "error" for each in findings):
        raise click.exceptions.Exit(UNAVAILABLE)
    if any(each.verdict == "error" for each in findings):
        raise click.exceptions.Exit(FAILED)


def _examine(store: str, data_nodes: int | None, data_dir: str | None) -> tuple[list[Finding], list[Promise]]:
    with coordinator_errors():
        from runlease_coordinator.doctor.examine import examine
        from runlease_coordinator.doctor.promises import promises
        from runlease_coordinator.doctor.visit import visit
        from runlease_coordinator.settings import settings_from_env
        from runlease_coordinator.store.embedded import running_url

        directory = Path(data_dir) if data_dir else None
        # Of the settings it takes only where the store is; what else is in the environment must not keep it out.
        settings = settings_from_env(os.environ, store=store, data_dir=directory, data_nodes=1, durability="local")
        embedded = settings.store == "embedded"
        url = running_url(settings.data_dir) if embedded else settings.store
        survey = visit(url, embedded=embedded, data_nodes=data_nodes)
        findings = list(examine(survey))
        return findings, list(promises(survey, findings))


def _show(findings: Iterable[Finding]) -> None:
    where = None
    for each in findings:
        if each.where != where:
            where = each.where
            click.echo(printable(where))
        colour = {"ok": "green", "warning": "yellow", "error": "red"}[each.verdict]
        click.echo(f"  {click.style(f'{each.verdict:<7}', fg=colour)}  {each.name}: {printable(each.seen)}")
        if each.remedy:
            click.echo(f"           -> {printable(each.remedy)}")


def _show_promises(promises: Sequence[Promise]) -> None:
    if not promises:
        return
    click.echo("promises")
    reasons = {each.why for each in promises}
    if len(reasons) == 1 and all(each.holds == "no" for each in promises):
        click.echo(f"  {click.style('no     ', fg='red')}  none of them: {reasons.pop()}")
        return
    for each in promises:
        colour = {"holds": "green", "in part": "yellow", "no": "red"}[each.holds]
        click.echo(f"  {click.style(f'{each.holds:<7}', fg=colour)}  {each.fault}: {each.promise}")
        if each.why:
            click.echo(f"           {printable(each.why)}")
