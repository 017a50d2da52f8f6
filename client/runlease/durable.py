"""Waiting until something is in the coordinator's log for good."""

from __future__ import annotations

import threading

from runlease.exceptions import RunleaseError


class Durable:
    """A promise that something gets into the coordinator's log; settled by the writer's thread."""

    __slots__ = ("_error", "_settled")

    def __init__(self) -> None:
        """Start unsettled."""
        self._settled = threading.Event()
        self._error: RunleaseError | None = None

    @property
    def done(self) -> bool:
        """Whether it is settled: acknowledged, or never to be (`error` says why)."""
        return self._settled.is_set()

    @property
    def error(self) -> RunleaseError | None:
        """Why it will never be in the log; None while that is open and once it is there."""
        return self._error

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait at most ``timeout_s`` seconds (None: as long as it takes); returns whether it is acknowledged.

        Raises:
            RunleaseError: it never will be: the lease was lost, the writer closed, or it is malformed.
        """
        settled = self._settled.wait(timeout_s)
        if self._error is not None:
            raise self._error
        return settled

    def settle(self, error: RunleaseError | None = None) -> None:
        """Settle it, once: acknowledged, or failed with an error."""
        if not self._settled.is_set():
            self._error = error
            self._settled.set()
