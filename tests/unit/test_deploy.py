"""What deploy/ ships, held against the program and the servers that it is for."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runlease.cli.serve import serve
from runlease.client import Client
from runlease_coordinator.doctor.commands import CLUSTER_COMMANDS, COMMANDS
from runlease_coordinator.settings import Settings, settings_from_env
from runlease_coordinator.store.keys import run_keys

from tests.support.cli import bootstrap
from tests.support.coordinator import CoordinatorProcess
from tests.support.nodes import Node
from tests.support.redis import RedisServer, free_port

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def read_compose(text: str) -> dict[str, Any]:
    """Read the part of YAML that the compose file uses: nested mappings, lists of scalars, quoted or plain scalars.

    Strict, so that a file which outgrows it fails here instead of being half read.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]

    def block(indent: int) -> Any:
        found: dict[str, Any] | list[Any] | None = None
        while lines and (depth := len(lines[0]) - len(lines[0].lstrip())) >= indent:
            assert depth == indent, f"indented too far: {lines[0]!r}"
            line = lines.pop(0).strip()
            if item := re.fullmatch(r"- (.+)", line):
                found = [] if found is None else found
                assert isinstance(found, list)
                found.append(scalar(item[1]))
                continue
            pair = re.fullmatch(r"([a-z_]+):(?: (.+))?", line)
            assert pair, f"not understood: {line!r}"
            found = {} if found is None else found
            assert isinstance(found, dict)
            assert pair[1] not in found, f"twice: {pair[1]}"
            found[pair[1]] = scalar(pair[2]) if pair[2] else block(indent + 2)
        return found

    def scalar(word: str) -> Any:
        if word.startswith('"'):
            return json.loads(word)
        assert re.fullmatch(r"[A-Za-z0-9./_-]+|\{\}", word), f"quote it: {word}"
        return {"true": True, "false": False, "{}": {}}.get(word, word)

    result = block(0)
    assert isinstance(result, dict)
    return result


@pytest.fixture
def compose() -> dict[str, Any]:
    return read_compose((DEPLOY / "compose.yaml").read_text())


