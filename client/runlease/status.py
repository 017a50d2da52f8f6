"""The one table from gRPC statuses to exceptions.

====================  ==============================  =======================================
status                ErrorInfo.reason                exception
====================  ==============================  =======================================
INVALID_ARGUMENT      (BadRequest names the field)    InvalidArgument, InvalidRunId
NOT_FOUND             RUN_NOT_FOUND                   RunNotFound
ALREADY_EXISTS        RUN_EXISTS                      RunExists
FAILED_PRECONDITION   LEASE_HELD, LOCK_DELAY,         LeaseHeld
                      LEASE_QUEUED, NO_HOLDER
FAILED_PRECONDITION   RUN_DELETED                     RunDeleted
FAILED_PRECONDITION   RUN_ID_COLLISION                RunIdCollision
FAILED_PRECONDITION   CYCLE, LINKED_ALREADY,          RunleaseError
                      REFERENCED, NOT_DELETED,
                      LIMIT_REACHED
ABORTED               STALE_FENCE and others          StaleFence
RESOURCE_EXHAUSTED    (gRPC's own: too large)         InvalidArgument
RESOURCE_EXHAUSTED    TOO_MANY_READS and others       CoordinatorUnavailable
RESOURCE_EXHAUSTED    THROTTLED                       Throttled
UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED, INTERNAL   CoordinatorUnavailable
UNAUTHENTICATED                                       Unauthenticated
PERMISSION_DENIED                                     PermissionDenied
UNIMPLEMENTED                                         IncompatibleVersion
anything else                                         RunleaseError
====================  ==============================  =======================================

The details travel in ``grpc-status-details-bin``; they are decoded here, since grpcio-status pins grpcio.
"""

from __future__ import annotations

from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from runlease import exceptions
from runlease.holder import Holder
from runlease.ids import MAX_ID_LENGTH, canonical_id

_Detail = TypeVar("_Detail", bound=Message)
_Code = grpc.StatusCode
#: Digits of the largest uint64.
_LONGEST_NUMBER = 20


class Details:
    """The google.rpc details of one status."""

    def __init__(self, error: grpc.RpcError) -> None:
        """Decode the details that came with an error, if any did."""
        self._status = status_pb2.Status()
        trailers: Any = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
        for key, value in trailers or ():
            if key == "grpc-status-details-bin":
                try:
                    self._status.ParseFromString(value)
                except DecodeError:  # a proxy's own; the code and the message still tell
                    self._status.Clear()
        info = self.get(error_details_pb2.ErrorInfo)
        self.reason: str = info.reason if info else ""
        self.facts: dict[str, str] = dict(info.metadata) if info else {}
        resource = self.get(error_details_pb2.ResourceInfo)
        self.project, self.run_id = _path_of(resource)
        retry = self.get(error_details_pb2.RetryInfo)
        self.retry_after_s: float = retry.retry_delay.ToMilliseconds() / 1000 if retry else 0.0

    def get(self, kind: type[_Detail]) -> _Detail | None:
        """Return the detail of a kind, or None."""
        for packed in self._status.details:
            detail = kind()
            if packed.Is(detail.DESCRIPTOR):
                packed.Unpack(detail)
                return detail
        return None

    def number(self, name: str) -> int:
        """Return a fact as a number, 0 where it is missing."""
        text = self.facts.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER else 0

    @property
    def holder(self) -> Holder | None:
        """The holder that the status names, or None."""
        if "holder_host" not in self.facts:
            return None
        return Holder(
            host=self.facts["holder_host"],
            pid=self.number("holder_pid"),
            user=self.facts.get("holder_user", ""),
            job_id=self.facts.get("holder_job_id", ""),
            group=self.facts.get("holder_group", ""),
            boot_id=self.facts.get("holder_boot_id", ""),
            pid_namespace=self.facts.get("holder_pid_namespace", ""),
            process_started=self.number("holder_process_started"),
        )

    @property
    def path(self) -> str:
        """``PROJECT/RUN`` of the run that the status is about."""
        return f"{self.project}/{self.run_id}"


def _path_of(resource: error_details_pb2.ResourceInfo | None) -> tuple[str, str]:
    project, _, run_id = resource.resource_name.partition("/") if resource else ("", "", "")
    return project, run_id


