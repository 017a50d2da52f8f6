"""`runlease sink`: histories into TensorBoard, MLflow and W&B."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click

from runlease.cli.errors import CANNOT_START, Failure
from runlease.cli.options import connection_options, open_client, owner
from runlease.cli.output import count, printable
from runlease.exceptions import InvalidArgument
from runlease.ids import MAIN_WRITER, check_writer
from runlease.settings import read_environment
from runlease.sinks import BrokenState, Follower, MissingPackage, Target, TargetError
from runlease.sinks.state import InUse

_Command = TypeVar("_Command", bound=Callable[..., Any])

_EPILOG = """\b
Examples:
  runlease sink tensorboard speech --logdir tb
  runlease sink mlflow speech --tracking-uri sqlite:///mlflow.db --once
  runlease sink wandb speech --offline --dir wandb-files

A sink is a process of its own that reads the history and follows it; new
runs of a project are taken up as they come. It remembers how far it got, so
that it can be stopped (Ctrl-C, SIGTERM), killed and started again. What each
target shows after a resume is told in the README.
"""


@click.group(short_help="Copy metrics to TensorBoard, MLflow or W&B.", epilog=_EPILOG)
def sink() -> None:
    """Copy the metrics of runs to another tracker, while they are logged."""


def _owner(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, str | None]:
    return owner(ctx, param, value)


def _writer(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        return check_writer(value)
    except InvalidArgument as error:
        raise click.BadParameter(str(error), ctx, param) from None


def _common(command: _Command) -> _Command:
    """Add what all sinks take."""
    for option in (
        connection_options,
        click.option("--once", is_flag=True, help="Send what there is, and end."),
        click.option(
            "--every",
            "every_s",
            type=click.FloatRange(0.1, 3600),
            default=2.0,
            show_default=True,
            metavar="S",
            help="Seconds between two looks for news.",
        ),
        click.option(
            "--writer",
            callback=_writer,
            default=MAIN_WRITER,
            show_default=True,
            metavar="WRITER",
            help="Whose points; another one's become a run of their own.",
        ),
        click.option(
            "--state",
            type=click.Path(file_okay=False, path_type=Path),
            metavar="DIR",
            help="Where to remember how far it got.  [default: RUNLEASE_DIR/sinks, else .runlease/sinks]",
        ),
    ):
        command = option(command)
    return click.argument("owner", callback=_owner, metavar="PROJECT[/RUN]")(command)


@sink.command(short_help="Write event files for TensorBoard.")
@click.option(
    "--logdir",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="TensorBoard's directory; a run goes to DIR/PROJECT/RUN.",
)
@_common
def tensorboard(logdir: Path, **common: Any) -> None:
    """Write event files for `tensorboard --logdir DIR`. Needs `pip install 'runlease[tensorboard]'`."""
    from runlease.sinks.tensorboard import TensorBoard

    _run("tensorboard", lambda: TensorBoard(logdir), **common)


@sink.command(short_help="Log to MLflow.")
@click.option("--tracking-uri", metavar="URI", help="MLflow's server or database.  [default: MLflow's own]")
@click.option("--experiment", metavar="NAME", help="Made where it is missing.  [default: the project's name]")
@_common
def mlflow(tracking_uri: str | None, experiment: str | None, **common: Any) -> None:
    """Log to an MLflow server or database. Needs `pip install 'runlease[mlflow]'`."""
    from runlease.sinks.mlflow import MlflowTarget

    _run("mlflow", lambda: MlflowTarget(tracking_uri, experiment), **common)


@sink.command(short_help="Log to Weights & Biases.")
@click.option("--entity", metavar="NAME", help="User or team.  [default: W&B's own]")
@click.option("--wandb-project", metavar="NAME", help="W&B's project.  [default: the project's name]")
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where W&B keeps its files.  [default: WANDB_DIR, else the current directory]",
)
@click.option("--offline", is_flag=True, help="Write files only, for `wandb sync`; also by WANDB_MODE=offline.")
@_common
def wandb(entity: str | None, wandb_project: str | None, directory: Path | None, offline: bool, **common: Any) -> None:
    """Log to Weights & Biases. Needs `pip install 'runlease[wandb]'`."""
    from runlease.sinks.wandb import Wandb

    def target() -> Target:
        return Wandb(entity=entity, project=wandb_project, directory=directory, offline=offline)

    _run("wandb", target, **common)


def _run(
    name: str,
    open_target: Callable[[], Target],
    *,
    owner: tuple[str, str | None],
    once: bool,
    every_s: float,
    writer: str,
    state: Path | None,
    coordinator: str | None,
    token: str | None,
) -> None:
    folder = state or Path(read_environment().directory or ".runlease") / "sinks"
    with _until_signalled() as stop, _named_failures(), open_client(coordinator, token) as client:
        target = open_target()
        follower = Follower(client, target, *owner, sink=name, folder=folder, writer=writer, stop=stop, tell=_tell)
        try:
            if once:
                follower.once()
            else:
                what = "/".join(part for part in owner if part)
                _tell(f"feeding {what} to {name}; Ctrl-C ends it")
                follower.follow(every_s)
        finally:
            follower.close()
        _tell(f"sent {count(follower.points, 'point')}")


def _tell(message: str) -> None:
    click.echo(f"runlease: {printable(message)}", err=True)


@contextlib.contextmanager
def _until_signalled() -> Iterator[threading.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets; a second one interrupts at once."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _named_failures() -> Iterator[None]:
    try:
        yield
    except MissingPackage as error:
        raise Failure(str(error), CANNOT_START) from error
    except (TargetError, BrokenState, InUse) as error:
        raise Failure(str(error)) from error
    except OSError as error:
        raise Failure(f"cannot remember how far it got: {error}") from error
