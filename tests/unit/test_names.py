"""Names for runs that were given none."""

from __future__ import annotations

import random
import re

from runlease.names import generate_name


def test_a_name_is_two_words_and_a_number() -> None:
    for _ in range(500):
        assert re.fullmatch(r"[a-z]+-[a-z]+-[1-9][0-9]?", generate_name())


def test_names_vary_and_leave_the_seeded_generator_alone() -> None:
    random.seed(1)
    state = random.getstate()
    assert len({generate_name() for _ in range(200)}) > 150
    assert random.getstate() == state
