"""`runlease doctor --store` on real stores in many states: what it says, and how it ends."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runlease_coordinator.doctor.commands import CLUSTER_COMMANDS, COMMANDS

from tests.support.cli import Cli
from tests.support.coordinator import CoordinatorProcess
from tests.support.doctor import DURABLE, PACKED, Report
from tests.support.redis import RedisServer, free_port
from tests.support.wait import until

ROOT = Path(__file__).resolve().parents[2]

Start = Callable[..., RedisServer]


@pytest.fixture
def cli() -> Cli:
    return Cli(dict(os.environ))


@pytest.fixture
def start() -> Iterator[Start]:
    """Start servers of the test's own."""
    started: list[RedisServer] = []

    def one(binary: str, *options: str, port: int = 0) -> RedisServer:
        started.append(RedisServer(*options, binary=binary, port=port))
        return started[-1]

    yield one
    for server in started:
        server.close()


def test_a_store_as_it_should_be(cli: Cli, start: Start, any_binary: str) -> None:
    server = start(any_binary, *DURABLE, *PACKED)
    cli("bootstrap", server.url)
    report = Report(cli, server.url)
    assert report.not_ok() == set()
    assert report["version"][1].startswith(("Redis 7", "Valkey "))
    assert report.promises == {
        "a process is paused, a machine sleeps": "holds",
        "clocks of trainers or coordinators are wrong": "holds",
        "a trainer cannot reach the coordinator": "holds",
        "a coordinator is killed": "holds",
        "the store is killed": "holds",
        "the store fails over": "no",
    }
    # It leaves nothing behind but the key that goes by itself.
    assert 0 < int(server.command("TTL", "rl:{00}:probe")[1:]) <= 10


def test_the_embedded_store(coordinator: CoordinatorProcess) -> None:
    cli = Cli(coordinator.env)
    report = Report(cli, "embedded", "--data-dir", str(coordinator.data_dir))
    assert report.not_ok() == set()
    assert report["quarantine"][1].startswith("never")
    assert report.promises["the store is killed"] == "holds"


def test_an_embedded_store_that_does_not_run(cli: Cli, tmp_path: Path) -> None:
    said = cli("doctor", "--store", "embedded", "--data-dir", str(tmp_path), status=2).stderr
    assert "runlease serve" in said


def test_a_store_that_was_never_opened(cli: Cli, start: Start, any_binary: str) -> None:
    report = Report(cli, start(any_binary, *DURABLE, *PACKED).url, status=1)
    assert report.not_ok() == {("opened", "error")}
    assert "runlease bootstrap" in report.remedy("opened")
    assert set(report.promises.values()) == {"no"}


def test_a_store_that_lost_a_part_of_its_data(cli: Cli, start: Start, any_binary: str) -> None:
    server = start(any_binary, *DURABLE, *PACKED)
    cli("bootstrap", server.url)
    server.command("DEL", "rl:{07}:meta")
    assert Report(cli, server.url, status=1)["opened"] == ("error", "63 of 64 partitions: the others were lost")


@pytest.mark.parametrize(
    ("options", "verdict", "words", "killed"),
    [
        (("appendonly yes", "appendfsync everysec"), "warning", "up to 2 s", "in part"),
        (("appendonly yes", "appendfsync no"), "error", "the kernel", "no"),
        ((*DURABLE, "no-appendfsync-on-rewrite yes"), "warning", "rewritten", "in part"),
        (("appendonly no",), "error", "none: a restart loses everything", "no"),
        (("appendonly no", "save 3600 1"), "error", "snapshots only (save 3600 1)", "no"),
    ],
)
def test_persistence(
    cli: Cli, start: Start, redis_binary: str, options: tuple[str, ...], verdict: str, words: str, killed: str
) -> None:
    server = start(redis_binary, *PACKED, *options)
    cli("bootstrap", server.url)
    report = Report(cli, server.url, status=int(verdict == "error"))
    assert report.not_ok() == {("persistence", verdict)}
    assert words in report["persistence"][1]
    assert report.promises["the store is killed"] == killed
    assert report.promises["a process is paused, a machine sleeps"] == "holds"


def test_a_store_that_evicts(cli: Cli, start: Start, any_binary: str) -> None:
    server = start(any_binary, *DURABLE, *PACKED)
    cli("bootstrap", server.url)
    server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    report = Report(cli, server.url, status=1)
    assert report.not_ok() == {("eviction", "error")}
    assert set(report.promises.values()) == {"no"}


def test_a_store_that_is_nearly_full_and_one_that_is(cli: Cli, start: Start, any_binary: str) -> None:
    server = start(any_binary, *DURABLE, *PACKED)
    cli("bootstrap", server.url)
    used = int(re.findall(rb"used_memory:(\d+)", server.command("INFO", "memory"))[0])
    server.command("CONFIG", "SET", "maxmemory", str(int(used * 1.09)))
    assert ("memory", "warning") in Report(cli, server.url).not_ok()
    server.command("CONFIG", "SET", "maxmemory", "1")
    report = Report(cli, server.url, status=1)
    assert report.not_ok() == {("memory", "warning"), ("write", "error")}
    assert "maxmemory" in report["write"][1]


def test_records_that_are_not_packed(cli: Cli, start: Start, any_binary: str) -> None:
    server = start(any_binary, *DURABLE)
    cli("bootstrap", server.url)
    report = Report(cli, server.url)
    assert report.not_ok() == {("packing", "warning")}
    assert "stream-node-max-bytes 1024" in report.remedy("packing")


