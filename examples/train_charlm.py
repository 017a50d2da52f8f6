"""Train a small character model as the one holder of a run. Copy this file and put your own model in.

Kill it at any moment and start it again with the same --id: it goes on at the step after its last checkpoint,
and the run's history shows each step once. Start it twice at once: the second is refused and told who holds
the run. See examples/README.md for how to run it against `runlease serve`.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

import runlease
from runlease.demo.training import Recipe, Training

#: EX_TEMPFAIL of sysexits.h, "try again later": a scheduler can tell a refusal from a crash.
REFUSED = 75


def main() -> int:
    """Train, or go on training; return the exit status."""
    options = read_options()
    recipe = Recipe(steps=options.steps, seed=options.seed)
    directory = options.checkpoints.resolve()
    try:
        with runlease.init(
            project=options.project,
            id=options.id,
            resume="allow",
            wait=options.wait,
            ttl=options.ttl,
            config=asdict(recipe),
        ) as run:
            training = Training.load(Path(run.checkpoint.uri)) if run.checkpoint else Training(recipe)
            if run.step != training.step:
                # A predecessor logged steps, but died before its first checkpoint: log them again.
                run.rewind(training.step)
            began = time.monotonic() - training.step * options.pace
            for step in range(training.step, training.recipe.steps):
                time.sleep(max(0.0, began + step * options.pace - time.monotonic()))
                metrics = training.train_step()
                run.log(metrics, step=step)
                if (step + 1) % options.checkpoint_every == 0 or step + 1 == training.recipe.steps:
                    # The fence keeps the file apart from those of other attempts: a predecessor that was only
                    # paused cannot overwrite what its successor saved.
                    path = directory / f"{run.id}-{step}-{run.fence}.npz"
                    training.save(path)
                    run.commit_checkpoint(step, uri=str(path))
                    print(f"step {step}: loss {metrics['loss']:.3f}, checkpoint saved", flush=True)
            print(f'the model writes: "{training.sample()}"', flush=True)
    except runlease.LeaseHeld as held:
        print(f"refused: {held}", file=sys.stderr, flush=True)
        return REFUSED
    return 0


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train a small character model under a runlease lease.")
    parser.add_argument("--project", default="examples")
    parser.add_argument("--id", default="charlm", help="run ID; the same one resumes the run")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--pace", type=float, default=0.0, metavar="SECONDS", help="least time of a step, to watch it")
    parser.add_argument("--checkpoint-every", type=int, default=300, metavar="STEPS")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), metavar="DIRECTORY")
    parser.add_argument("--ttl", type=float, default=30.0, metavar="SECONDS", help="lifetime of the lease")
    parser.add_argument("--wait", type=float, default=None, metavar="SECONDS", help="how long to wait for a holder")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
