"""The training of the character model, with everything that a resume needs in one place.

What a step does depends on the parameters, on Adam's moments, on the place in the schedule and in the
curriculum, on the shuffled order of the text and on the random generator. A checkpoint that forgets one of
these resumes to a curve of its own, so `Training.save` writes all of them and `Training.load` brings all of
them back: a training that is saved, loaded and continued gives the same numbers, bit for bit, as one that
was never interrupted.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from runlease.demo.model import (
    Codes,
    Parameters,
    Shape,
    fresh_parameters,
    loss_and_gradients,
    mean_loss,
    write,
)
from runlease.demo.prose import Prose, load_prose

#: Characters at the end of the text that are never trained on; the held-out loss is measured there.
HELD_OUT = 2000
#: Steps between two measurements of the held-out loss.
HELD_OUT_EVERY = 50


@dataclass(frozen=True)
class Recipe:
    """The settings of a training."""

    steps: int = 3000
    """Length of the training; the learning rate reaches its floor there."""

    seed: int = 0
    """Seed of parameters and batches."""

    batch: int = 128
    """Characters predicted per step."""

    peak_rate: float = 2e-3
    """Learning rate after the warmup."""

    floor_rate: float = 2e-4
    """Learning rate at the end."""

    warmup_steps: int = 100
    """Steps over which the learning rate rises from near 0 to its peak."""

    clip_norm: float = 1.0
    """Gradients with a larger norm than this are scaled down to it."""

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step: a linear warmup, then half a cosine down to the floor."""
        if step < self.warmup_steps:
            return self.peak_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.floor_rate + (self.peak_rate - self.floor_rate) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass
class Adam:
    """Adam's state (Kingma and Ba, 2015): both moments and the number of updates so far."""

    first: Parameters
    second: Parameters
    updates: int = 0

    def update(self, parameters: Parameters, gradients: Parameters, rate: float) -> None:
        """Move `parameters` in place by one step of size `rate`."""
        self.updates += 1
        # Both bias corrections folded into the rate: one pass fewer over every array.
        corrected = rate * math.sqrt(1 - 0.999**self.updates) / (1 - 0.9**self.updates)
        for name, gradient in gradients.items():
            self.first[name] += 0.1 * (gradient - self.first[name])
            self.second[name] += 0.001 * (gradient * gradient - self.second[name])
            parameters[name] -= corrected * self.first[name] / (np.sqrt(self.second[name]) + 1e-8)


class Training:
    """A training in progress; `step` is the next step that `train_step` does."""

    def __init__(self, recipe: Recipe, prose: Prose | None = None) -> None:
        """Start at step 0; without `prose`, on the text that ships with the package."""
        self.recipe = recipe
        self.prose = prose or load_prose()
        self.shape = Shape(alphabet=len(self.prose.alphabet))
        self.random = np.random.default_rng(recipe.seed)
        self.parameters = fresh_parameters(self.shape, self.random)
        self.adam = Adam(_zeros_like(self.parameters), _zeros_like(self.parameters))
        self.step = 0
        #: The curriculum: the model reads this many chapters, one more after each time through.
        self.chapters = 1
        #: The shuffled places in the text that this time through visits, and how many it has visited.
        self.order = self._shuffled()
        self.visited = 0

    def train_step(self) -> dict[str, float]:
        """Do one step and return its metrics; losses are in nats per character."""
        contexts, targets = self._next_batch()
        loss, gradients = loss_and_gradients(self.parameters, contexts, targets)
        norm = math.sqrt(sum(float((gradient * gradient).sum()) for gradient in gradients.values()))
        if norm > self.recipe.clip_norm:
            gradients = {name: gradient * (self.recipe.clip_norm / norm) for name, gradient in gradients.items()}
        rate = self.recipe.learning_rate(self.step)
        self.adam.update(self.parameters, gradients, rate)
        metrics = {"loss": loss, "learning_rate": rate, "gradient_norm": norm, "chapters": self.chapters}
        if (self.step + 1) % HELD_OUT_EVERY == 0:
            metrics["held_out/loss"] = self.held_out_loss()
        self.step += 1
        return metrics

    def held_out_loss(self) -> float:
        """Measure the mean loss on the end of the text, which is never trained on."""
        places = np.arange(len(self.prose.codes) - HELD_OUT, len(self.prose.codes))
        return mean_loss(self.parameters, *self._windows(places))

    def sample(self, length: int = 60) -> str:
        """Let the model go on after "Alice was", on one line; the same parameters always write the same."""
        prompt = self.prose.encode("Alice was ".rjust(self.shape.context))
        codes = write(self.parameters, prompt, length, np.random.default_rng(0))
        written = "".join(self.prose.alphabet[code] for code in codes)
        return " ".join(f"Alice was {written}".split())

    def save(self, path: Path) -> None:
        """Write the whole state to `path`: after a crash there is the old file, the new one, or none."""
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "chapters": self.chapters,
            "visited": self.visited,
            "updates": self.adam.updates,
            "random": self.random.bit_generator.state,
        }
        arrays = {"state": np.array(json.dumps(state)), "order": self.order.astype(np.int32)}
        for part, named in self._named_arrays().items():
            arrays |= {f"{part}/{name}": array for name, array in named.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with unfinished.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy's signature has other keywords
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        _sync_directory(path.parent)

    @classmethod
    def load(cls, path: Path, prose: Prose | None = None) -> Training:
        """Read the state back from `path`; OSError or ValueError if it is missing or not a checkpoint."""
        with np.load(path, allow_pickle=False) as arrays:
            state = json.loads(str(arrays["state"]))
            training = cls(Recipe(**state["recipe"]), prose)
            for part, named in training._named_arrays().items():
                for name in named:
                    named[name] = arrays[f"{part}/{name}"]
            training.order = arrays["order"].astype(np.intp)
        training.step, training.chapters = state["step"], state["chapters"]
        training.visited, training.adam.updates = state["visited"], state["updates"]
        training.random.bit_generator.state = state["random"]
        return training

    def _named_arrays(self) -> dict[str, Parameters]:
        return {"parameters": self.parameters, "first": self.adam.first, "second": self.adam.second}

    def _next_batch(self) -> tuple[Codes, Codes]:
        """Take the next places in the order; at its end, add a chapter and shuffle again."""
        if self.visited + self.recipe.batch > len(self.order):
            self.chapters = min(self.chapters + 1, len(self.prose.chapter_ends))
            self.order, self.visited = self._shuffled(), 0
        places = self.order[self.visited : self.visited + self.recipe.batch]
        self.visited += self.recipe.batch
        return self._windows(places)

    def _shuffled(self) -> Codes:
        end = min(self.prose.chapter_ends[self.chapters - 1], len(self.prose.codes) - HELD_OUT)
        return self.random.permutation(np.arange(self.shape.context, end))

    def _windows(self, places: Codes) -> tuple[Codes, Codes]:
        """Return the characters before each place, shape (places, context), and those at it."""
        before = places[:, None] + np.arange(-self.shape.context, 0)
        return self.prose.codes[before], self.prose.codes[places]


def _zeros_like(parameters: Parameters) -> Parameters:
    return {name: np.zeros_like(array) for name, array in parameters.items()}


def _sync_directory(directory: Path) -> None:
    """Make a rename durable; systems that cannot open a directory have no such call."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(directory, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
