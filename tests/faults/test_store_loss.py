"""A store that loses data, or may have: who is HELD goes on, nobody else is granted in the quarantine, and
who was suspended comes back behind it, unless another one was granted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import runlease
from runlease_coordinator.store.server_binary import find_server

from tests.support.cli import Cli, bootstrap
from tests.support.clock import WallClock
from tests.support.coordinator import CoordinatorProcess
from tests.support.puppet import Puppet, Refused
from tests.support.redis import RedisServer
from tests.support.wait import until

ALL_KEPT = ("appendonly yes", "appendfsync always")


@pytest.fixture
def start_server(redis_binary: str) -> Iterator[Callable[..., RedisServer]]:
    """Start stores with options of Redis and of `runlease bootstrap`."""
    started: list[RedisServer] = []

    def start(*options: str, opened: tuple[str, ...] = ()) -> RedisServer:
        started.append(RedisServer(*options, binary=redis_binary))
        bootstrap(started[-1].url, *opened)
        return started[-1]

    yield start
    for server in started:
        server.close()


def refusal(client: runlease.Client, run_id: str, resume: str) -> runlease.CoordinatorUnavailable:
    with pytest.raises(runlease.CoordinatorUnavailable) as caught:
        client.acquire("p", run_id, nonce=f"{run_id}-{resume}", resume=resume)
    return caught.value


def steps_of(client: runlease.Client) -> list[int]:
    rows = list(client.history("p", "r", keys=["loss"], superseded=True).rows())
    assert all(row.value == row.step for row in rows)
    return [row.step for row in rows]


@pytest.mark.parametrize("loss", ["older data", "everything"])
def test_who_is_held_goes_on_under_its_fence_though_the_store_forgot_its_run(
    loss: str,
    start_server: Callable[..., RedisServer],
    start_coordinator: Callable[..., CoordinatorProcess],
    start_puppet: Callable[..., Puppet],
) -> None:
    server = start_server("appendonly no")
    coordinator = start_coordinator("--store", server.url)
    server.command("SAVE")
    trainer = start_puppet(coordinator)
    granted = trainer.call("init", project="p", id="r", resume="allow", name="kept", config={"lr": 0.1})
    trainer.call("train", start=0, stop=1000)
    trainer.call("commit", step=999)
    # When the store forgets the run, by a start on older data, or by somebody's FLUSHALL
    if loss == "everything":
        server.command("FLUSHALL")
        with runlease.Client(coordinator.address, timeout_s=1) as client:
            assert refusal(client, "r", "must").reason == "UNBOOTSTRAPPED"
        bootstrap(server.url, "--lost-data")
    else:
        server.kill()
        server.start()
    trainer.call("train", start=1000, stop=2000)
    trainer.call("commit", step=1999)

    # Then its holder brings all of it back, and nobody is granted anything meanwhile, in no mode
    with runlease.Client(coordinator.address, timeout_s=1) as client:
        for run_id in ("r", "another"):
            for resume in ("never", "allow", "must", "auto"):
                error = refusal(client, run_id, resume)
                assert (error.reason, 0 < error.retry_after_s < 64) == ("QUARANTINE", True)
        run = client.get_run("p", "r")
        assert steps_of(client) == list(range(2000))
    assert (run.fence, run.attempt, run.state) == (granted["fence"], 1, "running")
    assert (run.name, run.config, run.points) == ("kept", {"lr": 0.1}, 4000)
    assert [checkpoint.step for checkpoint in run.checkpoints] == [999, 1999]
    assert trainer.call("state")["state"] == "held"
    stats = trainer.call("stats")
    assert (stats["acknowledged"], stats["lost"], stats["dropped"], stats["rejected"]) == (4000, 0, 0, 0)
    assert trainer.call("finish")
    with runlease.Client(coordinator.address) as client:
        assert client.get_run("p", "r").state == "finished"


def test_a_release_that_is_the_first_call_after_a_failover_is_recorded(
    start_server: Callable[..., RedisServer],
    start_coordinator: Callable[..., CoordinatorProcess],
    start_puppet: Callable[..., Puppet],
) -> None:
    server = start_server(*ALL_KEPT)
    coordinator = start_coordinator("--store", server.url)
    trainer = start_puppet(coordinator)
    trainer.call("init", project="p", id="r", resume="allow")
    server.kill()
    server.start()
    assert trainer.call("finish", outcome="preempted")
    with runlease.Client(coordinator.address) as client:
        assert client.get_run("p", "r").state == "preempted"
    assert trainer.exit() == 0
    assert "lost" not in trainer.stderr


def test_a_store_whose_clock_is_put_on_grants_no_lease_that_is_held(
    wall_clock: WallClock,
    start_coordinator: Callable[..., CoordinatorProcess],
    start_puppet: Callable[..., Puppet],
) -> None:
    server = RedisServer(*ALL_KEPT, binary=str(find_server().path), clock=wall_clock)
    try:
        bootstrap(server.url)
        coordinator = start_coordinator("--store", server.url, "--lock-delay", "1")
        trainer, other = start_puppet(coordinator), start_puppet(coordinator)
        trainer.call("init", project="p", id="r", resume="allow", ttl=30)
        wall_clock.set(+3600)
        with pytest.raises(Refused) as caught:
            other.call("init", project="p", id="r", resume="must", wait=0, connect_timeout=1)
        assert (caught.value.kind, caught.value.facts["reason"]) == ("CoordinatorUnavailable", "QUARANTINE")
        trainer.call("train", start=0, stop=1000)
        trainer.call("commit", step=999)
        assert trainer.call("state")["state"] == "held"
        assert trainer.call("finish")
        assert "the store's clock is 359" in coordinator.log.read_text()
    finally:
        server.close()


def test_who_was_suspended_at_the_loss_comes_back_behind_the_quarantine_under_a_new_fence(
    start_server: Callable[..., RedisServer],
    start_coordinator: Callable[..., CoordinatorProcess],
    start_puppet: Callable[..., Puppet],
) -> None:
    server = start_server(*ALL_KEPT, opened=("--max-ttl", "5"))
    coordinator = start_coordinator("--store", server.url, "--max-ttl", "5", "--lock-delay", "1")
    holder, member = start_puppet(coordinator), start_puppet(coordinator)
    granted = holder.call("init", project="p", id="r", resume="allow", ttl=5, group="g")
    member.call("init", project="p", id="r", resume="allow", group="g", writer="rank-1")
    holder.call("train", start=0, stop=1000)
    assert holder.call("flush")
    # Given a holder and its member, whose deadline passes while the store is away,
    server.kill()
    until(lambda: holder.call("state")["state"] == "suspended")
    server.start()
    holder.call("train", start=1000, stop=1500)
    with runlease.Client(coordinator.address, timeout_s=30) as client:
        # when the quarantine is over, then it goes on, under a new fence, since a newer grant may be lost,
        until(lambda: holder.call("state")["state"] == "held", timeout_s=30)
        holder.call("check")
        fence = client.get_run("p", "r").fence
        assert fence > granted["fence"]
        until(lambda: holder.call("facts")["fence"] == member.call("facts")["fence"] == fence)
        # and so does its member; nothing of the attempt is lost or twice.
        until(lambda: member.call("state")["state"] == "held")
        member.call("train", start=0, stop=10)
        assert member.call("flush")
        holder.call("train", start=1500, stop=2000)
        assert member.call("finish")
        assert holder.call("finish")
        assert holder.call("stats")["spooled"] == 0
        assert steps_of(client) == list(range(2000))
        run = client.get_run("p", "r")
    assert (run.state, run.fence) == ("finished", fence)
    assert [(attempt.fence, attempt.points) for attempt in run.attempts] == [(granted["fence"], 4020)]
    for puppet in (holder, member):
        assert puppet.exit() == 0
    assert "Traceback" not in coordinator.log.read_text()


def test_who_was_suspended_at_the_loss_is_lost_to_a_successor_and_its_data_come_by_a_sync(
    start_server: Callable[..., RedisServer],
    start_coordinator: Callable[..., CoordinatorProcess],
    start_puppet: Callable[..., Puppet],
) -> None:
    server = start_server(*ALL_KEPT, opened=("--max-ttl", "5"))
    coordinator = start_coordinator("--store", server.url, "--max-ttl", "5", "--lock-delay", "1")
    cli, trainer, after = Cli(coordinator.env), start_puppet(coordinator), start_puppet(coordinator)
    granted = trainer.call("init", project="p", id="r", resume="allow", ttl=5)
    trainer.call("train", start=0, stop=1000)
    assert trainer.call("flush")
    # Given a holder whose deadline passes while the store is away, and which is frozen then,
    server.kill()
    until(lambda: trainer.call("state")["state"] == "suspended")
    trainer.call("train", start=1000, stop=2000)
    trainer.stop()
    server.start()
    with runlease.Client(coordinator.address, timeout_s=30) as client:
        # when another one takes the run behind the quarantine, then it is lost;
        assert after.call("init", project="p", id="r", resume="must", ttl=5)["attempt"] == 2
        trainer.resume()
        assert trainer.call("wait_lost", timeout=30)
        assert after.call("finish", outcome="failed")
        assert not trainer.call("finish", timeout=5)
        stats = trainer.call("stats")
        assert (stats["acknowledged"], stats["spooled"], stats["lost"], stats["dropped"]) == (2000, 2000, 0, 0)
        assert trainer.exit() == 0
        # its training went on, and a sync brings its data in.
        cli("sync")
        assert steps_of(client) == list(range(2000))
        run = client.get_run("p", "r")
    first = run.attempts[0]
    assert (first.fence, first.points, run.state) == (granted["fence"], 4000, "failed")
    assert "Traceback" not in coordinator.log.read_text()