@pytest.fixture
def dockerfile() -> list[tuple[str, str]]:
    """Instructions and their arguments, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.fixture
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # systemd's names have capitals
    parser.read_string((DEPLOY / "runlease.service").read_text())
    return parser


def check_serve(command: list[str]) -> Settings:
    """Let the real command read its arguments, and the settings check them."""
    assert command[:2] == ["runlease", "serve"]
    context = serve.make_context("serve", command[2:])
    return settings_from_env({}, **context.params)


def test_compose_publishes_on_the_loopback_address_only(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["ports"]
        for port in service["ports"]:
            assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)
        assert "network_mode" not in service


def test_compose_fits_the_image(compose: dict[str, Any], dockerfile: list[tuple[str, str]]) -> None:
    [service] = compose["services"].values()
    context = (DEPLOY / service["build"]["context"]).resolve()
    assert (context / service["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    volume, target = service["volumes"][0].split(":")
    assert volume in compose["volumes"]
    assert ("VOLUME", target) in dockerfile
    published = service["ports"][0].rpartition(":")[2]
    assert ("EXPOSE", published) in dockerfile


def test_containers_get_longer_than_a_drain(compose: dict[str, Any]) -> None:
    [service] = compose["services"].values()
    assert float(service["stop_grace_period"].removesuffix("s")) >= 2 * Settings(data_dir=Path("/data")).drain_s


def test_the_image_does_not_run_as_root(dockerfile: list[tuple[str, str]]) -> None:
    users = [rest for word, rest in dockerfile if word == "USER"]
    assert users
    assert all(int(number) > 0 for number in users[-1].split(":"))


def test_the_image_serves_its_volume(dockerfile: list[tuple[str, str]]) -> None:
    instructions = dict(dockerfile)
    settings = check_serve(json.loads(instructions["CMD"]))
    assert str(settings.data_dir) == instructions["VOLUME"]
    assert settings.listen == f"0.0.0.0:{instructions['EXPOSE']}"
    assert instructions["STOPSIGNAL"] == "SIGTERM"


def test_the_build_gets_all_that_it_copies(dockerfile: list[tuple[str, str]]) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [
        name for word, rest in dockerfile if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]
    ]
    assert copied
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored


def test_the_health_check_tells_a_serving_coordinator(
    dockerfile: list[tuple[str, str]], coordinator: CoordinatorProcess
) -> None:
    check = dict(dockerfile)["HEALTHCHECK"]
    [python, flag, code] = json.loads(check[check.index("[") :])
    assert (python, flag) == ("python", "-c")

    def status(address: str) -> int:
        asked = code.replace("127.0.0.1:7373", address)
        assert asked != code
        return subprocess.run([sys.executable, "-c", asked], capture_output=True, check=False).returncode

    assert status(coordinator.address) == 0
    assert status("127.0.0.1:1") != 0


def test_the_service_runs_a_command_that_exists(unit: configparser.ConfigParser) -> None:
    program, *rest = shlex.split(unit["Service"]["ExecStart"])
    settings = check_serve([Path(program).name, *rest])
    assert settings.listen.startswith("127.0.0.1:")
    assert settings.data_dir == Path("/var/lib") / unit["Service"]["StateDirectory"]
    assert unit["Service"]["Environment"] == f"XDG_RUNTIME_DIR=/run/{unit['Service']['RuntimeDirectory']}"
    assert float(unit["Service"]["TimeoutStopSec"]) >= 2 * settings.drain_s


def test_systemd_accepts_the_service(unit: configparser.ConfigParser, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    program = shlex.split(unit["Service"]["ExecStart"])[0]
    # Given a program that is here: systemd checks that it can be run.
    copy = tmp_path / "runlease.service"
    copy.write_text((DEPLOY / "runlease.service").read_text().replace(f"ExecStart={program}", "ExecStart=/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "runlease.service" in line]
    assert (done.returncode, said) == (0, [])


@pytest.fixture
def configured_redis(redis_binary: str) -> Iterator[str]:
    """The URL of a real server under deploy/redis.conf, on a socket instead of its port."""
    server = RedisServer(f"include {DEPLOY / 'redis.conf'}", "port 0", binary=redis_binary)
    yield server.url
    server.close()


def test_a_store_under_redis_conf_is_taken(configured_redis: str) -> None:
    bootstrap(configured_redis)
    # Given the opened store, a coordinator serves on it and grants a lease.
    coordinator = CoordinatorProcess("--store", configured_redis)
    try:
        coordinator.start()
        with Client(coordinator.address) as client:
            grant = client.acquire("deploy", "one", nonce="n" * 32)
            assert client.release("deploy", "one", grant.fence) == "finished"
    finally:
        coordinator.close()


def test_stores_under_replicated_conf_have_each_grant_on_a_replica(redis_binary: str) -> None:
    started: list[Node] = []
    try:
        for _ in range(3):
            files = (f"include {DEPLOY / name}" for name in ("redis.conf", "replicated.conf"))
            port = free_port()
            started.append(Node(*files, f"port {port}", binary=redis_binary, port=port))
        primary, *replicas = started
        for replica in replicas:
            replica.follow(primary)
        bootstrap(primary.tcp_url, "--data-nodes", "3")
        coordinator = CoordinatorProcess("--store", primary.tcp_url, "--data-nodes", "3")
        try:
            with Client(coordinator.start().address) as client:
                fence = client.acquire("deploy", "one", nonce="n" * 32).fence
            key = run_keys("deploy", "one").run
            assert [node.ask("HGET", key, "fence") for node in started].count(str(fence)) >= 2
        finally:
            coordinator.close()
    finally:
        for node in started:
            node.close()


def test_ci_runs_the_readme_s_test_command() -> None:
    script = (ROOT / ".ci/run").read_text()
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert script.rstrip().endswith("make lint\nmake test")
    assert "\nmake test " in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", sorted(DEPLOY.iterdir()), ids=lambda path: path.name)
def test_comments_point_to_files_that_exist(path: Path) -> None:
    for name in re.findall(r"deploy/[\w.]+\w", path.read_text()):
        assert (ROOT / name).exists()


def test_the_example_of_a_user_may_call_what_a_coordinator_calls() -> None:
    """What it can do with that on real stores: tests/faults/test_rights.py."""
    (rights,) = [line for line in (DEPLOY / "users.conf").read_text().splitlines() if line.startswith("user runlease ")]
    allowed = {word[1:].partition("|")[0].upper() for word in rights.split() if word.startswith("+")}
    # The name and the database of a connection are redis-py's, and a subscription pings.
    assert allowed == COMMANDS.keys() | CLUSTER_COMMANDS.keys() | {"CLIENT", "SELECT", "PING"}
