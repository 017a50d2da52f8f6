"""`runlease doctor` on the client's side, as a process: against a live coordinator, a stopped one, none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from runlease.version import __version__

from tests.support.cli import Cli
from tests.support.coordinator import CoordinatorProcess
from tests.support.redis import free_port


def checks_of(cli: Cli, *flags: str, status: int = 0, **env: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Return verdict and words of each check."""
    report: dict[str, Any] = json.loads(cli("doctor", "-o", "json", *flags, status=status, **env).stdout)
    assert report["promises"] == []
    return {(each["where"], each["name"]): (each["verdict"], each["seen"]) for each in report["checks"]}


def test_a_coordinator_that_answers(any_coordinator: CoordinatorProcess) -> None:
    checks = checks_of(Cli(any_coordinator.env))
    where = f"coordinator {any_coordinator.address}"
    verdict, seen = checks[where, "reached"]
    assert verdict == "ok"
    assert seen.startswith(f"runlease {__version__}, a round trip takes ")
    assert checks[where, "decides"] == ("ok", "its store answers")
    assert ("this machine", "versions") in checks


def test_the_table(coordinator: CoordinatorProcess) -> None:
    lines = Cli(coordinator.env)("doctor").stdout.splitlines()
    assert lines[0] == "this machine"
    assert f"coordinator {coordinator.address}" in lines
    assert lines[-1] == "  ok       decides: its store answers"


def test_each_address_is_checked(coordinator: CoordinatorProcess) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    checks = checks_of(Cli(coordinator.env), "--coordinator", f"{coordinator.address},{nobody}", status=5)
    assert checks[f"coordinator {coordinator.address}", "reached"][0] == "ok"
    verdict, seen = checks[f"coordinator {nobody}", "reached"]
    assert verdict == "error"
    assert "runlease serve" in seen
    assert (f"coordinator {nobody}", "decides") not in checks


def test_a_malformed_address(coordinator: CoordinatorProcess) -> None:
    checks = checks_of(Cli(coordinator.env), RUNLEASE_COORDINATOR="nonsense", status=5)
    assert checks["coordinator nonsense", "reached"][0] == "error"


def test_a_coordinator_whose_store_is_away(start_coordinator: Callable[..., CoordinatorProcess]) -> None:
    served = start_coordinator()
    os.kill(served.store_pid, signal.SIGSTOP)
    try:
        checks = checks_of(Cli(served.env), status=1)
    finally:
        os.kill(served.store_pid, signal.SIGCONT)
    where = f"coordinator {served.address}"
    assert checks[where, "reached"][0] == "ok"
    assert checks[where, "decides"][0] == "error"


def test_the_client_s_side_needs_no_coordinator_package(coordinator: CoordinatorProcess) -> None:
    hide = "import sys; sys.modules.update(dict.fromkeys(('redis', 'grpc_health', 'runlease_coordinator')))"
    code = f"{hide}; from runlease.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor"], env=coordinator.env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "its store answers" in done.stdout
