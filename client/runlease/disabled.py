"""What stands behind a run of ``mode="disabled"``: the same calls, no server, nothing written."""

from __future__ import annotations

import math
from collections.abc import Mapping

from runlease.lease import Lease
from runlease.leasestate import LeaseMachine
from runlease.stats import Stats


class DisabledDurable:
    """A commit that has nothing to wait for."""

    done = True
    error: Exception | None = None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Return at once."""
        return True


class DisabledLog:
    """Takes everything, keeps nothing."""

    def log(self, step: int, time_s: float, keys: tuple[str, ...], values: tuple[float, ...]) -> None:
        """Take a row."""

    def commit(self, step: int, uri: str, metadata: Mapping[str, str]) -> DisabledDurable:
        """Take a commit."""
        return DisabledDurable()

    def rewind(self, step: int) -> None:
        """Take a rewind."""

    def flush(self, timeout_s: float | None = None) -> bool:
        """Return at once."""
        return True

    def stats(self) -> Stats:
        """Return zeros."""
        return Stats()

    def close(self, timeout_s: float) -> bool:
        """Return at once."""
        return True

    def abandon(self) -> None:
        """Do nothing."""


def disabled_lease(project: str, run_id: str) -> Lease:
    """Return a lease that is always held."""
    return Lease(project, run_id, 0, LeaseMachine(math.inf, 0.0, math.inf))
