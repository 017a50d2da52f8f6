"""What can go wrong, as one tree.

RunleaseError
├── InvalidArgument          a value is malformed; `.field` names it
│   └── InvalidRunId
├── LeaseHeld                another process holds the run; `.holder`, `.remaining_s`, `.fence`
├── LeaseLost                this process no longer holds the run; `.cause`, `.holder`
├── RunExists                resume="never" and the run is there already; `.holder`
├── RunNotFound              the run must exist and does not
├── RunDeleted               the run was deleted; its ID stays taken until it is purged
├── RunIdCollision           two spellings of one canonical ID; `.existing_id`
├── StaleFence               a call named a fence that is no longer the run's; `.current_fence`
├── Throttled                a rate limit; `.retry_after_s`
├── CoordinatorUnavailable   no answer, or not able to decide; `.retry_after_s`
├── Unauthenticated          no or bad credentials
├── PermissionDenied         the credentials do not allow it
└── IncompatibleVersion      SDK and coordinator are of different major versions

Every error carries its facts as attributes and says in its message what to do next. `runlease.status` holds the one
table from gRPC statuses to these classes; users never see `grpc.RpcError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runlease.holder import Holder

__all__ = [
    "CoordinatorUnavailable",
    "IncompatibleVersion",
    "InvalidArgument",
    "InvalidRunId",
    "LeaseHeld",
    "LeaseLost",
    "PermissionDenied",
    "RunDeleted",
    "RunExists",
    "RunIdCollision",
    "RunNotFound",
    "RunleaseError",
    "StaleFence",
    "Throttled",
    "Unauthenticated",
]


class RunleaseError(Exception):
    """Root of everything that runlease raises.

    Attributes:
        project: the run's project, or None.
        run_id: the run's ID, or None.
    """

    def __init__(self, message: str, *, project: str | None = None, run_id: str | None = None) -> None:
        """Hold the message and the run it is about."""
        super().__init__(message)
        self.project = project
        self.run_id = run_id


class InvalidArgument(RunleaseError, ValueError):
    """A value is malformed; ``field`` names it, e.g. ``run.project``."""

    def __init__(self, message: str, *, field: str = "", project: str | None = None, run_id: str | None = None) -> None:
        """Hold the message and the field at fault."""
        super().__init__(message, project=project, run_id=run_id)
        self.field = field


class InvalidRunId(InvalidArgument):
    """A run ID is empty, too long, or no string."""


class _HeldError(RunleaseError):
    def __init__(
        self,
        message: str,
        *,
        project: str | None = None,
        run_id: str | None = None,
        holder: Holder | None = None,
        fence: int = 0,
        remaining_s: float = 0.0,
    ) -> None:
        super().__init__(message, project=project, run_id=run_id)
        self.holder = holder
        self.fence = fence
        self.remaining_s = remaining_s


class LeaseHeld(_HeldError):
    """Another process holds the run.

    Attributes:
        holder: who holds it.
        fence: its fence.
        remaining_s: seconds until its lease expires if it is not renewed (0 in lock-delay).
        reason: LEASE_HELD, LOCK_DELAY (expired: the run waits a moment for its holder to come back), LEASE_QUEUED
            (free, but others wait) or NO_HOLDER (the group of this process does not hold it yet).
        since_s: when it was granted, UNIX seconds of the store.
        ttl_s: its time to live, in seconds.
        lock_delay_s: how long the run stays closed to others behind the lease's expiry, in seconds.
        place: our place in the queue, 1 for the next; 0 without one.
        retry_after_s: when to try again, in seconds.
    """

    reason: str = "LEASE_HELD"
    since_s: float = 0.0
    ttl_s: float = 0.0
    lock_delay_s: float = 0.0
    place: int = 0
    retry_after_s: float = 0.0

    @property
    def in_lock_delay(self) -> bool:
        """Whether the lease has expired and only the lock-delay keeps others out."""
        return self.reason == "LOCK_DELAY"


class RunExists(_HeldError):
    """``resume="never"`` and the run is there already (held, or ended)."""


class LeaseLost(RunleaseError):
    """The calling process no longer holds the run; nothing that it writes is accepted any more.

    Attributes:
        cause: ``superseded``, ``ended``, ``revoked``, ``deleted`` or ``absent``, as the coordinator said;
            ``taken over`` where another process writes under the same lease; ``released`` or ``forked`` in this
            process.
        holder: the new holder, where there is one.
        fence: this process's fence.
        current_fence: the run's fence now (0 where unknown).
    """

    def __init__(
        self,
        message: str,
        *,
        cause: str,
        project: str | None = None,
        run_id: str | None = None,
        holder: Holder | None = None,
        fence: int = 0,
        current_fence: int = 0,
    ) -> None:
        """Hold what the coordinator said."""
        super().__init__(message, project=project, run_id=run_id)
        self.cause = cause
        self.holder = holder
        self.fence = fence
        self.current_fence = current_fence


class RunNotFound(RunleaseError):
    """The run must exist and does not."""


class RunDeleted(RunleaseError):
    """The run was deleted; its ID stays taken until it is purged."""


class RunIdCollision(RunleaseError):
    """Another spelling of the same canonical ID exists: ``existing_id``."""

    existing_id: str = ""


class StaleFence(RunleaseError):
    """The call named a fence that is no longer the run's; it changed nothing.

    Attributes:
        reason: the coordinator's word for it, e.g. ``STALE_FENCE``, ``LEASE_ENDED``, ``SESSION_TAKEN``.
        current_fence: the run's fence now (0 where unknown).
        holder: who holds the run now, where somebody does.
        attempt: of an ended nonce (``NONCE_ENDED``): the attempt that it opened (0: none, a sync).
    """

    reason: str = "STALE_FENCE"
    current_fence: int = 0
    attempt: int = 0
    holder: Holder | None = None


class Throttled(RunleaseError):
    """A rate limit was met; try again after ``retry_after_s`` seconds."""

    retry_after_s: float = 0.0


class CoordinatorUnavailable(RunleaseError):
    """The coordinator did not answer, or cannot decide now; try again after ``retry_after_s`` seconds.

    Attributes:
        reason: the coordinator's word for it, e.g. ``QUARANTINE``, ``UNCONFIRMED``; '' where nobody answered.
        incarnation: of ``UNCONFIRMED``: what a holder names that renews because it still holds its lease.
    """

    reason: str = ""
    incarnation: str = ""
    retry_after_s: float = 0.0


class Unauthenticated(RunleaseError):
    """No credentials, or bad ones."""


class PermissionDenied(RunleaseError):
    """The credentials do not allow this call."""


class IncompatibleVersion(RunleaseError):
    """SDK and coordinator are of different major versions."""
