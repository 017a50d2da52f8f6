"""A network namespace of a test's own, behind a cable that can be pulled: packets vanish, no connection is reset."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

#: Addresses for documentation (RFC 5737), so that no real network is hidden while the test runs.
_HERE, _THERE = "198.51.100.1", "198.51.100.2"


class Cable:
    """What runs behind `prefix` reaches this side as `here`, and nothing else."""

    here = _HERE

    def __init__(self, name: str) -> None:
        self._name = name
        self.prefix = ("ip", "netns", "exec", name)

    def pull(self) -> None:
        """Let nothing pass any more."""
        _ip("link", "set", self._name, "down")

    def plug(self) -> None:
        """Let everything pass again."""
        _ip("link", "set", self._name, "up")


@contextmanager
def cable() -> Iterator[Cable]:
    """Make one; that takes root, and a kernel that lets it. Elsewhere the test skips."""
    name = f"rl{os.getpid()}"
    try:
        _ip("netns", "add", name)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespace can be made here: {error}")
    try:
        _lay(name)
        yield Cable(name)
    finally:
        _ip("netns", "delete", name)  # and with it the cable


def _lay(name: str) -> None:
    try:
        _ip("link", "add", name, "type", "veth", "peer", "name", "far", "netns", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no cable can be laid here: {error.stderr}")
    _ip("address", "add", f"{_HERE}/30", "dev", name)
    _ip("-n", name, "address", "add", f"{_THERE}/30", "dev", "far")
    _ip("-n", name, "link", "set", "far", "up")
    _ip("link", "set", name, "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
