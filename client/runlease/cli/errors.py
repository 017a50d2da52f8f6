"""How commands end: the one table from exceptions to exit codes.

====  ====================================================  =========================================
code  meaning                                               raised as
====  ====================================================  =========================================
0     done
1     refused or failed                                     any other RunleaseError
2     wrong use, a malformed value, or it cannot start      click.UsageError, InvalidArgument, Failure
3     no such run                                           RunNotFound
4     another process holds the run, or the run exists      LeaseHeld, RunExists
5     no coordinator or store answers, or it cannot decide  CoordinatorUnavailable
130   interrupted                                           KeyboardInterrupt, click.Abort
====  ====================================================  =========================================
"""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import click

from runlease.cli.output import printable
from runlease.exceptions import (
    CoordinatorUnavailable,
    InvalidArgument,
    LeaseHeld,
    RunExists,
    RunleaseError,
    RunNotFound,
)

FAILED, CANNOT_START, NOT_FOUND, HELD, UNAVAILABLE, INTERRUPTED = 1, 2, 3, 4, 5, 130
#: What a shell reports for a program that SIGPIPE ended: `runlease ls | head` is no failure to tell of.
_NOBODY_READS = 141

_CODES: tuple[tuple[type[RunleaseError], int], ...] = (
    (InvalidArgument, CANNOT_START),
    (RunNotFound, NOT_FOUND),
    (LeaseHeld, HELD),
    (RunExists, HELD),
    (CoordinatorUnavailable, UNAVAILABLE),
)


class Failure(Exception):
    """A command that failed: its message, with the remedy, goes to stderr as it is."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        """Hold the message and the exit code."""
        super().__init__(message)
        self.exit_code = exit_code


def exit_code(error: RunleaseError) -> int:
    """Return the exit code for an exception."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


class Program(click.Group):
    """The command group; ends every command as the table says."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, not at exit, so that a closed pipe shows while it can be handled
            return result
        except RunleaseError as error:
            _end(str(error), exit_code(error))
        except Failure as failure:
            _end(str(failure), failure.exit_code)
        except (KeyboardInterrupt, click.Abort):
            _end("interrupted", INTERRUPTED)
        except BrokenPipeError:
            # What is still buffered goes nowhere, lest the interpreter complains about it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(_NOBODY_READS) from None


def _end(message: str, code: int) -> NoReturn:
    click.echo(f"runlease: {printable(message)}", err=True)
    raise click.exceptions.Exit(code) from None
