"""A small character model in plain NumPy, with gradients written by hand.

It reads the last `context` characters and gives a probability to each next one: an embedding of the
characters, one tanh layer, a softmax. Everything is float64 and free of randomness beyond the generator
that is passed in, so the same parameters and the same batch give the same bits each time on the same
machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]
Parameters = dict[str, Floats]


@dataclass(frozen=True)
class Shape:
    """How large a model is."""

    alphabet: int
    """Number of different characters."""

    context: int = 16
    """Number of characters that the model sees before the one it predicts."""

    embedding: int = 16
    """Numbers per embedded character."""

    hidden: int = 256
    """Width of the tanh layer."""


def fresh_parameters(shape: Shape, random: np.random.Generator) -> Parameters:
    """Draw initial parameters, scaled so that activations start with a variance near one."""
    inputs = shape.context * shape.embedding
    return {
        "embedding": random.standard_normal((shape.alphabet, shape.embedding)),
        "hidden.weight": random.standard_normal((inputs, shape.hidden)) / math.sqrt(inputs),
        "hidden.bias": np.zeros(shape.hidden),
        "output.weight": random.standard_normal((shape.hidden, shape.alphabet)) / math.sqrt(shape.hidden),
        "output.bias": np.zeros(shape.alphabet),
    }


def log_probabilities(parameters: Parameters, contexts: Codes) -> tuple[Floats, Floats, Floats]:
    """Run the model forward.

    Args:
        parameters: As from `fresh_parameters`.
        contexts: Codes, shape (batch, context), the oldest character first.

    Returns:
        The log probability of each next character, shape (batch, alphabet), and the two activations that the
        way back needs: the embedded contexts, (batch, context * embedding), and the hidden layer,
        (batch, hidden).
    """
    embedded = parameters["embedding"][contexts].reshape(len(contexts), -1)
    hidden = np.tanh(embedded @ parameters["hidden.weight"] + parameters["hidden.bias"])
    logits = hidden @ parameters["output.weight"] + parameters["output.bias"]
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits, embedded, hidden


def mean_loss(parameters: Parameters, contexts: Codes, targets: Codes) -> float:
    """Return the mean cross entropy in nats per character; `targets` has shape (batch,)."""
    log_probability, _, _ = log_probabilities(parameters, contexts)
    return float(-log_probability[np.arange(len(targets)), targets].mean())


def loss_and_gradients(parameters: Parameters, contexts: Codes, targets: Codes) -> tuple[float, Parameters]:
    """Return the mean cross entropy in nats per character and its gradient for each parameter."""
    log_probability, embedded, hidden = log_probabilities(parameters, contexts)
    rows = np.arange(len(targets))
    loss = float(-log_probability[rows, targets].mean())

    # d loss / d logits of a softmax under cross entropy: probability minus one for the right answer.
    at_logits = np.exp(log_probability)
    at_logits[rows, targets] -= 1.0
    at_logits /= len(targets)
    at_hidden = (at_logits @ parameters["output.weight"].T) * (1.0 - hidden * hidden)
    at_embedded = (at_hidden @ parameters["hidden.weight"].T).reshape(contexts.size, -1)
    embedding = np.zeros_like(parameters["embedding"])
    np.add.at(embedding, contexts.reshape(-1), at_embedded)
    return loss, {
        "embedding": embedding,
        "hidden.weight": embedded.T @ at_hidden,
        "hidden.bias": at_hidden.sum(axis=0),
        "output.weight": hidden.T @ at_logits,
        "output.bias": at_logits.sum(axis=0),
    }


def write(parameters: Parameters, prompt: Codes, length: int, random: np.random.Generator) -> Codes:
    """Let the model go on after `prompt`, shape (context,), and return the `length` codes that it adds."""
    codes = list(prompt)
    for _ in range(length):
        log_probability, _, _ = log_probabilities(parameters, np.array([codes[-len(prompt) :]]))
        # Sharpened a little (temperature 0.6), as a small model rambles otherwise.
        weights = np.exp(log_probability[0] / 0.6)
        codes.append(int(random.choice(len(weights), p=weights / weights.sum())))
    return np.array(codes[len(prompt) :], dtype=np.intp)
