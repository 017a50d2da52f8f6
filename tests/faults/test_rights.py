"""A user with no more rights than it needs, through TLS, on every kind of store; and one that lacks some."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
import runlease

from tests.support.cli import RUNLEASE, bootstrap
from tests.support.clusters import ClusterSite
from tests.support.coordinator import CoordinatorProcess
from tests.support.nodes import Node
from tests.support.puppet import Puppet
from tests.support.redis import RedisServer, make_certificate
from tests.support.sentinels import SERVICE, SentinelSite

USERS = (Path(__file__).resolve().parents[2] / "deploy" / "users.conf").read_text()
#: The lines of deploy/users.conf: of data nodes, and, commented out there, of Sentinels.
COORDINATOR = next(line for line in USERS.splitlines() if line.startswith("user runlease "))
WATCHER = next(line for line in USERS.splitlines() if line.startswith("# user watcher ")).removeprefix("# ")


class Stores:
    """Starts stores behind TLS."""

    def __init__(self, stack: ExitStack, directory: Path, binary: str) -> None:
        certificate, key = make_certificate(directory)
        self._stack, self._binary = stack, binary
        # Self-signed, so it is its own authority.
        self._tls = (f"tls-cert-file {certificate}", f"tls-key-file {key}", f"tls-ca-cert-file {certificate}")
        self._tls = (*self._tls, "tls-auth-clients no", "tls-replication yes")
        self._query = f"ssl_ca_certs={certificate}"

    def start(self, kind: str) -> tuple[str, list[Node]]:
        """Return the URL of a store for the least user, and its data nodes."""
        own = (*self._tls, COORDINATOR)
        if kind == "server":
            node = Node(*own, binary=self._binary)
            self._stack.callback(node.close)
            return f"rediss://runlease:change-me@{node.address}?{self._query}", [node]
        if kind == "sentinel":
            site = SentinelSite(*own, binary=self._binary, of_sentinels=(*self._tls, WATCHER))
            self._stack.callback(site.close)
            where = ",".join(one.address for one in site.sentinels)
            login = "sentinel_username=watcher&sentinel_password=change-me-too"
            return f"rediss+sentinel://runlease:change-me@{where}/{SERVICE}?{login}&{self._query}", site.nodes
        cluster = ClusterSite(*own, "tls-cluster yes", binary=self._binary)
        self._stack.callback(cluster.close)
        # One is enough: it names the others.
        return f"rediss+cluster://runlease:change-me@{cluster.nodes[0].address}?{self._query}", list(cluster.nodes)


@pytest.fixture
def stores(tmp_path: Path, redis_binary: str) -> Iterator[Stores]:
    """Stores that end with the test."""
    with ExitStack() as stack:
        yield Stores(stack, tmp_path, redis_binary)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUNLEASE, *words], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("kind", ["server", "sentinel", "cluster"])
def test_the_example_of_a_user_has_all_rights_that_a_coordinator_needs(
    kind: str,
    stores: Stores,
    start_coordinator: Callable[..., CoordinatorProcess],
    start_puppet: Callable[..., Puppet],
) -> None:
    url, nodes = stores.start(kind)
    bootstrap(url)
    coordinator = start_coordinator("--store", url)
    trainer = start_puppet(coordinator)
    trainer.call("init", project="p", id="r", resume="allow")
    trainer.call("train", start=0, stop=100)
    trainer.call("commit", step=50)
    assert trainer.call("flush")
    assert trainer.call("finish")
    with runlease.Client(coordinator.address) as client:
        assert len(list(client.history("p", "r", keys=["loss"]).rows())) == 100
        assert [run.state for run in client.list_runs("p")] == ["finished"]
        assert [event.kind for event in client.events("p")][-1] == "released"
    clients = "".join(node.ask("CLIENT", "LIST") for node in nodes)
    assert set(re.findall(r" name=runlease-coordinator .* user=(\S+)", clients)) == {"runlease"}
    assert not re.search("Traceback|lost|change-me", coordinator.log.read_text())
    # Doctor needs no more: what this user may not read, CONFIG, is a warning.
    doctor = json.loads(run("doctor", "-o", "json", "--store", url).stdout)
    verdicts = {(check["name"], check["verdict"]) for check in doctor["checks"]}
    assert {("permissions", "ok"), ("opened", "ok"), ("role", "ok"), ("write", "ok")} <= verdicts
    unread = [check["seen"] for check in doctor["checks"] if check["name"] == "packing"]
    assert set(unread) == {"cannot be read"}
    refused = run("serve", "--store", url.replace("change-me@", "falsch@"))
    assert refused.returncode == 2
    assert "falsch" not in refused.stderr
    assert "password" in refused.stderr


def test_a_right_that_is_taken_away_is_named_and_comes_back(
    redis_binary: str, start_coordinator: Callable[..., CoordinatorProcess]
) -> None:
    server = RedisServer(COORDINATOR, binary=redis_binary)
    try:
        url = server.url.replace("unix://", "unix://runlease:change-me@")
        bootstrap(url)
        coordinator = start_coordinator("--store", url)
        with (
            runlease.init(project="p", id="r", coordinator=coordinator.address) as training,
            runlease.Client(coordinator.address, timeout_s=0.2) as hasty,
            redis.Redis.from_url(server.url) as store,
        ):
            for right in ("evalsha", "info"):  # the coordinator's own call; one of its scripts
                store.execute_command("ACL", "SETUSER", "runlease", f"-{right}")
                with pytest.raises(runlease.CoordinatorUnavailable, match="does not let this user do that"):
                    hasty.renew("p", "r", training.fence)
                store.execute_command("ACL", "SETUSER", "runlease", f"+{right}")
            hasty.renew("p", "r", training.fence)
        with runlease.Client(coordinator.address) as client:
            assert client.get_run("p", "r").state == "finished"
    finally:
        server.close()
