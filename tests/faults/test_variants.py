"""Rules that are no fault's own: kept by the product as built, broken by a variant, and seen to be so.

The rules that a fault puts to the test are in test_traces.py.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import runlease
from runlease.clock import suspend_aware
from runlease.leasestate import LeaseMachine
from runlease_coordinator.store.server_binary import find_server

from tests.faults.variants import ROOT, VARIANTS, patched
from tests.support.cli import bootstrap
from tests.support.coordinator import CoordinatorProcess, program
from tests.support.decisions import is_succeeded, variants
from tests.support.nodes import Node
from tests.support.proxy import TO_CLIENT, TO_SERVER, Proxy
from tests.support.puppet import Puppet
from tests.support.wait import until

#: Waits for a flush that does not come: long enough for one that does.
_FLUSH_S = 3.0


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_patches_the_product_as_it_is(name: str) -> None:
    for patch in VARIANTS[name].patches:
        source = (ROOT / patch.file).read_text()
        bad = patched(source, [patch])
        assert bad != source
        if patch.file.endswith(".py"):
            compile(bad, patch.file, "exec")
    assert f"| `{name}` |" in (ROOT / "tests/faults/README.md").read_text()  # with the test that catches it


@pytest.fixture
def start() -> Iterator[Callable[..., CoordinatorProcess]]:
    """Start coordinators with short leases, as built or as a variant."""
    with contextlib.ExitStack() as stack:

        def start(*flags: str, variant: str | None) -> CoordinatorProcess:
            one = CoordinatorProcess("--max-ttl", "5", "--lock-delay", "0", *flags, variant=variant)
            stack.callback(one.close)
            return one.start()

        yield start


@variants("retry_full_ttl")
def test_a_repeated_request_extends_no_lease(variant: str | None, start: Callable[..., CoordinatorProcess]) -> None:
    coordinator = start(variant=variant)
    with runlease.Client(coordinator.address) as client:
        expires_at = time.time() + client.acquire("p", "r", nonce="1", resume="allow").remaining_s
        # Near the expiry the answer to the first request is taken to be lost, and it is sent again.
        until(lambda: time.time() > expires_at - 2)
        sent_at = suspend_aware()
        grant = client.acquire("p", "r", nonce="1", resume="allow")
        belief = LeaseMachine(grant.ttl_s, sent_at, grant.remaining_s)
        until(lambda: is_succeeded(client))
        overlaps = belief.remaining_s(suspend_aware()) > 0
    assert overlaps == (variant is not None)


@variants("release_by_name")
def test_an_old_token_releases_nothing(variant: str | None, start: Callable[..., CoordinatorProcess]) -> None:
    coordinator = start(variant=variant)
    with runlease.Client(coordinator.address) as client:
        first = client.acquire("p", "r", nonce="1", resume="allow")
        client.break_lease("p", "r", first.fence, force=True, reason="superseded")
        client.acquire("p", "r", nonce="2", resume="allow")
        with contextlib.suppress(runlease.StaleFence):
            client.release("p", "r", first.fence)
        assert (client.get_run("p", "r").state != "running") == (variant is not None)


@variants("deadline_from_receipt")
def test_a_holder_does_not_believe_beyond_its_expiry(
    variant: str | None, start: Callable[..., CoordinatorProcess]
) -> None:
    coordinator = start("--max-ttl", "12", variant=None)
    with contextlib.ExitStack() as stack:
        proxy = Proxy(coordinator.address)
        stack.callback(proxy.close)
        puppet = Puppet(coordinator.env | {"RUNLEASE_COORDINATOR": proxy.address}, variant=variant)
        stack.callback(puppet.close)
        client = stack.enter_context(runlease.Client(coordinator.address))
        puppet.call("init", project="p", id="r", resume="allow")
        # A renewal is given up after 2 s, and on a new connection waits for two answers.
        proxy.delay(TO_CLIENT, 0.8)

        seen = [float(puppet.call("state")["remaining_s"])]

        def is_renewed() -> bool:
            seen.append(puppet.call("state")["remaining_s"])
            return seen[-1] > seen[-2]

        def believes_too_long() -> bool:
            """Whether its deadline is behind the store's expiry, just behind a renewal whose answer took long."""
            until(is_renewed)
            asked = suspend_aware()
            left = client.get_run("p", "r").remaining_s
            believed = puppet.call("state")["remaining_s"] + (suspend_aware() - asked)
            took = suspend_aware() - asked
            return bool(believed > left + took)

        assert believes_too_long() == (variant is not None)


