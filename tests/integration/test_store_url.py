"""A store's URL that is wrong, at the start or once a password has changed: what operators and trainers are told."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import runlease
from runlease_coordinator.store.server_binary import find_server

from tests.support.cli import SECRET, Cli
from tests.support.coordinator import CoordinatorProcess
from tests.support.nodes import Node
from tests.support.redis import RedisServer, free_port, make_certificate
from tests.support.wait import until

Start = Callable[..., RedisServer]
_RIGHTS = ("~*", "&*", "+@all")


@pytest.fixture
def cli() -> Cli:
    return Cli(dict(os.environ))


@pytest.fixture
def start() -> Iterator[Start]:
    """Start servers of the test's own."""
    started: list[RedisServer] = []

    def begin(*options: str, flags: tuple[str, ...] = (), binary: str | None = None) -> RedisServer:
        binary = binary or str(find_server().path)
        started.append(RedisServer(*options, binary=binary, port=free_port(), flags=flags))
        return started[-1]

    yield begin
    for server in started:
        server.close()


def told(cli: Cli, url: str, *, by: str = "doctor") -> str:
    """Return the one line in which a command says why it cannot use a store."""
    refused = cli("doctor", "--store", url, status=5) if by == "doctor" else cli("bootstrap", url, status=2)
    assert re.fullmatch(r"runlease: cannot use the store [^\n]*; check its URL [^\n]*\n", refused.stderr)
    return refused.stderr


@pytest.mark.parametrize(
    ("credentials", "answer"),
    [
        ("", "Authentication required"),
        (f":{SECRET}@", "invalid username-password pair"),
        (f"nobody:{SECRET}@", "invalid username-password pair"),
    ],
)
def test_user_and_password_at_the_start(cli: Cli, start: Start, credentials: str, answer: str) -> None:
    server = start("requirepass right")
    for command in ("bootstrap", "doctor"):
        said = told(cli, f"redis://{credentials}{server.address}", by=command)
        assert f"it does not know user and password: {answer}" in said


def test_a_sentinel_is_no_store_and_a_store_no_sentinel(cli: Cli, start: Start) -> None:
    node = start()
    sentinel = start(f"sentinel monitor runs 127.0.0.1 {node.port} 1", flags=("--sentinel",))
    assert "name Sentinels redis+sentinel://HOST:PORT" in told(cli, f"redis://{sentinel.address}")
    said = told(cli, f"redis+sentinel://{node.address}/runs")
    assert "no Sentinel names a primary of runs: it is no Sentinel;" in said
    # One answer, though it is named twice.
    said = told(cli, f"redis+sentinel://{sentinel.address},{sentinel.address}/walks")
    assert "no Sentinel names a primary of walks: No such master with that name;" in said
    url = f"redis+sentinel://{sentinel.address}/runs?sentinel_username=nobody&sentinel_password={SECRET}"
    for command in ("bootstrap", "doctor"):
        assert "options sentinel_username and sentinel_password" in told(cli, url, by=command)


def test_tls_is_asked_of_a_server_without_it_and_the_other_way_round(
    cli: Cli, start: Start, redis_binary: str, tmp_path: Path
) -> None:
    certificate, key = make_certificate(tmp_path)
    own = (f"tls-cert-file {certificate}", f"tls-key-file {key}", f"tls-ca-cert-file {certificate}")
    with_tls, without = start(*own, "tls-auth-clients no", binary=redis_binary), start()
    for url in (f"redis://{with_tls.address}", f"rediss://{without.address}"):
        assert "(rediss is with TLS, redis without)" in told(cli, url)


@pytest.mark.parametrize("any_binary", ["valkey"], indirect=True)
def test_more_data_nodes_than_there_are(cli: Cli, nodes: list[Node], start_coordinator: Callable[..., object]) -> None:
    """Nothing is changed: coordinators start with what the store was opened for."""
    url = nodes[0].tcp_url
    cli("bootstrap", "--data-nodes", "3", url)
    said = cli("bootstrap", "--data-nodes", "7", url, status=2).stderr
    assert "has 2 replicas online, and --data-nodes 7 needs 3 replicas: " in said
    assert "--data-nodes 3; nothing was changed" in said
    start_coordinator("--store", url, "--data-nodes", "3")


def test_the_bootstrap_that_is_named_opens_the_store_for_what_is_served(cli: Cli, start: Start) -> None:
    url = f"redis://{start().address}"
    options = ("--data-nodes", "3", "--max-ttl", "120")
    said = cli("serve", "--listen", "127.0.0.1:0", *options, "--store", url, status=2).stderr
    assert f"`runlease bootstrap {' '.join(options)} {url}`" in said


def test_a_password_that_is_changed_and_changed_back(
    cli: Cli, start: Start, start_coordinator: Callable[..., CoordinatorProcess]
) -> None:
    """Given a held run, when the store's user gets another password, all are told why; and go on once it is back."""
    server = start(f"user bob on >{SECRET} {' '.join(_RIGHTS)}")
    url = f"redis://bob:{SECRET}@{server.address}"
    cli("bootstrap", url)
    coordinator = start_coordinator("--store", url)
    cli.env = coordinator.env
    with runlease.init(project="p", id="r", coordinator=coordinator.address) as run:
        server.ask("ACL", "SETUSER", "bob", "resetpass", ">other")
        server.ask("CLIENT", "KILL", "USER", "bob")
        run.log({"loss": 1.0}, step=0)
        until(lambda: "it does not know user and password" in run.stats().last_error)
        assert "it does not know user and password" in cli("ls", status=5).stderr
        decides = cli("doctor", status=1).stdout.partition("decides: ")[2]
        assert "it does not know user and password" in decides
        # It is tried again and again, and told once.
        until(lambda: sum(one["count"] for one in server.ask("ACL", "LOG")) > 12)
        server.ask("ACL", "SETUSER", "bob", "resetpass", f">{SECRET}")
        assert run.flush(30)
    assert "finished" in cli("ls").stdout
    log = coordinator.log.read_text()
    for name in ("control", "metrics", "reads"):
        assert log.count(f"store connection {name} is refused: it does not know user and password") == 1
        assert log.count(f"store connection {name} is back") == 1
    assert SECRET not in log
