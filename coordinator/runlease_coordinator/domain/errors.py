"""Why a request is refused, as facts; `rpc.errors` turns them into statuses.

DomainError
├── InvalidField      a field is malformed
├── RunNotFound
├── RunExists         (never) held or ended
├── RunDeleted
├── RunIdCollision
├── LeaseHeld         held, or in lock-delay
├── Stale             the fence, nonce or session is no longer the run's
└── Unavailable       cannot decide now
"""

from __future__ import annotations

from runlease_coordinator.domain.runs import Run


class DomainError(Exception):
    """Root of the refusals; ``reason`` is the word that clients match."""

    reason: str = "UNKNOWN"


class InvalidField(DomainError):
    """A field is malformed; ``field`` is its path in the request."""

    reason = "INVALID_FIELD"

    def __init__(self, field: str, description: str) -> None:
        """Hold the field's path and what is wrong with it."""
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


class _RunError(DomainError):
    def __init__(self, project: str, run_id: str, message: str) -> None:
        super().__init__(message)
        self.project = project
        self.run_id = run_id


class RunNotFound(_RunError):
    """There is no such run."""

    reason = "RUN_NOT_FOUND"

    def __init__(self, project: str, run_id: str) -> None:
        """Name the run."""
        super().__init__(project, run_id, f"run {project}/{run_id} does not exist")


class RunDeleted(_RunError):
    """The run was deleted."""

    reason = "RUN_DELETED"

    def __init__(self, project: str, run_id: str) -> None:
        """Name the run."""
        super().__init__(project, run_id, f"run {project}/{run_id} was deleted; choose another ID")


class RunIdCollision(_RunError):
    """Another spelling of the same canonical ID is taken."""

    reason = "RUN_ID_COLLISION"

    def __init__(self, project: str, run_id: str, existing_id: str) -> None:
        """Name both spellings."""
        super().__init__(
            project,
            run_id,
            f"run ID {run_id!r} is another spelling of the existing run {existing_id!r}: use that, or another ID",
        )
        self.existing_id = existing_id


class RunExists(_RunError):
    """The mode is never, and the run is there; ``run`` is its record."""

    reason = "RUN_EXISTS"

    def __init__(self, run: Run) -> None:
        """Hold the run's record."""
        super().__init__(run.project, run.id, f"run {run.path} exists already ({run.state})")
        self.run = run


class LeaseHeld(_RunError):
    """Somebody else holds the run, or it is in lock-delay; ``run`` is its record."""

    def __init__(self, run: Run) -> None:
        """Hold the run's record."""
        self.in_lock_delay = run.remaining_us == 0
        self.reason = "LOCK_DELAY" if self.in_lock_delay else "LEASE_HELD"
        #: When it is worth another try, in microseconds.
        self.retry_after_us = run.lock_delay_us or run.remaining_us
        seconds = self.retry_after_us / 1e6
        what = "waits out its lock-delay" if self.in_lock_delay else f"is held by {run.holder}"
        super().__init__(run.project, run.id, f"run {run.path} {what}, {seconds:.1f} s left")
        self.run = run


class Stale(DomainError):
    """What the caller holds is no longer the run's.

    ``reason`` is one of STALE_FENCE, LEASE_ENDED, RUN_GONE, REVOKED, NONCE_ENDED, SESSION_TAKEN; ``run`` is the
    record, where it is known.
    """

    def __init__(self, reason: str, message: str, run: Run | None = None) -> None:
        """Hold the reason and, where known, the run's record."""
        super().__init__(message)
        self.reason = reason
        self.run = run


class Unavailable(DomainError):
    """The coordinator cannot decide now.

    ``reason`` is one of STORE_UNAVAILABLE, QUARANTINE, UNBOOTSTRAPPED, REQUEST_TOO_OLD, OUT_OF_MEMORY, DRAINING.
    """

    def __init__(self, reason: str, message: str, retry_after_ms: int = 500) -> None:
        """Hold the reason and when to try again, in milliseconds."""
        super().__init__(message)
        self.reason = reason
        self.retry_after_ms = retry_after_ms
