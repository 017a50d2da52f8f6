"""`runlease serve` and `runlease bootstrap` as a user runs them: real processes, signals, ports and stores."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cli import SECRET, Cli, without_module
from tests.support.coordinator import CoordinatorProcess
from tests.support.redis import RedisServer


@pytest.fixture(scope="module")
def cli(coordinator: CoordinatorProcess) -> Cli:
    return Cli(coordinator.env)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_in_order(start_coordinator: Callable[..., CoordinatorProcess], number: signal.Signals) -> None:
    served = start_coordinator()
    store_pid = served.store_pid
    os.kill(store_pid, 0)
    assert served.process is not None
    assert served.process.stdout is not None
    with served.process.stdout as stdout:
        served.process.send_signal(number)
        assert stdout.read() == ""  # one line was all
    assert served.process.wait(30) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(store_pid, 0)


def test_two_cannot_serve_one_directory(cli: Cli, coordinator: CoordinatorProcess) -> None:
    assert coordinator.process is not None
    refusal = cli("serve", "--listen", "127.0.0.1:0", "--data-dir", str(coordinator.data_dir), status=2).stderr
    assert f"pid {coordinator.process.pid}," in refusal
    assert "--data-dir" in refusal


def test_a_taken_port_is_named(cli: Cli, coordinator: CoordinatorProcess, tmp_path: Path) -> None:
    refusal = cli("serve", "--listen", coordinator.address, "--data-dir", str(tmp_path / "d"), status=2).stderr
    assert f"cannot listen on {coordinator.address}" in refusal
    assert "--listen" in refusal.partition(coordinator.address)[2]
    assert not (tmp_path / "d" / "store.json").exists() or not is_running(tmp_path / "d" / "store.json")


@pytest.mark.parametrize(
    "flags",
    [
        ("--listen", "nonsense"),
        ("--listen", "127.0.0.1:99999"),
        ("--store", "ftp://127.0.0.1"),
        ("--data-nodes", "2"),
        ("--max-ttl", "1"),
        ("--max-ttl", "soon"),
        ("--lock-delay", "-1"),
        ("--drain", "nan"),
        ("--log-level", "loud"),
        ("--server-binary", "/nowhere/valkey-server"),
    ],
)
def test_a_bad_flag_is_named(cli: Cli, tmp_path: Path, flags: tuple[str, str]) -> None:
    done = cli("serve", "--data-dir", str(tmp_path), "--listen", "127.0.0.1:0", *flags, status=2)
    assert done.stdout == ""
    assert flags[0].strip("-") in done.stderr
    assert flags[1] in done.stderr


def test_an_open_address_is_warned_of(cli: Cli, tmp_path: Path) -> None:
    # Given a data directory that is none, so that nothing ever listens on the open address.
    (tmp_path / "file").touch()
    said = cli("serve", "--listen", "0.0.0.0:0", "--data-dir", str(tmp_path / "file"), status=2).stderr
    assert said.startswith("runlease: warning: 0.0.0.0:0 can be reached from other machines")
    assert "it is not a directory" in said


def test_a_missing_extra_is_named(cli: Cli) -> None:
    for args in (["serve"], ["bootstrap", "redis://127.0.0.1:1"]):
        assert "pip install 'runlease[coordinator]'" in without_module("redis", *args, env=cli.env)


def test_an_external_store_is_opened_once(cli: Cli, guarded: RedisServer) -> None:
    url = f"unix://:pass@{guarded.socket}"
    shown = f"unix://:***@{guarded.socket}"
    refusal = cli("serve", "--listen", "127.0.0.1:0", "--store", url, status=2).stderr
    assert "runlease bootstrap" in refusal
    assert cli("bootstrap", url).stdout.startswith(f"opened 64 partitions of {shown}; ")
    assert cli("bootstrap", RUNLEASE_STORE=url).stdout == f"{shown} was open already; nothing changed\n"


def test_a_store_that_is_away_is_named_without_its_password(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    refusal = cli("bootstrap", f"redis://:{SECRET}@127.0.0.1:{port}", status=2).stderr
    assert f"redis://:***@127.0.0.1:{port}" in refusal


@pytest.fixture
def guarded(redis_binary: str) -> Iterator[RedisServer]:
    """A real Redis 7 with a password."""
    server = RedisServer("requirepass pass", binary=redis_binary)
    yield server
    server.close()


def is_running(record: Path) -> bool:
    return Path(f"/proc/{json.loads(record.read_text())['pid']}").exists()
