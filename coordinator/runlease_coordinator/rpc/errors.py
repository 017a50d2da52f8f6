"""Errors become statuses here and nowhere else: one table, one interceptor."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2 as details_pb2
from google.rpc import status_pb2

from runlease_coordinator.domain import errors
from runlease_coordinator.domain.runs import Run
from runlease_coordinator.rpc.streams import Streams

log = logging.getLogger(__name__)

DOMAIN = "runlease"
_DETAILS = "grpc-status-details-bin"

_CODES: dict[type[errors.DomainError], grpc.StatusCode] = {
    errors.InvalidField: grpc.StatusCode.INVALID_ARGUMENT,
    errors.RunNotFound: grpc.StatusCode.NOT_FOUND,
    errors.RunExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.RunDeleted: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RunIdCollision: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LeaseHeld: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NoHolder: grpc.StatusCode.FAILED_PRECONDITION,
    errors.BadBranch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LimitReached: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Stale: grpc.StatusCode.ABORTED,
    errors.Throttled: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Unconfirmed: grpc.StatusCode.UNAVAILABLE,
}


def details_of(error: errors.DomainError) -> list[Message]:
    """Return the google.rpc details of a refusal."""
    if isinstance(error, errors.InvalidField):
        violation = details_pb2.BadRequest.FieldViolation(field=error.field, description=error.description)
        return [details_pb2.BadRequest(field_violations=[violation])]
    facts: dict[str, str] = {}
    found: list[Any] = []
    run = getattr(error, "run", None)
    if run is not None:
        facts |= _facts_of(run)
        found.append(_resource(run.path, str(run.holder) if run.remaining_us else "", str(error)))
    elif isinstance(error, errors.RunError):
        found.append(_resource(f"{error.project}/{error.run_id}", "", str(error)))
    if isinstance(error, errors.Stale) and error.attempt is not None:
        facts["attempt"] = str(error.attempt)
    if isinstance(error, errors.Unconfirmed):
        facts["incarnation"] = error.incarnation
    if isinstance(error, errors.RunIdCollision):
        facts["existing_id"] = error.existing_id
    if isinstance(error, errors.LeaseHeld):
        facts["place"] = str(error.place)
        found.append(_retry(error.retry_after_us // 1000))
    if isinstance(error, errors.Throttled):
        quota = details_pb2.QuotaFailure.Violation(subject=f"project:{error.project}", description=str(error))
        found += [details_pb2.QuotaFailure(violations=[quota]), _retry(error.retry_after_us // 1000 + 1)]
    if isinstance(error, errors.Overloaded | errors.Unavailable):
        found.append(_retry(error.retry_after_ms))
    return [details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=facts), *found]


def _resource(name: str, owner: str, description: str) -> details_pb2.ResourceInfo:
    return details_pb2.ResourceInfo(
        resource_type="runlease.v1.Run", resource_name=name, owner=owner, description=description
    )


def _retry(after_ms: int) -> details_pb2.RetryInfo:
    retry = details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(after_ms)
    return retry


def _facts_of(run: Run) -> dict[str, str]:
    return {
        "run_id": run.id,
        "state": run.state.value,
        "fence": str(run.fence),
        "attempt": str(run.attempt),
        "granted_us": str(run.granted_us),
        "ttl_ms": str(run.ttl_us // 1000),
        "remaining_ms": str(run.remaining_us // 1000),
        "lock_delay_ms": str(run.lock_delay_us // 1000),
        "holder_host": run.holder.host,
        "holder_pid": str(run.holder.pid),
        "holder_user": run.holder.user,
        "holder_job_id": run.holder.job_id,
        "holder_group": run.holder.group,
        "holder_boot_id": run.holder.boot_id,
        "holder_pid_namespace": run.holder.pid_namespace,
        "holder_process_started": str(run.holder.process_started),
    }


def _set_status(context: grpc.aio.ServicerContext[Any, Any], error: errors.DomainError) -> None:
    """Set the status with which the call ends once its handler returns.

    Not `abort`, which keeps its exception with the call, and so both until cycles are searched for: behind a failover
    there are more refusals than answers.
    """
    code = _CODES[type(error)]
    packed = []
    for detail in details_of(error):
        message = AnyMessage()
        message.Pack(detail)
        packed.append(message)
    status = status_pb2.Status(code=code.value[0], message=str(error), details=packed)
    context.set_code(code)
    context.set_details(str(error))
    context.set_trailing_metadata(((_DETAILS, status.SerializeToString()),))


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Maps what handlers raise to statuses with details; what is unexpected becomes INTERNAL and is logged."""

    def __init__(self, streams: Streams | None = None) -> None:
        """Wrap each method once, at its first call; take the bounds of streams."""
        self._streams = streams or Streams()
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the method's handler behind the mapping."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:  # an unknown method: gRPC answers UNIMPLEMENTED
                return None
            wrapped = self._wrapped[method] = _wrap(handler, method, self._streams)
        return wrapped


def _wrap(handler: Any, method: str, streams: Streams) -> Any:
    if not method.startswith("/runlease."):  # health and reflection bring their own
        return handler
    codecs = (_reader(handler.request_deserializer), handler.response_serializer)
    if handler.response_streaming:
        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        behavior = handler.stream_stream if handler.request_streaming else handler.unary_stream
        checked = _Requests if handler.request_streaming else _checked
        return make(_streaming(behavior, method, checked, streams), *codecs)
    return grpc.unary_unary_rpc_method_handler(_unary(handler.unary_unary, method), *codecs)


def _reader(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return a deserializer that hands on what is wrong, where gRPC's own way is an internal error."""

    def read(raw: bytes) -> Any:
        try:
            return deserialize(raw)
        except (DecodeError, ValueError) as error:  # ValueError: text that is no UTF-8, in protobuf's pure Python
            return errors.InvalidField("(request)", f"the bytes are no message of this method: {error}")

    return read


def _checked(request: Any) -> Any:
    if isinstance(request, errors.InvalidField):
        raise request
    return request


class _Requests:
    """The requests of a stream, up to the first that is no message."""

    def __init__(self, requests: AsyncIterator[Any]) -> None:
        self._requests = aiter(requests)

    def __aiter__(self) -> _Requests:
        return self

    async def __anext__(self) -> Any:
        return _checked(await anext(self._requests))


def _unary(behavior: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behavior(_checked(request), context)
        except Exception as error:  # `_refuse` tells apart what it is
            await _refuse(context, method, error)

    return call


def _streaming(
    behavior: Callable[..., AsyncGenerator[Any]], method: str, checked: Callable[[Any], Any], streams: Streams
) -> Callable[..., Awaitable[None]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        with streams.place(context.peer()) as refusal:
            try:
                if refusal is not None:
                    raise refusal
                async with aclosing(behavior(checked(request), context)) as responses:
                    async for response in responses:
                        await streams.send(context, response)
            except Exception as error:  # `_refuse` tells apart what it is
                await _refuse(context, method, error)

    return call


async def _refuse(context: grpc.aio.ServicerContext[Any, Any], method: str, error: Exception) -> None:
    """End a call with the status of what its handler raised."""
    match error:
        case errors.DomainError():
            _set_status(context, error)
        case grpc.aio.BaseError():  # gRPC's own: the call has its status, or is over
            raise error
        case NotImplementedError():  # the generated base class: the contract is ahead of this version
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not built in this version")
        case _:  # the caller gets no internals; the log gets all of them
            log.error("%s failed", method, exc_info=error)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error: see the coordinator's log")
