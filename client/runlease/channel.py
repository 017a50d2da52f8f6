"""Channels to the coordinator, and calls over them that end as our exceptions."""

from __future__ import annotations

import ipaddress
import re
import socket
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import grpc
import tenacity

from runlease.exceptions import CoordinatorUnavailable, InvalidArgument
from runlease.settings import DEFAULT_COORDINATOR, read_environment
from runlease.status import error_from

_Response = TypeVar("_Response")
_PORT = re.compile(r"[0-9]{1,5}")

_given_up: weakref.WeakSet[grpc.Channel] = weakref.WeakSet()

#: One attempt of a call: above a slow fsync, below a renewal's period at the shortest ttl times three.
CALL_TIMEOUT_S = 5.0
#: What every channel gets.
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.enable_retries", 0),  # tenacity retries, where a repetition is right
    ("grpc.use_local_subchannel_pool", 1),  # else channels to one address share a connection, and its blockages
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Also how long one attempt to connect may take at least: a busy or distant coordinator needs more than a moment.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Of its other pings, which measure the bandwidth; waited for a minute by default, and so was a hanging coordinator
    # (measured: 61 s from SIGSTOP to the next acknowledged point, 5 to 13 s with this).
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 16 << 20),
)


def coordinator_address(given: str | None) -> str:
    """Return the coordinator's address: the argument, `RUNLEASE_COORDINATOR`, or localhost:7373."""
    return given or read_environment().coordinator or DEFAULT_COORDINATOR


def each_address(addresses: str) -> list[str]:
    """Return the parts of ``HOST:PORT,HOST:PORT``; a gRPC target is one, whatever is in it."""
    return [addresses] if _is_target(addresses) else [part.strip() for part in addresses.split(",")]


def open_channel(address: str) -> grpc.Channel:
    """Return a channel of its own connection to one of the addresses.

    Args:
        address: ``HOST:PORT``, several with commas, ``unix:/PATH``, or a gRPC target with ``//``.

    Raises:
        InvalidArgument: not an address.
        CoordinatorUnavailable: of several hosts none can be resolved.
    """
    options = [*OPTIONS, ("grpc.enable_http_proxy", int(read_environment().proxy))]
    return grpc.insecure_channel(target(address), options=options)


def give_up(channel: grpc.Channel) -> None:
    """Note that a call could not start its threads: to close this channel would wait for them for ever."""
    _given_up.add(channel)


def close_channel(channel: grpc.Channel) -> None:
    """Close a channel, unless it was given up; that one's connection ends with the process."""
    if channel not in _given_up:
        channel.close()


def credentials(token: str | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata that carries the token, if there is one."""
    token = token or read_environment().token
    return (("authorization", f"Bearer {token}"),) if token else ()


def _is_target(address: str) -> bool:
    return "//" in address or address.startswith(("unix:", "dns:", "ipv4:", "ipv6:"))


def target(address: str) -> str:
    """Return the gRPC target of an address as `open_channel` takes it; same errors."""
    if _is_target(address):
        return address
    addresses = each_address(address)
    for part in addresses:
        host, _, port = part.rpartition(":")
        if not host or not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
            raise InvalidArgument(f"{part!r} is no coordinator address: give HOST:PORT", field="coordinator")
    return addresses[0] if len(addresses) == 1 else _addresses_target(addresses)


def _addresses_target(addresses: Sequence[str]) -> str:
    # gRPC takes a list of addresses only as numbers of one family.
    found: dict[socket.AddressFamily, list[str]] = {socket.AF_INET: [], socket.AF_INET6: []}
    for part in addresses:
        host, _, port = part.rpartition(":")
        try:
            resolved = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        except OSError:
            continue
        for family, _, _, _, where in resolved:
            if family in found:
                number = ipaddress.ip_address(where[0])
                found[family].append(f"[{number}]:{port}" if number.version == 6 else f"{number}:{port}")
    for family, scheme in ((socket.AF_INET, "ipv4"), (socket.AF_INET6, "ipv6")):
        if found[family]:
            return f"{scheme}:" + ",".join(dict.fromkeys(found[family]))
    raise CoordinatorUnavailable(f"none of the coordinators {', '.join(addresses)} can be resolved: check the names")


class Caller:
    """Makes unary calls: a deadline each, retries while the coordinator is away, our exceptions."""

    def __init__(
        self,
        address: str,
        metadata: Sequence[tuple[str, str]] = (),
        *,
        timeout_s: float = 10.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take the address to name in errors, metadata for every call, and how long to try in all, in seconds."""
        self.address = address
        self.metadata = tuple(metadata)
        self.timeout_s = timeout_s
        self._sleep = sleep

    def once(self, method: Callable[..., _Response], request: Any, timeout_s: float = CALL_TIMEOUT_S) -> _Response:
        """Make one attempt.

        Raises:
            RunleaseError: as `runlease.status` tells.
        """
        try:
            return method(request, timeout=timeout_s, metadata=self.metadata)
        except grpc.RpcError as error:
            raise error_from(error, coordinator=self.address) from None

    def __call__(self, method: Callable[..., _Response], request: Any) -> _Response:
        """Call until it answers or the time is up; every call of the API can be repeated.

        Raises:
            RunleaseError: as `runlease.status` tells; CoordinatorUnavailable after the last attempt, with the last
                reason that the coordinator gave, if it gave one.
        """
        deadline = time.monotonic() + self.timeout_s
        told: CoordinatorUnavailable | None = None
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(CoordinatorUnavailable),
            stop=tenacity.stop_after_delay(self.timeout_s),
            wait=wait_for_coordinator,
            sleep=lambda seconds: self._sleep(max(0.0, min(seconds, deadline - time.monotonic()))),
            reraise=True,
        )

        def attempt() -> _Response:
            nonlocal told
            left_s = deadline - time.monotonic()
            try:
                return self.once(method, request, max(0.1, min(CALL_TIMEOUT_S, left_s)))
            except CoordinatorUnavailable as error:
                told = error if error.reason or told is None else told
                raise told from None

        return retrying(attempt)


_BACKOFF = tenacity.wait_random_exponential(multiplier=0.1, max=2.0)


def wait_for_coordinator(state: tenacity.RetryCallState) -> float:
    """Return the pause before the next try, in seconds: as the coordinator asked, else growing."""
    error = state.outcome.exception() if state.outcome else None
    hint = getattr(error, "retry_after_s", 0.0)
    return max(_BACKOFF(state), min(hint, 2.0))
