"""Each promise of the README, and each limit of them, names tests that show it, and these tests are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r'\[[^\]]+\]\((tests/[^\s)]+\.py) "([^"]+)"\)')
_SECTION = (ROOT / "README.md").read_text().partition("## What is promised\n")[2].partition("\n## ")[0]
_PROMISES, _, _LIMITS = _SECTION.partition("\nNot promised")
#: When, then, shown by; without the table's head.
_ROWS = [line.strip("| ").split(" | ") for line in _PROMISES.splitlines() if line.startswith("| ")][1:]
_BULLETS = [part.partition("\n\n")[0] for part in _LIMITS.split("\n- ")[1:]]


@cache
def names_in(path: str) -> frozenset[str]:
    found = ast.parse((ROOT / path).read_text()).body
    return frozenset(node.name for node in found if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))


def missing(text: str) -> list[tuple[str, str]]:
    return [
        (path, test) for path, test in _LINK.findall(text) if not (ROOT / path).exists() or test not in names_in(path)
    ]


def test_there_are_promises_and_limits() -> None:
    assert len(_ROWS) >= 16
    assert len(_BULLETS) >= 8


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row[0][:40])
def test_each_promise_names_its_tests(row: list[str]) -> None:
    _, _, shown_by = row
    # Nothing in the column but links, so that none is left out for a slip of the pen.
    assert _LINK.findall(shown_by)
    assert not re.sub(r"[,\s]", "", _LINK.sub("", shown_by))
    assert missing(shown_by) == []


@pytest.mark.parametrize("bullet", _BULLETS, ids=lambda bullet: bullet[:40])
def test_each_limit_names_its_tests(bullet: str) -> None:
    assert _LINK.findall(bullet)
    assert missing(bullet) == []


def test_a_test_that_is_gone_would_be_noticed() -> None:
    here = "tests/unit/test_promises.py"
    assert missing(f'[x]({here} "test_there_are_promises_and_limits"), [y](tests/none.py "test_x")') == [
        ("tests/none.py", "test_x")
    ]
    assert missing(f'[x]({here} "test_that_nobody_wrote")') == [(here, "test_that_nobody_wrote")]
