"""Checks of a coordinator, as its clients reach it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import grpc

from runlease.channel import Caller, close_channel, coordinator_address, credentials, each_address, open_channel
from runlease.client import Client
from runlease.doctor.finding import Finding
from runlease.exceptions import CoordinatorUnavailable, RunleaseError
from runlease.version import __version__

#: How long to wait for an address's first answer, in seconds, and how many round trips to time.
_TIMEOUT_S = 3.0
_ROUND_TRIPS = 5
#: A third of the shortest ttl's renewal period: above it, renewals get into trouble.
_SLOW_S = 0.5
#: Trailing metadata of a coordinator's health answer.
VERSION_KEY = "runlease-version"
#: `grpc.health.v1.HealthCheckResponse` with status SERVING; its package is not among the SDK's dependencies.
_SERVING = b"\x08\x01"


def check_coordinators(given: str | None, token: str | None) -> Iterator[Finding]:
    """Yield what each check of each address finds; an address is ``given``, or comes from the environment."""
    for address in each_address(coordinator_address(given)):
        reached = _answers(address, token)
        yield reached
        if reached.verdict != "error":
            yield _decides(address, token)


def _where(address: str) -> str:
    return f"coordinator {address}"


def _answers(address: str, token: str | None) -> Finding:
    """Ask for its health: whether it serves, its version, and how long a round trip takes."""
    where = _where(address)
    try:
        channel = open_channel(address)
    except RunleaseError as error:
        return Finding(where, "reached", "error", str(error))
    try:
        return _health(where, channel, Caller(address, credentials(token), timeout_s=_TIMEOUT_S))
    finally:
        close_channel(channel)


def _health(where: str, channel: grpc.Channel, caller: Caller) -> Finding:
    check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")  # bytes in, bytes out
    try:
        status = caller(check, b"")
        times_s = []
        for _ in range(_ROUND_TRIPS):
            began = time.perf_counter()
            status, call = check.with_call(b"", timeout=_TIMEOUT_S, metadata=caller.metadata)
            times_s.append(time.perf_counter() - began)
    except RunleaseError as error:
        return Finding(where, "reached", "error", str(error))
    except grpc.RpcError as error:
        return Finding(where, "reached", "error", f"answers, then fails: {error.code().name}", "see its log")
    version = str(dict(call.trailing_metadata() or ()).get(VERSION_KEY, ""))
    median_s = statistics.median(times_s)
    seen = f"{f'runlease {version}, ' if version else ''}a round trip takes {median_s * 1e3:.1f} ms"
    if status != _SERVING:
        return Finding(where, "reached", "error", f"{seen}; it does not serve (it is stopping?)", "see its log")
    if version and version.split(".", maxsplit=1)[0] != __version__.split(".")[0]:
        remedy = "use an SDK and a coordinator of the same major version"
        return Finding(where, "reached", "error", f"{seen}; this is runlease {__version__}", remedy)
    if median_s > _SLOW_S:
        return Finding(where, "reached", "warning", seen, "use a coordinator that is nearer, or a longer ttl")
    return Finding(where, "reached", "ok", seen)


def _decides(address: str, token: str | None) -> Finding:
    """Ask for something that its store must answer."""
    where = _where(address)
    try:
        with Client(address, token, timeout_s=_TIMEOUT_S) as client:
            client.get_limits("default")
    except CoordinatorUnavailable as error:
        return Finding(where, "decides", "error", str(error), "see `runlease doctor --store URL` on its machine")
    except RunleaseError as error:
        return Finding(where, "decides", "error", str(error))
    return Finding(where, "decides", "ok", "its store answers")
