"""Each row of the table from statuses to exceptions, from the very details that the coordinator makes."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import status_pb2
from runlease import exceptions
from runlease.status import error_from
from runlease_coordinator.domain import errors
from runlease_coordinator.domain.runs import Holder, Run, RunState
from runlease_coordinator.rpc.errors import details_of

HOLDER = Holder("node-7", 4711, "ada", "job-9", "g1", "0.1.0", "boot", "pid:[1]", 987654321)
_CODE = grpc.StatusCode


def run_record(*, remaining_us: int = 12_345_678, lock_delay_us: int = 0, **more: Any) -> Run:
    facts: dict[str, Any] = {
        "project": "demo",
        "id": "a/b",
        "canonical_id": "a-b",
        "name": "gallant-water-62",
        "state": RunState.RUNNING if remaining_us else RunState.CRASHED,
        "created_us": 1,
        "updated_us": 2,
        "attempt": 3,
        "fence": 1_764_000_000_000_123,
        "holder": HOLDER,
        "ttl_us": 30_000_000,
        "remaining_us": remaining_us,
        "lock_delay_us": lock_delay_us,
        "next_step": 61,
        "last_step": 60,
        "last_log_us": 5,
        "points": 100,
        "runtime_us": 7,
        "granted_us": 1_764_000_000_000_123,
        "now_us": 1_764_000_000_000_999,
    }
    return Run(**facts | more)


class Failed(grpc.RpcError):
    """A failed call, as grpc gives it to a caller."""

    def __init__(self, code: grpc.StatusCode, text: str, trailers: tuple[tuple[str, Any], ...] = ()) -> None:
        super().__init__(text)
        self._code, self._text, self._trailers = code, text, trailers

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._text

    def trailing_metadata(self) -> tuple[tuple[str, Any], ...]:
        return self._trailers


def failed(code: grpc.StatusCode, error: errors.DomainError) -> Failed:
    packed = []
    for detail in details_of(error):
        message = AnyMessage()
        message.Pack(detail)
        packed.append(message)
    status = status_pb2.Status(code=code.value[0], message=str(error), details=packed)
    return Failed(code, str(error), (("x", "y"), ("grpc-status-details-bin", status.SerializeToString())))


def raised(code: grpc.StatusCode, error: errors.DomainError) -> exceptions.RunleaseError:
    return error_from(failed(code, error), coordinator="host:7373")


def attributes(error: exceptions.RunleaseError, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(error, name) for name in names)


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ("run.id", exceptions.InvalidRunId),
        ("run.project", exceptions.InvalidArgument),
        ("ttl_ms", exceptions.InvalidArgument),
    ],
)
def test_a_malformed_field(field: str, kind: type[exceptions.InvalidArgument]) -> None:
    got = raised(_CODE.INVALID_ARGUMENT, errors.InvalidField(field, "too long"))
    assert type(got) is kind
    assert attributes(got, "field") == (field,)
    assert "too long" in str(got)


def test_not_found() -> None:
    got = raised(_CODE.NOT_FOUND, errors.RunNotFound("demo", "a/b"))
    assert type(got) is exceptions.RunNotFound
    assert attributes(got, "project", "run_id") == ("demo", "a/b")
    assert "runlease ls" in str(got)


def test_exists_and_held() -> None:
    got = raised(_CODE.ALREADY_EXISTS, errors.RunExists(run_record()))
    assert type(got) is exceptions.RunExists
    assert attributes(got, "project", "run_id", "fence", "remaining_s") == (
        "demo",
        "a/b",
        1_764_000_000_000_123,
        12.345,
    )
    assert (got.holder.host, got.holder.pid) == ("node-7", 4711)
    assert "held by node-7:4711" in str(got)
    assert 'resume="allow"' in str(got)


def test_exists_and_ended() -> None:
    got = raised(_CODE.ALREADY_EXISTS, errors.RunExists(run_record(remaining_us=0, state=RunState.FINISHED)))
    assert type(got) is exceptions.RunExists
    assert got.remaining_s == 0
    assert "held by" not in str(got)
    assert "finished" in str(got)


def test_throttled() -> None:
    got = raised(_CODE.RESOURCE_EXHAUSTED, errors.Throttled("demo", "acquires", 2000, 1_499_000))
    assert type(got) is exceptions.Throttled
    assert attributes(got, "retry_after_s") == (1.5,)
    assert "demo" in str(got)
    assert "runlease limits" in str(got)


def test_more_than_there_may_be() -> None:
    got = raised(_CODE.FAILED_PRECONDITION, errors.LimitReached("demo", "a/b", "too many attempts: fork it"))
    assert (type(got), str(got), got.run_id) == (exceptions.RunleaseError, "too many attempts: fork it", "a/b")


@pytest.mark.parametrize("reason", ["TOO_MANY_READS", "TOO_MANY_STREAMS", "TOO_MANY_WAITERS"])
def test_no_room_now(reason: str) -> None:
    # The same call is made again by itself, as where the coordinator is away.
    got = raised(_CODE.RESOURCE_EXHAUSTED, errors.Overloaded(reason, "64 reads at once", 2000))
    assert type(got) is exceptions.CoordinatorUnavailable
    assert attributes(got, "reason", "retry_after_s") == (reason, 2.0)
    assert "64 reads at once" in str(got)


def test_held() -> None:
    got = raised(_CODE.FAILED_PRECONDITION, errors.LeaseHeld(run_record()))
    assert type(got) is exceptions.LeaseHeld
    assert attributes(got, "project", "run_id", "fence") == ("demo", "a/b", 1_764_000_000_000_123)
    assert attributes(got, "remaining_s", "in_lock_delay", "retry_after_s") == (12.345, False, 12.345)
    holder = got.holder
    assert attributes(holder, "host", "pid", "user", "job_id", "group") == ("node-7", 4711, "ada", "job-9", "g1")
    assert attributes(holder, "boot_id", "pid_namespace", "process_started") == ("boot", "pid:[1]", 987654321)
    assert "node-7:4711, 12.3 s left" in str(got)
    # The line can be pasted into a shell, whatever the ID looks like.
    assert str(got).endswith("take it away: runlease break demo/a-b --reason TEXT")
    later = raised(_CODE.FAILED_PRECONDITION, errors.LeaseHeld(run_record(lock_delay_us=5_000_000), place=2))
    assert attributes(later, "retry_after_s", "lock_delay_s", "place") == (12.345, 5.0, 2)


def test_queued_and_without_a_holder() -> None:
    queued = raised(_CODE.FAILED_PRECONDITION, errors.LeaseHeld(run_record(remaining_us=0), place=3))
    assert (type(queued), queued.reason, queued.place) == (exceptions.LeaseHeld, "LEASE_QUEUED", 3)
    alone = raised(_CODE.FAILED_PRECONDITION, errors.NoHolder("demo", "a/b", None))
    assert (type(alone), alone.reason) == (exceptions.LeaseHeld, "NO_HOLDER")


def test_a_branch_that_cannot_be() -> None:
    got = raised(_CODE.FAILED_PRECONDITION, errors.BadBranch("demo", "a/b", "CYCLE", "that would be a cycle"))
    assert (type(got), str(got), got.run_id) == (exceptions.RunleaseError, "that would be a cycle", "a/b")


def test_lock_delay() -> None:
    got = raised(_CODE.FAILED_PRECONDITION, errors.LeaseHeld(run_record(remaining_us=0, lock_delay_us=3_210_000)))
    assert type(got) is exceptions.LeaseHeld
    assert attributes(got, "remaining_s", "in_lock_delay", "retry_after_s") == (0.0, True, 3.21)
    assert "wait=" in str(got)
    assert "runlease break demo/a-b --force --reason TEXT" in str(got)


def test_deleted() -> None:
    got = raised(_CODE.FAILED_PRECONDITION, errors.RunDeleted("demo", "a/b"))
    assert type(got) is exceptions.RunDeleted
    assert attributes(got, "project", "run_id") == ("demo", "a/b")
    assert "runlease undelete demo/a-b" in str(got)


def test_collision() -> None:
    got = raised(_CODE.FAILED_PRECONDITION, errors.RunIdCollision("demo", "a_b", "a/b"))
    assert type(got) is exceptions.RunIdCollision
    assert attributes(got, "run_id", "existing_id") == ("a_b", "a/b")
    assert "a_b" in str(got)
    assert "a/b" in str(got)


@pytest.mark.parametrize(
    "reason", ["STALE_FENCE", "LEASE_ENDED", "RUN_GONE", "REVOKED", "NONCE_ENDED", "SESSION_TAKEN"]
)
def test_stale(reason: str) -> None:
    got = raised(_CODE.ABORTED, errors.Stale(reason, "old", run_record()))
    assert type(got) is exceptions.StaleFence
    assert attributes(got, "reason", "current_fence", "project") == (reason, 1_764_000_000_000_123, "demo")
    assert got.holder.pid == 4711
    bare = raised(_CODE.ABORTED, errors.Stale(reason, "old"))
    assert attributes(bare, "reason", "current_fence", "holder") == (reason, 0, None)


REASONS = ["STORE_UNAVAILABLE", "QUARANTINE", "UNBOOTSTRAPPED", "REQUEST_TOO_OLD", "OUT_OF_MEMORY", "DRAINING"]


@pytest.mark.parametrize("reason", REASONS)
def test_unavailable_with_a_reason(reason: str) -> None:
    got = raised(_CODE.UNAVAILABLE, errors.Unavailable(reason, "the store is away", 1500))
    assert type(got) is exceptions.CoordinatorUnavailable
    assert attributes(got, "reason", "retry_after_s") == (reason, 1.5)
    assert "cannot decide now" in str(got)
    assert "host:7373" in str(got)


def test_unconfirmed_names_the_incarnation_to_claim_under() -> None:
    got = raised(_CODE.UNAVAILABLE, errors.Unconfirmed("1764000000000123"))
    assert type(got) is exceptions.CoordinatorUnavailable
    assert attributes(got, "reason", "incarnation") == ("UNCONFIRMED", "1764000000000123")


@pytest.mark.parametrize("code", [_CODE.UNAVAILABLE, _CODE.DEADLINE_EXCEEDED, _CODE.CANCELLED])
def test_nobody_answers(code: grpc.StatusCode) -> None:
    got = error_from(Failed(code, "connection refused"), coordinator="host:7373")
    assert type(got) is exceptions.CoordinatorUnavailable
    assert attributes(got, "reason", "retry_after_s") == ("", 0.0)
    for word in ("host:7373", "runlease serve", "RUNLEASE_COORDINATOR", "connection refused"):
        assert word in str(got)


PLAIN = [
    (_CODE.INTERNAL, exceptions.CoordinatorUnavailable),
    (_CODE.RESOURCE_EXHAUSTED, exceptions.Throttled),
    (_CODE.UNAUTHENTICATED, exceptions.Unauthenticated),
    (_CODE.PERMISSION_DENIED, exceptions.PermissionDenied),
    (_CODE.UNIMPLEMENTED, exceptions.IncompatibleVersion),
    (_CODE.INVALID_ARGUMENT, exceptions.InvalidArgument),
    (_CODE.NOT_FOUND, exceptions.RunNotFound),
    (_CODE.ALREADY_EXISTS, exceptions.RunExists),
    (_CODE.ABORTED, exceptions.StaleFence),
]
PLAIN += [(code, exceptions.RunleaseError) for code in (_CODE.FAILED_PRECONDITION, _CODE.UNKNOWN, _CODE.DATA_LOSS)]


@pytest.mark.parametrize(("code", "kind"), PLAIN)
@pytest.mark.parametrize("trailers", [(), (("grpc-status-details-bin", b"\xff\xffno status"),)])
def test_statuses_without_details(
    code: grpc.StatusCode, kind: type[exceptions.RunleaseError], trailers: tuple[tuple[str, Any], ...]
) -> None:
    # A proxy's own statuses have none, or some that nobody can read.
    got = error_from(Failed(code, "said by a proxy", trailers), coordinator="host:7373")
    assert type(got) is kind
    assert "said by a proxy" in str(got)


@pytest.mark.parametrize("verb", ["Sent", "Received"])
def test_a_message_that_is_too_large_is_no_rate_limit(verb: str) -> None:
    got = error_from(Failed(_CODE.RESOURCE_EXHAUSTED, f"CLIENT: {verb} message larger than max (17 vs. 16)"))
    assert type(got) is exceptions.InvalidArgument
    assert "send less" in str(got)


@pytest.mark.parametrize("code", list(_CODE))
def test_every_status_is_an_exception_of_ours(code: grpc.StatusCode) -> None:
    assert isinstance(error_from(Failed(code, "")), exceptions.RunleaseError)


def test_an_error_that_is_no_call_is_ours_too() -> None:
    assert type(error_from(grpc.RpcError())) is exceptions.RunleaseError


def test_every_refusal_of_the_coordinator_has_a_row() -> None:
    # Given a new kind of refusal, this test asks for its row here.
    known = {
        errors.InvalidField,
        errors.RunNotFound,
        errors.RunExists,
        errors.RunDeleted,
        errors.RunIdCollision,
        errors.LeaseHeld,
        errors.NoHolder,
        errors.BadBranch,
        errors.Stale,
        errors.Throttled,
        errors.Overloaded,
        errors.LimitReached,
        errors.Unavailable,
        errors.Unconfirmed,
    }
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DomainError)}
    assert {kind for kind in kinds if not kind.__name__.startswith("_")} - {
        errors.DomainError,
        errors.RunError,
    } == known
