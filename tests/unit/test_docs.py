"""What the documents show, held against the program; `make docs` writes the commands' help into README.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from runlease import cli
from runlease_coordinator import settings as coordinator_settings
from runlease_coordinator.store import keys
from runlease_coordinator.store.refusals import REFUSALS

from tests.support.coordinator import CoordinatorProcess

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")

#: A marker with the command's name, and the block behind it, which may still be missing.
_HELP = re.compile(r"<!-- help: ?([a-z-]*) -->\n(?:```text\n.*?\n```\n)?", re.DOTALL)
_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: What the reader of the README's blocks brings along.
_OWN = """\
def fresh(): return {"loss": 4.0}
def load(uri): return {"loss": float(uri)}
def train_step(model): model["loss"] *= 0.999; return model["loss"]
def save(model, step): return str(model["loss"])
"""


def help_block(command: str) -> str:
    """Return the marker and the block that belongs behind it, as a terminal of 80 columns shows it."""
    words = [*command.split(), "--help"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RUNLEASE_")}
    done = subprocess.run(
        [sys.executable, "-m", "runlease", *words],
        capture_output=True,
        text=True,
        check=True,
        env=environment | {"COLUMNS": "80", "NO_COLOR": "1"},
    )
    shown = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
    marker = f"<!-- help: {command} -->" if command else "<!-- help: -->"
    return f"{marker}\n```text\n$ {' '.join(['runlease', *words])}\n{shown}\n```\n"


def with_help(text: str) -> str:
    """Return the README's text with each help block as the program prints it now."""
    return _HELP.sub(lambda match: help_block(match[1]), text)


def test_help_in_the_readme_is_the_program_s() -> None:
    text = README.read_text()
    assert with_help(text) == text, "README.md shows another --help than the commands: run `make docs`"


def test_every_command_is_in_the_readme() -> None:
    program = cli.program
    assert isinstance(program, click.Group)
    assert sorted(_HELP.findall(README.read_text())) == sorted(["", *program.commands])


def test_python_blocks_of_the_readme_run(coordinator: CoordinatorProcess, tmp_path: Path) -> None:
    blocks = _PYTHON.findall(README.read_text())
    assert len(blocks) == 5

    def run(block: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-c", _OWN + block]
        return subprocess.run(
            command, capture_output=True, text=True, env=coordinator.env, cwd=tmp_path, check=False, timeout=60
        )

    example, automatic, branch, refusal, reading = blocks
    first, second = run(example), run(example)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stderr.startswith("runlease: starting new run nbs1e6hk (")
    # Given the checkpoint of step 19 000, the second start goes on behind it.
    assert "at step 19001, attempt 2" in second.stderr
    found = run(automatic)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split()[1:] == ["0", "new"]
    assert (tmp_path / ".runlease" / "resume.json").exists()
    forked = run(branch)
    assert forked.returncode == 0, forked.stderr
    assert run(refusal).returncode == 0
    read = run(reading)
    assert read.returncode == 0, read.stderr
    lines = read.stdout.splitlines()
    assert lines[0] == "finished 3 20000"
    assert [line.split()[0] for line in lines[1:]] == [str(step) for step in range(19_000, 20_000)]
    assert {line.split()[2] for line in lines[2:]} == {"2"}


def test_variables_of_the_readme_are_those_that_are_read() -> None:
    named = set(re.findall(r"\b(?:RUNLEASE|WANDB)_[A-Z_]+\b", README.read_text()))
    client = (ROOT / "client/runlease/settings.py").read_text()
    read = set(re.findall(r"\"((?:RUNLEASE|WANDB)_[A-Z_]+)\"", client))
    read |= {variable for variable, _ in coordinator_settings._VARIABLES.values()}
    assert named == read | {"RUNLEASE_DATA_DIR", "RUNLEASE_FENCE"}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files(name: str) -> None:
    document = ROOT / name
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_paths_in_the_code_map_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = re.findall(r"`((?:client|coordinator|proto|tests|deploy|examples)/[\w./]*)`", text)
    assert len(named) > 20
    assert [path for path in dict.fromkeys(named) if not (ROOT / path).exists()] == []


def test_the_key_schema_is_that_of_the_code() -> None:
    assert keys.__doc__ is not None
    defined = re.findall(r"^``(rl:\{pp\}:[^`]+)``", keys.__doc__, re.MULTILINE)
    described = re.findall(r"^\| `(rl:\{pp\}:[^`]+)`", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    assert defined
    assert described == defined


def test_decisions_are_numbered_without_gaps() -> None:
    decisions = (ROOT / "ARCHITECTURE.md").read_text().partition("## Decisions")[2]
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", decisions, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 12


def test_each_refusal_of_a_store_is_described() -> None:
    table = (ROOT / "ARCHITECTURE.md").read_text().partition("What the store itself refuses")[2]
    table = table.partition("anything else")[0]
    said = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
    described = {word for row in said for word in re.findall(r"`([A-Z]+)`", row)}
    assert described == REFUSALS.keys() | {"NOSCRIPT"}
    for name in set(re.findall(r"`(test_\w+\.py)`", table)):
        assert list((ROOT / "tests").glob(f"*/{name}")), f"{name} is not there"


if __name__ == "__main__":
    README.write_text(with_help(README.read_text()))
