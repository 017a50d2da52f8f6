"""The coordinator as a process: what it says at start, health, reflection, details of errors, drain, outer stores."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import runlease
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from runlease.status import Details
from runlease.v1 import leases_pb2, leases_pb2_grpc, runs_pb2

from tests.support.cli import bootstrap
from tests.support.coordinator import CoordinatorProcess
from tests.support.puppet import Puppet
from tests.support.redis import RedisServer, free_port, make_certificate
from tests.support.wait import until

StartCoordinator = Callable[..., CoordinatorProcess]


@pytest.fixture
def start_redis(redis_binary: str) -> Iterator[Callable[..., RedisServer]]:
    started: list[RedisServer] = []

    def start(*options: str, port: int = 0) -> RedisServer:
        started.append(RedisServer(*options, binary=redis_binary, port=port))
        return started[-1]

    yield start
    for server in started:
        server.close()


def serve(*flags: str) -> subprocess.CompletedProcess[str]:
    """Run a coordinator that cannot start."""
    command = [sys.executable, "-m", "runlease", "serve", "--listen", "127.0.0.1:0", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_health_and_reflection(coordinator: CoordinatorProcess) -> None:
    with grpc.insecure_channel(coordinator.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "runlease.v1.LeaseService", "runlease.v1.RunService", "runlease.v1.MetricService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]), timeout=10)
        names = {service.name for service in next(answers).list_services_response.service}
    assert names >= {"runlease.v1.LeaseService", "runlease.v1.RunService", "runlease.v1.MetricService"}


def test_errors_carry_google_rpc_details(coordinator: CoordinatorProcess, project: str) -> None:
    with grpc.insecure_channel(coordinator.address) as channel, runlease.Client(coordinator.address) as client:
        client.acquire(project, "r", nonce="n1")
        request = leases_pb2.AcquireRequest(
            run=runs_pb2.RunRef(project=project, id="r"), mode="RESUME_MODE_ALLOW", nonce="n2"
        )
        with pytest.raises(grpc.RpcError) as caught:
            leases_pb2_grpc.LeaseServiceStub(channel).Acquire(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    details = Details(caught.value)
    info = details.get(error_details_pb2.ErrorInfo)
    resource = details.get(error_details_pb2.ResourceInfo)
    assert info is not None
    assert (info.reason, info.domain) == ("LEASE_HELD", "runlease")
    assert resource is not None
    assert resource.resource_name == f"{project}/r"
    assert resource.owner.endswith(f":{os.getpid()}")
    assert 0 < details.retry_after_s <= 30


def test_calls_of_later_versions_are_said_to_be_unknown(coordinator: CoordinatorProcess) -> None:
    with grpc.insecure_channel(coordinator.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/runlease.v1.MetricService/Later")(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_sigterm_drains(start_coordinator: StartCoordinator, start_puppet: Callable[..., Puppet]) -> None:
    """An open stream does not hold the end up; what it sent is answered; the store's process ends too."""
    coordinator = start_coordinator()
    trainer = start_puppet(coordinator)
    trainer.call("init", project="p", id="r", resume="allow")
    trainer.call("train", start=0, stop=1000)
    assert trainer.call("flush")
    store = coordinator.store_pid
    assert coordinator.stop() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(store, 0)
    trainer.call("train", start=1000, stop=2000)
    coordinator.start()
    assert trainer.call("flush")
    assert trainer.call("finish")
    with runlease.Client(coordinator.address) as client:
        assert len(client.history("p", "r")) == 4000
        assert len(client.history("p", "r", superseded=True)) == 4000


def test_a_lone_store_server_that_dies_is_started_again(
    start_coordinator: StartCoordinator, start_puppet: Callable[..., Puppet]
) -> None:
    coordinator = start_coordinator()
    trainer = start_puppet(coordinator)
    granted = trainer.call("init", project="p", id="r", resume="allow")
    trainer.call("train", start=0, stop=100)
    assert trainer.call("flush")
    first = coordinator.store_pid
    os.kill(first, signal.SIGKILL)
    trainer.call("train", start=100, stop=200)
    assert trainer.call("flush")
    until(lambda: coordinator.store_pid != first)
    with runlease.Client(coordinator.address) as client:
        assert client.get_run("p", "r").fence == granted["fence"]
        assert len(client.history("p", "r", superseded=True)) == 400
    assert trainer.call("finish")


def test_an_external_store(start_redis: Callable[..., RedisServer], start_coordinator: StartCoordinator) -> None:
    """Bootstrap once; two coordinators on one store see the same runs; a restart of the store starts a quarantine."""
    port = free_port()
    server = start_redis("appendonly yes", "appendfsync always", port=port)
    url = f"redis://127.0.0.1:{port}/0"
    refused = serve("--store", url)
    assert refused.returncode == 2
    assert f"runlease bootstrap {url}" in refused.stderr
    bootstrap(url)
    assert "nothing changed" in bootstrap(server.url)  # again, by its socket
    first = start_coordinator("--store", url, "--max-ttl", "5")
    second = start_coordinator("--store", server.url, "--max-ttl", "5")
    with runlease.init(project="p", id="r", ttl=5, coordinator=first.address) as run:
        with pytest.raises(runlease.LeaseHeld), runlease.Client(second.address) as client:
            client.acquire("p", "r", nonce="n", resume="allow")
        run.log({"a": 1})
    with runlease.Client(second.address) as client:
        assert client.get_run("p", "r").state == "finished"
        assert len(client.history("p", "r")) == 1


def test_a_store_behind_tls_with_a_password(
    start_redis: Callable[..., RedisServer], start_coordinator: StartCoordinator, tmp_path: Path
) -> None:
    certificate, key = make_certificate(tmp_path)
    port = free_port()
    start_redis(
        f"tls-port {port}",
        f"tls-cert-file {certificate}",
        f"tls-key-file {key}",
        "tls-auth-clients no",
        "requirepass geheim",
    )
    url = f"rediss://:geheim@localhost:{port}/0?ssl_ca_certs={certificate}"
    assert "geheim" not in bootstrap(url)
    coordinator = start_coordinator("--store", url)
    with runlease.init(project="p", id="r", coordinator=coordinator.address) as run:
        run.log({"a": 1})
        assert run.flush(30)
    assert "geheim" not in coordinator.log.read_text()
    refused = serve("--store", url.replace("geheim", "falsch"))
    assert refused.returncode == 2
    assert "falsch" not in refused.stderr


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_an_evicting_store_is_refused(start_redis: Callable[..., RedisServer], policy: str) -> None:
    server = start_redis(f"maxmemory-policy {policy}")
    refused = serve("--store", server.url)
    assert refused.returncode == 2
    assert policy in refused.stderr
    assert "noeviction" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_unreachable_store_is_said(tmp_path: Path) -> None:
    refused = serve("--store", f"redis://127.0.0.1:{free_port()}/0")
    assert refused.returncode == 2
    assert "cannot use the store" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_more_clients_than_a_shell_allows_open_files(start_coordinator: StartCoordinator, project: str) -> None:
    """Given a soft limit of 128 files, when 200 connections are open, then the next client is served as well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        coordinator = start_coordinator()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    host, _, port = coordinator.address.rpartition(":")
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
        with runlease.Client(coordinator.address) as client:
            assert client.acquire(project, "r", nonce="n", resume="allow").fence
