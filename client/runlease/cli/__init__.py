"""The command line: `runlease`, also `python -m runlease`.

Nothing heavy is imported before a command needs it: neither the coordinator nor redis nor NumPy, by test.
"""

from __future__ import annotations

import sys

import click

from runlease.cli.compare import compare
from runlease.cli.demo import demo
from runlease.cli.doctor import doctor
from runlease.cli.errors import Program
from runlease.cli.events import events, watch
from runlease.cli.export import export
from runlease.cli.history import history
from runlease.cli.limits import limits
from runlease.cli.operate import break_lease, delete, link, undelete, update
from runlease.cli.runs import list_runs, show
from runlease.cli.serve import bootstrap, serve
from runlease.cli.sink import sink
from runlease.cli.sync import sync
from runlease.cli.version import generate_run_id, version
from runlease.version import __version__

__all__ = ["main"]

_EPILOG = """\b
First steps:
  runlease demo                    see what it does, in half a minute
  runlease serve                   run a coordinator on this machine
  runlease ls                      see who holds what

Commands that call a coordinator take --coordinator HOST:PORT, or RUNLEASE_COORDINATOR; the default is
localhost:7373. NO_COLOR=1 turns colour off.

\b
Exit codes:
  0    done
  1    refused or failed
  2    wrong use, a malformed value, or it cannot start
  3    no such run
  4    another process holds the run, or the run exists
  5    no coordinator or store answers, or it cannot decide now
  130  interrupted

\b
Shell completion:
  bash   eval "$(_RUNLEASE_COMPLETE=bash_source runlease)"
  zsh    eval "$(_RUNLEASE_COMPLETE=zsh_source runlease)"
  fish   _RUNLEASE_COMPLETE=fish_source runlease | source
"""


@click.group(cls=Program, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="runlease", message="%(prog)s %(version)s")
def program() -> None:
    """One writer per training run, every resume exact, no acknowledged metric lost."""


_COMMANDS = (
    *(serve, demo, list_runs, show, history, export, compare, sink, watch, events),
    *(break_lease, update, link, limits, sync, delete, undelete),
    *(bootstrap, doctor, generate_run_id, version),
)
for command in _COMMANDS:
    program.add_command(command)


def main() -> None:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its number, not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    program(prog_name="runlease")
