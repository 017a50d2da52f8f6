"""What runs, projects and writers may be called, and the IDs that are made up."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from runlease.exceptions import InvalidArgument, InvalidRunId
from runlease.ids import canonical_id, check_project, check_writer, generate_id, parse_run

SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@given(st.text(min_size=1, max_size=64))
@example("a/b")
@example("Ünïcode")
@example("x\n")
@example("١")  # a digit, but none of 0..9
@example("\ud800")
def test_every_other_character_becomes_a_dash(run_id: str) -> None:
    assert canonical_id(run_id) == "".join(c if c in SAFE else "-" for c in run_id)


@given(st.text(min_size=1, max_size=64))
def test_the_canonical_form_is_its_own(run_id: str) -> None:
    assert canonical_id(canonical_id(run_id)) == canonical_id(run_id)


@pytest.mark.parametrize("run_id", ["", "x" * 65, "x" * (1 << 20), None, 7, b"bytes", ["a"], True])
def test_what_is_no_id(run_id: object) -> None:
    with pytest.raises(InvalidRunId) as caught:
        canonical_id(run_id)
    assert caught.value.field == "run.id"
    assert len(str(caught.value)) < 200  # a megabyte of ID is not repeated


def test_64_characters_are_an_id() -> None:
    assert canonical_id("é" * 64) == "-" * 64


CHECKS = [(check_project, "run.project", 128), (check_writer, "writer", 64)]


@pytest.mark.parametrize(("check", "field", "longest"), CHECKS)
@pytest.mark.parametrize("name", ["a", "A.b_c-9", "0", "a..b", "Z-"])
def test_names_that_are_fine(check: object, field: str, longest: int, name: str) -> None:
    assert check(name) == name
    assert check("x" * longest)


@pytest.mark.parametrize(("check", "field", "longest"), CHECKS)
@pytest.mark.parametrize(
    "name", ["", ".", "..", "-a", "_a", ".a", "a/b", "a b", "a\n", "\na", "ä", "a\x00", "١", None, 3, b"a"]
)
def test_names_that_are_not(check: object, field: str, longest: int, name: object) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check(name)
    assert caught.value.field == field


@pytest.mark.parametrize(("check", "field", "longest"), CHECKS)
@pytest.mark.parametrize("excess", [1, 1 << 20])
def test_names_that_are_too_long(check: object, field: str, longest: int, excess: int) -> None:
    with pytest.raises(InvalidArgument, match=str(longest)) as caught:
        check("x" * (longest + excess))
    assert caught.value.field == field
    assert len(str(caught.value)) < 200


@given(st.text(max_size=200))
def test_a_project_is_fine_exactly_if_it_matches_the_pattern(name: str) -> None:
    fine = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name) is not None
    try:
        check_project(name)
    except InvalidArgument:
        assert not fine
    else:
        assert fine


@pytest.mark.parametrize(
    ("path", "parts"),
    [("r", ("default", "r")), ("p/r", ("p", "r")), ("p/a/b", ("p", "a/b")), ("p/ ", ("p", " "))],
)
def test_paths(path: str, parts: tuple[str, str]) -> None:
    assert parse_run(path) == parts


@pytest.mark.parametrize("path", ["", "/", "p/", "/r", "a b/r", "p/" + "x" * 65])
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_run(path)


def test_generated_ids_are_8_of_base_36_and_never_the_same() -> None:
    made = [generate_id() for _ in range(2000)]
    assert all(re.fullmatch(r"[0-9a-z]{8}", one) for one in made)
    assert len(set(made)) == len(made)
    assert len(set("".join(made))) == 36


def test_generated_ids_do_not_depend_on_the_seed() -> None:
    random.seed(7)
    state = random.getstate()
    first = generate_id()
    assert random.getstate() == state
    random.seed(7)
    assert generate_id() != first


def test_a_forked_child_makes_ids_of_its_own() -> None:
    # In a fresh process: this one may run threads that a fork does not like.
    program = (
        "import os, runlease\n"
        "r, w = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.write(w, ' '.join(runlease.generate_id() for _ in range(9)).encode()); os._exit(0)\n"
        "os.wait()\n"
        "print(os.read(r, 999).decode(), *(runlease.generate_id() for _ in range(9)))\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) == 18
