"""What stands behind a run of ``mode="disabled"``: the same calls, no server, nothing written."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runlease.lease import Lease
from runlease.leasestate import LeaseMachine
from runlease.stats import Stats

log = logging.getLogger("runlease")


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

    def keep(self, *, outcome: str = "", changes: Mapping[str, Any] | None = None) -> bool:
        """Keep nothing."""
        return False

    def leave(self) -> Path | None:
        """Leave nothing."""
        return None

    def abandon(self) -> None:
        """Do nothing."""


class MutedLog(DisabledLog):
    """The log of a member without a writer of its own: says once that nothing is kept."""

    def __init__(self, lease: Lease, why: str = "") -> None:
        """Take the holder's lease, and why nothing is kept, if not for want of a writer's name."""
        self._path = f"{lease.project}/{lease.run_id}"
        self._why = why or 'give writer="rank3" or the like for a log of its own'
        self._said = False

    def log(self, step: int, time_s: float, keys: tuple[str, ...], values: tuple[float, ...]) -> None:
        """Take a row."""
        self._say()

    def commit(self, step: int, uri: str, metadata: Mapping[str, str]) -> DisabledDurable:
        """Take a commit."""
        self._say()
        return DisabledDurable()

    def _say(self) -> None:
        if not self._said:
            self._said = True
            log.warning(
                "runlease: another process of the group writes %s: this one's log() and commits go nowhere; %s",
                self._path,
                self._why,
            )


def disabled_lease(project: str, run_id: str) -> Lease:
    """Return a lease that is always held."""
    return Lease(project, run_id, 0, LeaseMachine(math.inf, 0.0, math.inf))