def error_from(error: grpc.RpcError, *, coordinator: str = "") -> exceptions.RunleaseError:
    """Return the exception for a gRPC error; ``coordinator`` is the address to name when it does not answer."""
    code: grpc.StatusCode = error.code() if hasattr(error, "code") else _Code.UNKNOWN
    text = (error.details() if hasattr(error, "details") else None) or code.name
    details = Details(error)
    run = {"project": details.project or None, "run_id": details.run_id or None}
    match code:
        case _Code.INVALID_ARGUMENT:
            return _invalid(text, details)
        case _Code.NOT_FOUND:
            return exceptions.RunNotFound(f"{text}: see `runlease ls` for those that do", **run)
        case _Code.ALREADY_EXISTS:
            return _exists(text, details)
        case _Code.FAILED_PRECONDITION if details.reason in ("LEASE_HELD", "LOCK_DELAY", "LEASE_QUEUED", "NO_HOLDER"):
            return _held(text, details)
        case _Code.FAILED_PRECONDITION if details.reason == "RUN_DELETED":
            return exceptions.RunDeleted(f"{text}, or take that back: runlease undelete {_shell_path(details)}", **run)
        case _Code.FAILED_PRECONDITION if details.reason == "RUN_ID_COLLISION":
            collision = exceptions.RunIdCollision(text, **run)
            collision.existing_id = details.facts.get("existing_id", "")
            return collision
        case _Code.FAILED_PRECONDITION if details.reason:  # CYCLE, LINKED_ALREADY, REFERENCED, NOT_DELETED
            return exceptions.RunleaseError(text, **run)
        case _Code.ABORTED:
            stale = exceptions.StaleFence(text, **run)
            stale.reason = details.reason or "STALE_FENCE"
            stale.current_fence, stale.holder = details.number("fence"), details.holder
            stale.attempt = details.number("attempt") if stale.reason == "NONCE_ENDED" else 0
            return stale
        case _Code.RESOURCE_EXHAUSTED if "larger than max" in text:  # by the sender or the receiver, no rate limit
            return exceptions.InvalidArgument(f"{text}: send less at once", field="(request)")
        case _Code.RESOURCE_EXHAUSTED if details.reason.startswith("TOO_MANY_"):  # no room now
            return _unavailable(code, text, details, coordinator)
        case _Code.RESOURCE_EXHAUSTED:
            throttled = exceptions.Throttled(f"{text}: try again in {details.retry_after_s:g} s", **run)
            throttled.retry_after_s = details.retry_after_s
            return throttled
        case _Code.UNAVAILABLE | _Code.DEADLINE_EXCEEDED | _Code.CANCELLED | _Code.INTERNAL:
            return _unavailable(code, text, details, coordinator)
        case _Code.UNAUTHENTICATED:
            return exceptions.Unauthenticated(f"{text}: set RUNLEASE_TOKEN or give token=")
        case _Code.PERMISSION_DENIED:
            return exceptions.PermissionDenied(f"{text}: ask for a token that allows it")
        case _Code.UNIMPLEMENTED:
            return exceptions.IncompatibleVersion(f"{text}: use an SDK and a coordinator of the same version")
    return exceptions.RunleaseError(f"{code.name}: {text}", **run)


def _invalid(text: str, details: Details) -> exceptions.InvalidArgument:
    bad = details.get(error_details_pb2.BadRequest)
    field = bad.field_violations[0].field if bad and bad.field_violations else ""
    kind = exceptions.InvalidRunId if field == "run.id" else exceptions.InvalidArgument
    return kind(text, field=field)


def _exists(text: str, details: Details) -> exceptions.RunExists:
    held = f", held by {details.holder}" if details.number("remaining_ms") else ""
    return exceptions.RunExists(
        f'{text}{held}: give resume="allow" to go on with it, or another ID',
        project=details.project,
        run_id=details.run_id,
        holder=details.holder,
        fence=details.number("fence"),
        remaining_s=details.number("remaining_ms") / 1000,
    )


def _held(text: str, details: Details) -> exceptions.LeaseHeld:
    wait_s = details.retry_after_s
    match details.reason:
        case "LOCK_DELAY":
            wait = f"its last holder {details.holder} did not release it; give wait={wait_s + 1:.0f}"
            message = f"{text}: {wait}, or {_break_line(details, force=True)}"
        case "LEASE_QUEUED":
            message = f"{text}: give wait=SECONDS to take a place behind them"
        case "NO_HOLDER":
            message = f"{text}: start the process that shall hold it (RANK 0, or holder=True)"
        case _:
            message = f"{text}: wait for it (wait=SECONDS), end that process, or {_break_line(details)}"
    error = exceptions.LeaseHeld(
        message,
        project=details.project or None,
        run_id=details.run_id or None,
        holder=details.holder,
        fence=details.number("fence"),
        remaining_s=details.number("remaining_ms") / 1000,
    )
    error.reason, error.retry_after_s, error.place = details.reason, wait_s, details.number("place")
    error.since_s, error.ttl_s = details.number("granted_us") / 1e6, details.number("ttl_ms") / 1000
    error.lock_delay_s = details.number("lock_delay_ms") / 1000
    return error


def _break_line(details: Details, *, force: bool = False) -> str:
    """Return how to take the lease away, ready to be pasted into a shell."""
    return f"take it away: runlease break {_shell_path(details)}{' --force' if force else ''} --reason TEXT"


def _shell_path(details: Details) -> str:
    # The canonical form is as good as an ID as typed, and needs no quotes.
    return f"{details.project}/{canonical_id(details.run_id[:MAX_ID_LENGTH])}" if details.run_id else "PROJECT/RUN"


def _unavailable(
    code: grpc.StatusCode, text: str, details: Details, coordinator: str
) -> exceptions.CoordinatorUnavailable:
    where = f" at {coordinator}" if coordinator else ""
    if details.reason:
        message = f"the coordinator{where} cannot decide now: {text}"
    elif code is _Code.INTERNAL:
        message = f"the coordinator{where} failed: {text}"
    else:
        remedy = "start one with `runlease serve`, or set RUNLEASE_COORDINATOR to the address of one"
        message = f"no coordinator answers{where} ({text}): {remedy}"
    error = exceptions.CoordinatorUnavailable(message, project=details.project or None, run_id=details.run_id or None)
    error.reason, error.retry_after_s = details.reason, details.retry_after_s
    error.incarnation = details.facts.get("incarnation", "")
    return error
