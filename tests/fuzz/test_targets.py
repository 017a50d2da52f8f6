"""Each target, with bytes that Hypothesis makes, with what broke it before, and those of atheris where it is there."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.names import NAMES
from tests.fuzz.targets import Target, opened

#: What has failed once, by target.
BROKEN: dict[str, list[bytes]] = {
    "run-ids": [b"r?_step=" + b"9" * 5000, "host:²".encode(), b"host:" + b"7" * 5000],
    "page-tokens": [
        json.dumps(["query", [["r", "1"]], "0-9", [[1, 0, "", 0]], ["loss", "main", 10**30, 4]]).encode(),
        json.dumps(["query", [["r", "1"]], "0-9", [[1, 0, "", 10**30]], ["loss", "main", 5, 4]]).encode(),
        json.dumps(["query", [["r", "1"]], "0-9", [[1, 0, "", -1]], ["loss", "main", -5, 4]]).encode(),
        b'["query", [["r", "1"]], "0-9", [[1, 0, "", Infinity]], ["loss", "main", 5, 4]]',
    ],
    "store-urls": [b"host:" + b"7" * 5000],
}
#: Where coverage leads further than chance; and how many inputs each gets: a second or two.
GUIDED, RUNS = ("handlers", "page-tokens", "spool", "store-urls"), 500


@pytest.fixture(scope="module", params=NAMES)
def target(request: pytest.FixtureRequest) -> Iterator[tuple[str, Target]]:
    with opened(request.param) as found:
        yield request.param, found


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed in which some bytes were replaced, cut out or put in."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 8)))
        data = data[:start] + draw(st.binary(max_size=8)) + data[end:]
    return data


@settings(max_examples=150, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_bytes(target: tuple[str, Target], data: st.DataObject) -> None:
    _, (check, seeds) = target
    check(data.draw(st.binary(max_size=200) | changed(list(seeds))))


def test_what_broke_it_and_what_leads_deep_into_it(target: tuple[str, Target]) -> None:
    name, (check, seeds) = target
    for data in [b"", *seeds, *BROKEN.get(name, [])]:
        check(data)


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this platform")
@pytest.mark.parametrize("name", GUIDED)
def test_inputs_that_reach_more_code(name: str, tmp_path: Path) -> None:
    # Given coverage as the guide; the same inputs each time, so that this finds what changes break.
    command = [sys.executable, "-m", "tests.fuzz", name, "--runs", str(RUNS), "--seconds", "30", "--seed", "7"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "\nDone " in done.stderr