@variants("first_step_logged")
def test_an_attempt_replaces_what_follows_its_starting_step(
    variant: str | None, start: Callable[..., CoordinatorProcess]
) -> None:
    coordinator = start(variant=variant)
    for attempt, steps in ((1, range(100)), (2, range(60, 70))):
        with contextlib.closing(Puppet(coordinator.env)) as puppet:
            granted = puppet.call("init", project="p", id="r", resume="allow", resume_step=50 if attempt == 2 else None)
            assert granted["starting_step"] == (50 if attempt == 2 else 0)
            puppet.call("train", start=steps.start, stop=steps.stop)
            assert puppet.call("finish")
    with runlease.Client(coordinator.address) as client:
        seen = [row.step for row in client.history("p", "r", keys=["loss"]).rows()]
    assert (seen != [*range(50), *range(60, 70)]) == (variant is not None)


@variants("ack_before_append")
def test_what_is_acknowledged_is_in_the_store(variant: str | None, start: Callable[..., CoordinatorProcess]) -> None:
    with contextlib.ExitStack() as stack:
        node = Node("appendonly yes", "appendfsync always", binary=str(find_server().path))
        stack.callback(node.close)
        proxy = Proxy(node.address)
        stack.callback(proxy.close)
        bootstrap(node.tcp_url)
        coordinator = start("--store", f"redis://{proxy.address}", variant=variant)
        puppet = Puppet(coordinator.env)
        stack.callback(puppet.close)
        puppet.call("init", project="p", id="r", resume="allow")
        puppet.call("train", start=0, stop=10)
        assert puppet.call("flush")
        # Nothing reaches the store any more; then trainer and coordinator die.
        proxy.stall(TO_SERVER)
        puppet.call("train", start=10, stop=20)
        puppet.call("flush", timeout=_FLUSH_S)
        acknowledged = puppet.call("stats")["acknowledged"]
        puppet.kill()
        coordinator.kill()
        proxy.cut()
        coordinator.start()
        with runlease.Client(coordinator.address, timeout_s=30) as client:
            lost = acknowledged - client.get_run("p", "r").points
    assert (lost > 0) == (variant is not None)


@variants("spool_without_checksum")
def test_what_is_rotten_in_a_spool_is_no_point(
    variant: str | None, start: Callable[..., CoordinatorProcess], tmp_path: Path
) -> None:
    coordinator = start(variant=None)
    environment = coordinator.env | {"RUNLEASE_DIR": str(tmp_path), "RUNLEASE_MODE": "offline"}
    with contextlib.closing(Puppet(environment)) as puppet:
        puppet.call("init", project="p", id="r", resume="allow")
        for value in (1.0, 2.0, 3.0):
            puppet.call("log", metrics={"loss": value})
            assert puppet.call("flush")
        puppet.kill()
    _rot(tmp_path)
    command = [*program(variant), "sync", str(tmp_path)]
    subprocess.run(command, env=coordinator.env, cwd=ROOT, check=False, capture_output=True)
    with runlease.Client(coordinator.address) as client:
        values = {row.value for row in client.history("p", "r", keys=["loss"]).rows()}
    assert bool(values - {1.0, 2.0, 3.0}) == (variant is not None)


def _rot(folder: Path) -> None:
    """Turn a bit of the value 3.0 over in whatever file holds it."""
    import struct

    (file,) = [path for path in folder.rglob("*") if path.is_file() and struct.pack("<d", 3.0) in path.read_bytes()]
    content = file.read_bytes()
    file.write_bytes(content.replace(struct.pack("<d", 3.0), struct.pack("<d", 3.5)))
