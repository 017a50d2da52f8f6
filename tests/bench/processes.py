"""The processes that are measured: a coordinator, the echo server, etcd; each ended by its own process ID."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import grpc.aio

from tests.support.cli import bootstrap
from tests.support.coordinator import CoordinatorProcess
from tests.support.redis import RedisServer
from tests.support.sentinels import SentinelSite

ROOT = Path(__file__).resolve().parents[2]
_READY_S = 30.0


@contextmanager
def coordinator(*flags: str) -> Iterator[CoordinatorProcess]:
    """A coordinator as users run it: embedded store, every write on disk before it is acknowledged."""
    with _coordinator(*flags) as process:
        yield process


@contextmanager
def two_coordinators() -> Iterator[tuple[RedisServer, list[CoordinatorProcess]] | None]:
    """Two coordinators on one Redis that syncs each write; None where redis-server is not installed."""
    binary = shutil.which("redis-server")
    if binary is None:
        yield None
        return
    with ExitStack() as stack:
        server = RedisServer("appendonly yes", "appendfsync always", binary=binary)
        stack.callback(server.close)
        yield server, _two(server.url, stack)


@contextmanager
def two_behind_sentinels(max_ttl_s: float = 60.0) -> Iterator[tuple[SentinelSite, list[CoordinatorProcess]] | None]:
    """Two coordinators on three data nodes that sync each second, and Sentinels; None without redis-server."""
    binary = shutil.which("redis-server")
    if binary is None:
        yield None
        return
    with ExitStack() as stack:
        site = SentinelSite("appendonly yes", "appendfsync everysec", binary=binary, proxied=False)
        stack.callback(site.close)
        yield site, _two(site.url, stack, "--data-nodes", "3", "--max-ttl", f"{max_ttl_s:g}")


def _two(url: str, stack: ExitStack, *flags: str) -> list[CoordinatorProcess]:
    bootstrap(url, *flags)
    return [stack.enter_context(_coordinator("--store", url, *flags)) for _ in range(2)]


@contextmanager
def _coordinator(*flags: str) -> Iterator[CoordinatorProcess]:
    process = CoordinatorProcess("--log-level", "warning", *flags)
    try:
        yield process.start()
    finally:
        process.close()


@contextmanager
def echo() -> Iterator[tuple[str, int]]:
    """The echo server; yields its address and process ID."""
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.echo"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}", process.pid
    finally:
        end(process)


@contextmanager
def etcd() -> Iterator[str | None]:
    """A single etcd with its default durability; yields its address, None where etcd is not installed."""
    binary = shutil.which("etcd")
    if binary is None:
        yield None
        return
    client, peer = _free_ports(2)
    folder = Path(tempfile.mkdtemp(prefix="rlb-", dir="/tmp"))
    urls = {"client": f"http://127.0.0.1:{client}", "peer": f"http://127.0.0.1:{peer}"}
    command = [
        *(binary, "--name", "bench", "--data-dir", str(folder / "data"), "--log-level", "error"),
        *("--listen-client-urls", urls["client"], "--advertise-client-urls", urls["client"]),
        *("--listen-peer-urls", urls["peer"], "--initial-advertise-peer-urls", urls["peer"]),
        *("--initial-cluster", f"bench={urls['peer']}"),
    ]
    process = None
    try:
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=_plain_environment())
        yield f"127.0.0.1:{client}"
    finally:
        if process is not None:
            end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def end(process: subprocess.Popen[Any]) -> None:
    """Terminate a process, kill it if it does not end, and wait."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def open_channel(address: str) -> grpc.aio.Channel:
    """Return a channel with the options that all contenders get."""
    return grpc.aio.insecure_channel(
        address,
        options=(
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", 16 << 20),
        ),
    )


async def ready(channel: grpc.aio.Channel) -> None:
    """Wait until the other end answers."""
    await asyncio.wait_for(channel.channel_ready(), _READY_S)


def conditions() -> str:
    """Return what others do to the machine: its load, and the time to get 4 KiB appended onto the servers' disk."""
    return f"load {os.getloadavg()[0]:.1f}, fdatasync of 4 KiB appended p50 {_fdatasync_us():.0f} us"


def _fdatasync_us(count: int = 200) -> float:
    took = []
    with tempfile.TemporaryFile(dir="/tmp", prefix="rlb-", buffering=0) as file:
        for _ in range(count):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - began) * 1e6)
    return median(took)


def embedded_url(coordinator: CoordinatorProcess) -> str:
    """Return the URL of a coordinator's embedded store."""
    record = json.loads((coordinator.data_dir / "store.json").read_text())
    return f"unix://{record['socket']}"


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, user and system, all threads (Linux).

    /proc/PID/stat has it as well, in ticks of 10 ms. The clock of another process is what clock_getcpuclockid(3) makes
    of its ID: the ID's complement, shifted, and CPUCLOCK_SCHED.
    """
    return time.clock_gettime(~pid << 3 | 2)


def resident_mib(pid: int) -> float:
    """Return a process's resident memory in MiB (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