def test_a_managed_service_that_blocks_config(cli: Cli, start: Start, any_binary: str) -> None:
    server = start(any_binary, *DURABLE, *PACKED)
    cli("bootstrap", server.url)
    allowed = ("on", ">pw", "~rl:*", "&rl:*", "+@all", "-@admin", "-config")
    server.command("ACL", "SETUSER", "ada", *allowed)
    report = Report(cli, server.url.replace("unix://", "unix://ada:pw@"))
    # Then what cannot be read is a warning, and what INFO tells is used.
    assert report.not_ok() == {("persistence", "warning"), ("packing", "warning")}
    assert "cannot be read" in report["persistence"][1]
    assert report.promises["the store is killed"] == "in part"


def test_a_user_that_may_not_do_all(cli: Cli, start: Start, any_binary: str) -> None:
    server = start(any_binary, *DURABLE, *PACKED)
    cli("bootstrap", server.url)
    allowed = ("on", ">pw", "~rl:*", "&rl:*", "+@all", "-info", "-xadd", "-subscribe")
    server.command("ACL", "SETUSER", "ada", *allowed)
    report = Report(cli, server.url.replace("unix://", "unix://ada:pw@"), status=1)
    assert "INFO, SUBSCRIBE, XADD" in report["permissions"][1]
    assert report.remedy("permissions").endswith("+info +subscribe +xadd")
    server.command("ACL", "SETUSER", "ada", "+@all", "resetkeys", "~other:*")
    report = Report(cli, server.url.replace("unix://", "unix://ada:pw@"), status=1)
    assert "HSET" in report["permissions"][1]
    assert "TIME" not in report["permissions"][1]
    server.command("ACL", "SETUSER", "ada", "reset", "on", ">pw", "+ping", "+time")
    report = Report(cli, server.url.replace("unix://", "unix://ada:pw@"), status=1)
    assert report["permissions"][0] == "error"


def test_the_commands_that_are_checked_are_those_that_are_sent() -> None:
    folder = ROOT / "coordinator/runlease_coordinator"
    scripts = "".join(path.read_text() for path in (folder / "store/lua").glob("*.lua"))
    code = "".join(path.read_text() for path in (folder / "store").glob("*.py"))
    sent = set(re.findall(r"redis\.p?call\('([A-Z]+)'", scripts))
    sent |= set(re.findall(r"\bcall\(\s*\"([A-Z]+)\"", code)) | {"SCRIPT", "SUBSCRIBE", "WAIT"}
    sent |= set(re.findall(r"\bcommand\(\w+, \"([A-Z]+)\"", code)) - {"SENTINEL"}  # that one goes to Sentinels
    sent |= set(re.findall(r"\bsend\(\(\"([A-Z]+)\"", code))
    assert sent == set(COMMANDS | CLUSTER_COMMANDS)


def test_a_store_that_does_not_answer(cli: Cli, start: Start, redis_binary: str) -> None:
    said = cli("doctor", "--store", f"redis://:hidden@127.0.0.1:{free_port()}", status=5).stderr
    assert "cannot use the store" in said
    assert "hidden" not in said
    server = start(redis_binary, "requirepass right")
    said = cli("doctor", "--store", server.url.replace("unix://", "unix://:wrong@"), status=5).stderr
    assert "wrong" not in said.replace("WRONGPASS", "")


def test_the_url_may_come_from_the_environment(cli: Cli, start: Start, redis_binary: str) -> None:
    server = start(redis_binary, *DURABLE, *PACKED)
    cli("bootstrap", server.url)
    shown = cli("doctor", RUNLEASE_STORE=server.url).stdout
    assert "ok       persistence: each write is on disk" in shown
    assert "  no       the store fails over: leases, fences and commits survive\n" in shown


def test_a_restart_that_no_coordinator_has_noticed(cli: Cli, start: Start, redis_binary: str) -> None:
    server = start(redis_binary, *DURABLE, *PACKED)
    cli("bootstrap", server.url, "--max-ttl", "5")
    server.kill()
    server.start()
    report = Report(cli, server.url)
    assert report.not_ok() == {("quarantine", "warning")}
    assert "no coordinator has noticed" in report["quarantine"][1]


def test_a_quarantine(cli: Cli, start: Start, redis_binary: str) -> None:
    server = start(redis_binary, *DURABLE, *PACKED)
    cli("bootstrap", server.url)
    server.command("HSET", "rl:{12}:meta", "quarantine_until_us", f"{int(time.time()) + 3600}000000")
    report = Report(cli, server.url)
    assert report.not_ok() == {("quarantine", "warning")}
    assert re.match(r"3[56]\d\d s left", report["quarantine"][1])


def follow(server: RedisServer, port: int) -> None:
    server.command("REPLICAOF", "127.0.0.1", str(port))
    until(lambda: b"master_link_status:up" in server.command("INFO", "replication"))


def test_a_replica_is_no_store(cli: Cli, start: Start, any_binary: str) -> None:
    port = free_port()
    primary = start(any_binary, *DURABLE, *PACKED, "repl-diskless-sync-delay 0", port=port)
    cli("bootstrap", primary.url)
    replica = start(any_binary, *DURABLE, *PACKED)
    follow(replica, port)
    report = Report(cli, replica.url, status=1)
    assert report["role"] == ("error", "is a replica, and refuses writes")
    assert report["write"][0] == "error"
