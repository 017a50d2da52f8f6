"""Why a request is refused, as facts; `rpc.errors` turns them into statuses.

DomainError
├── InvalidField      a field is malformed
├── RunNotFound
├── RunExists         (never) held or ended
├── RunDeleted
├── RunIdCollision
├── LeaseHeld         held, in lock-delay, or others are first
├── NoHolder          a member's group does not hold the run
├── BadBranch         a fork, rewind, link or purge that cannot be
├── LimitReached      more than there may be
├── Stale             the fence, nonce or session is no longer the run's
├── Throttled         a rate limit of calls
├── Overloaded        no room now
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


class RunError(DomainError):
    """Something is wrong with the run that it names."""

    def __init__(self, project: str, run_id: str, message: str) -> None:
        """Name the run."""
        super().__init__(message)
        self.project = project
        self.run_id = run_id


class RunNotFound(RunError):
    """There is no such run."""

    reason = "RUN_NOT_FOUND"

    def __init__(self, project: str, run_id: str) -> None:
        """Name the run."""
        super().__init__(project, run_id, f"run {project}/{run_id} does not exist")


class RunDeleted(RunError):
    """The run was deleted."""

    reason = "RUN_DELETED"

    def __init__(self, project: str, run_id: str) -> None:
        """Name the run."""
        super().__init__(project, run_id, f"run {project}/{run_id} was deleted; choose another ID")


class RunIdCollision(RunError):
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


class RunExists(RunError):
    """The mode is never, and the run is there; ``run`` is its record."""

    reason = "RUN_EXISTS"

    def __init__(self, run: Run) -> None:
        """Hold the run's record."""
        super().__init__(run.project, run.id, f"run {run.path} exists already ({run.state})")
        self.run = run


class LeaseHeld(RunError):
    """Somebody else holds the run or is next; ``run`` is its record, ``place`` ours in the queue (0: none).

    ``reason`` is LEASE_HELD, LOCK_DELAY (its last holder did not release it) or LEASE_QUEUED (free, but others wait).
    """

    def __init__(self, run: Run, place: int = 0) -> None:
        """Hold the run's record."""
        #: When it is worth another try, in microseconds.
        self.retry_after_us = run.remaining_us or run.lock_delay_us
        seconds = f", {self.retry_after_us / 1e6:.1f} s left"
        if run.remaining_us:
            self.reason, what = "LEASE_HELD", f"is held by {run.holder}{seconds}"
        elif run.lock_delay_us:
            self.reason, what = "LOCK_DELAY", f"waits out its lock-delay{seconds}"
        else:
            self.reason, what = "LEASE_QUEUED", "is free, but others wait for it"
        super().__init__(run.project, run.id, f"run {run.path} {what}")
        self.run = run
        self.place = place


class NoHolder(RunError):
    """A member's group does not hold the run yet; ``run`` is its record, None where there is none."""

    reason = "NO_HOLDER"

    def __init__(self, project: str, run_id: str, run: Run | None) -> None:
        """Hold the run's record, if there is one."""
        held = f"; it is held by {run.holder}" if run is not None and run.remaining_us else ""
        message = f"the group of this process does not hold run {project}/{run_id} yet{held}"
        super().__init__(project, run_id, message)
        self.run = run


class BadBranch(RunError):
    """A fork, rewind or link that cannot be; ``reason`` is CYCLE, LINKED_ALREADY, REFERENCED or NOT_DELETED."""

    def __init__(self, project: str, run_id: str, reason: str, message: str) -> None:
        """Hold the reason."""
        super().__init__(project, run_id, message)
        self.reason = reason


class LimitReached(RunError):
    """There is as much as there may be (`domain.limits.Bounds`); the same call fails until something goes."""

    reason = "LIMIT_REACHED"


class Stale(DomainError):
    """What the caller holds is no longer the run's.

    ``reason`` is one of STALE_FENCE, LEASE_ENDED, LEASE_FREE, RUN_GONE, REVOKED, NONCE_ENDED, SESSION_TAKEN; ``run``
    is the record, where it is known, and ``attempt`` that of an ended nonce (0 of a sync's, None: not of a nonce).
    """

    def __init__(self, reason: str, message: str, run: Run | None = None, *, attempt: int | None = None) -> None:
        """Hold the reason and, where known, the run's record or the nonce's attempt."""
        super().__init__(message)
        self.reason = reason
        self.run = run
        self.attempt = attempt


class Throttled(DomainError):
    """A project makes more calls than its limit ``limited`` allows; the same call is worth another try later."""

    reason = "THROTTLED"

    def __init__(self, project: str, limited: str, limit: int, retry_after_us: int) -> None:
        """Name the limit, its rate per second, and when to try again."""
        super().__init__(f"project {project} is above its limit of {limit} {limited} a second (see `runlease limits`)")
        self.project = project
        self.limited = limited
        self.retry_after_us = retry_after_us


class Overloaded(DomainError):
    """There is no room for the call now; the same call is worth another try later.

    ``reason`` is one of TOO_MANY_READS, TOO_MANY_STREAMS, TOO_MANY_WAITERS.
    """

    def __init__(self, reason: str, message: str, retry_after_ms: int) -> None:
        """Hold the reason and when to try again, in milliseconds."""
        super().__init__(message)
        self.reason = reason
        self.retry_after_ms = retry_after_ms


class Unavailable(DomainError):
    """The coordinator cannot decide now.

    ``reason`` is one of STORE_UNAVAILABLE, QUARANTINE, UNBOOTSTRAPPED, REQUEST_TOO_OLD, OUT_OF_MEMORY, NOREPLICAS,
    NOT_REPLICATED, CLOCK, UNCONFIRMED, REBOUND, RACED, ARCHIVE_UNAVAILABLE, DRAINING, SILENT_CLIENT, SLOW_READER.
    """

    def __init__(self, reason: str, message: str, retry_after_ms: int = 500) -> None:
        """Hold the reason and when to try again, in milliseconds."""
        super().__init__(message)
        self.reason = reason
        self.retry_after_ms = retry_after_ms


class Unconfirmed(Unavailable):
    """The store has lost data since the fence was confirmed, perhaps a newer grant, too.

    A renewal mends it, of a holder that still holds the lease by its own clock and names ``incarnation``.
    """

    def __init__(self, incarnation: str) -> None:
        """Name the store's present incarnation."""
        super().__init__(
            "UNCONFIRMED",
            "the store was restarted or failed over, and may have lost a newer grant of this run: its holder has to "
            "renew first, while it holds it by its own clock; else the run is free once the quarantine is over",
        )
        self.incarnation = incarnation
