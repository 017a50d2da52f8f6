"""`runlease demo`: a training that is killed and goes on, on this machine."""

from __future__ import annotations

import click

from runlease.cli.errors import CANNOT_START, Failure


@click.command(
    short_help="See a training killed and resumed exactly.",
    epilog="""\b
Examples:
  runlease demo
  runlease demo --keep
""",
)
@click.option("--steps", type=int, metavar="N", help="Length of the training.  [default: 3000]")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of the training.")
@click.option("--keep", is_flag=True, help="Leave the store and the checkpoints there, to look around.")
@click.pass_context
def demo(ctx: click.Context, steps: int | None, seed: int, keep: bool) -> None:
    """Train a small model under a lease, kill it, resume it, and verify that nothing is lost or doubled.

    Runs a coordinator and trainers of its own for about half a minute and leaves nothing running. Needs
    `pip install 'runlease[demo]'`.
    """
    try:
        from runlease.demo import DEFAULT_STEPS, main

        status = main(steps=DEFAULT_STEPS if steps is None else steps, seed=seed, keep=keep, echo=click.echo)
    except ImportError as error:
        raise Failure(f"the demo needs: pip install 'runlease[demo]' ({error})", CANNOT_START) from error
    ctx.exit(status)
