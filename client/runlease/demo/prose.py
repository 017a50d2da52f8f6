"""The prose that the demo's model reads.

`prose.txt` holds the chapters I to IV of "Alice's Adventures in Wonderland" by Lewis Carroll (London, 1865).
The author died in 1898: the text is in the public domain. The wording is that of the Millennium Fulcrum
edition 2.9; only white space was changed (no indents, one blank line between paragraphs).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

TITLE = "Alice's Adventures in Wonderland"


@dataclass(frozen=True)
class Prose:
    """A text as numbers, with the places where its chapters end."""

    alphabet: str
    """Every character that occurs, sorted; a character's code is its index here."""

    codes: NDArray[np.intp]
    """The text, one code a character."""

    chapter_ends: tuple[int, ...]
    """For each chapter the index after its last character, rising."""

    def encode(self, text: str) -> NDArray[np.intp]:
        """Return the codes of `text`; a character outside the alphabet is a ValueError."""
        return np.array([self.alphabet.index(character) for character in text], dtype=np.intp)


def load_prose() -> Prose:
    """Read the shipped text."""
    return parse_prose(files(__package__).joinpath("prose.txt").read_text(encoding="utf-8"))


def parse_prose(text: str) -> Prose:
    """Turn a text with `CHAPTER <numeral>` headings on lines of their own into a `Prose`."""
    starts = [heading.start() for heading in re.finditer(r"^CHAPTER [IVXLC]+$", text, re.MULTILINE)]
    alphabet = "".join(sorted(set(text)))
    code_of = {character: code for code, character in enumerate(alphabet)}
    return Prose(
        alphabet=alphabet,
        codes=np.array([code_of[character] for character in text], dtype=np.intp),
        chapter_ends=(*starts[1:], len(text)),
    )
