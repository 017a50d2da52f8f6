"""Real processes are paused and killed; promises hold all the same."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest
import runlease

from tests.support.coordinator import CoordinatorProcess
from tests.support.proxy import TO_CLIENT, TO_SERVER, Proxy
from tests.support.puppet import Puppet, Refused
from tests.support.wait import TIMEOUT_S, until

StartCoordinator = Callable[..., CoordinatorProcess]
StartPuppet = Callable[[CoordinatorProcess], Puppet]


def visible(client: runlease.Client, project: str, run_id: str, key: str = "loss") -> dict[int, float]:
    """The visible points of one key; each step once, or the test fails."""
    rows = list(client.history(project, run_id, keys=[key]).rows())
    points = {row.step: row.value for row in rows}
    assert len(points) == len(rows)
    return points


def test_a_paused_holder_is_fenced(coordinator: CoordinatorProcess, project: str, start_puppet: StartPuppet) -> None:
    # Given a holder that is stopped past its ttl while it has more to say, and a successor
    holder, successor = start_puppet(coordinator), start_puppet(coordinator)
    first = holder.call("init", project=project, id="r", resume="allow", ttl=5)
    holder.call("train", start=0, stop=10)
    assert holder.call("flush")
    holder.stop()
    second = successor.call("init", project=project, id="r", resume="allow", wait=30)
    assert second["fence"] > first["fence"]
    assert second["starting_step"] == 10
    successor.call("train", start=10, stop=20)
    assert successor.call("flush")

    # When it goes on
    holder.resume()
    for command, args in (("log", {"metrics": {"loss": 1e9}, "step": 15}), ("commit", {"step": 15, "wait": True})):
        try:
            holder.call(command, **args)
        except Refused as refused:
            assert refused.kind == "LeaseLost"  # noqa: PT017 - a log may also be taken, and refused by its fence

    # Then it is lost, with cause and new holder, and nothing of it came in
    assert holder.call("wait_lost", timeout=20)
    with pytest.raises(Refused) as caught:
        holder.call("check")
    facts = caught.value.facts
    assert (facts["error"], facts["cause"]) == ("LeaseLost", "superseded")
    assert facts["holder"]["pid"] == successor.pid
    assert facts["current_fence"] == second["fence"]
    assert holder.call("state")["state"] == "lost"
    with runlease.Client(coordinator.address) as client:
        assert visible(client, project, "r") == {step: float(step) for step in range(20)}
        run = client.get_run(project, "r")
        assert run.checkpoints == ()
        assert (run.fence, run.holder.pid) == (second["fence"], successor.pid)
        with pytest.raises(runlease.StaleFence):
            client.renew(project, "r", first["fence"])
        superseded = client.history(project, "r", superseded=True)
        assert 1e9 not in [row.value for row in superseded.rows()]
    assert successor.call("finish")


def test_coordinator_and_store_are_killed_in_mid_training(
    start_coordinator: StartCoordinator, start_puppet: StartPuppet
) -> None:
    coordinator = start_coordinator()
    trainer = start_puppet(coordinator)
    granted = trainer.call("init", project="p", id="r", resume="allow")
    trainer.call("train_forever", start=0, period_s=0.002)
    until(lambda: trainer.call("stats")["acknowledged"] > 200)
    os.kill(coordinator.store_pid, signal.SIGKILL)
    coordinator.kill()
    before = trainer.call("stats")
    until(lambda: trainer.call("stats")["logged"] > before["logged"] + 100)  # it logs on, with nobody there
    coordinator.start()
    acknowledged = trainer.call("stats")["logged"]
    until(lambda: trainer.call("stats")["acknowledged"] > acknowledged)
    last = trainer.call("halt_training")
    assert trainer.call("flush")
    trainer.call("check")
    stats = trainer.call("stats")
    assert (stats["acknowledged"], stats["dropped"], stats["lost"], stats["rejected"]) == (last, 0, 0, 0)
    with runlease.Client(coordinator.address) as client:
        run = client.get_run("p", "r")
        assert (run.fence, run.attempt, run.state) == (granted["fence"], 1, "running")
        assert visible(client, "p", "r") == {step: float(step) for step in range(last)}
        assert len(client.history("p", "r", superseded=True)) == last  # once in the log, too
    assert trainer.call("finish")
    assert "Traceback" not in trainer.stderr
    assert "runlease" in trainer.stderr  # it was warned


def test_a_trainer_is_killed_right_after_a_durable_commit(
    coordinator: CoordinatorProcess, project: str, start_puppet: StartPuppet
) -> None:
    trainer = start_puppet(coordinator)
    trainer.call("init", project=project, id="r", resume="allow", ttl=5)
    trainer.call("train", start=0, stop=5000)
    trainer.call("commit", step=4999, wait=True)
    trainer.kill()
    with runlease.Client(coordinator.address) as client:
        assert visible(client, project, "r") == {step: float(step) for step in range(5000)}
        assert visible(client, project, "r", "acc") == {step: -float(step) for step in range(5000)}
        run = client.get_run(project, "r")
        assert run.checkpoint is not None
        assert (run.checkpoint.step, run.checkpoint.metadata, run.next_step) == (4999, {"step": 4999}, 5000)


def test_the_store_is_away_longer_than_the_ttl(start_coordinator: StartCoordinator, start_puppet: StartPuppet) -> None:
    # Given a holder with a ttl of 10 s, and a store that stands still for 20 s
    coordinator = start_coordinator()
    trainer = start_puppet(coordinator)
    granted = trainer.call("init", project="p", id="r", resume="allow", ttl=10)
    trainer.call("train_forever", start=0, period_s=0.01)
    until(lambda: trainer.call("stats")["acknowledged"] > 0)
    store = coordinator.store_pid
    os.kill(store, signal.SIGSTOP)
    try:
        until(lambda: trainer.call("state")["state"] == "suspended")
        with pytest.raises(Refused) as caught:
            trainer.call("check")
        assert (caught.value.kind, caught.value.facts["reason"]) == ("CoordinatorUnavailable", "SUSPENDED")
        trainer.call("commit", step=0, wait=False)  # queues
        suspended_at = trainer.call("state")["step"]
        until(lambda: trainer.call("state")["step"] > suspended_at + 900)  # about as long again: logging never blocked
        assert trainer.call("state")["state"] == "suspended"
    finally:
        os.kill(store, signal.SIGCONT)
    until(lambda: trainer.call("state")["state"] == "held")
    last = trainer.call("halt_training")
    assert trainer.call("flush")
    with runlease.Client(coordinator.address) as client:
        run = client.get_run("p", "r")
        assert (run.fence, run.attempt, len(run.attempts)) == (granted["fence"], 1, 1)
        assert run.checkpoint is not None
        assert visible(client, "p", "r") == {step: float(step) for step in range(last)}
    assert trainer.call("finish")


def test_a_stopped_coordinator_does_not_stop_a_training(
    start_coordinator: StartCoordinator, start_puppet: StartPuppet
) -> None:
    """It answers nothing, though its port takes connections: the hardest way to be away."""
    coordinator = start_coordinator()
    trainer = start_puppet(coordinator)
    trainer.call("init", project="p", id="r", resume="allow", ttl=5)
    assert coordinator.process
    coordinator.process.send_signal(signal.SIGSTOP)
    try:
        assert trainer.call("train", start=0, stop=1000) == 1000
        until(lambda: trainer.call("state")["state"] == "suspended")
        trainer.call("train", start=1000, stop=2000)
    finally:
        coordinator.process.send_signal(signal.SIGCONT)
    assert trainer.call("flush")
    until(lambda: trainer.call("state")["state"] == "held")
    with runlease.Client(coordinator.address) as client:
        assert visible(client, "p", "r") == {step: float(step) for step in range(2000)}
    assert trainer.call("finish")


def test_a_hanging_coordinator_is_left_for_the_next_address(
    coordinator: CoordinatorProcess, project: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The connections stay up and nothing comes back on them: renewals go on elsewhere in time, metrics follow."""
    proxy = Proxy(coordinator.address)
    try:
        run = runlease.init(
            project=project, id="r", resume="allow", ttl=5, coordinator=f"{proxy.address},{coordinator.address}"
        )

        def renewed_since(moment: float) -> bool:  # no renewal from before it reaches as far
            return time.monotonic() + run.lease.remaining_s > moment + run.lease.ttl_s

        began = time.monotonic()
        until(lambda: renewed_since(began))  # renewals have their connection now
        proxy.stall(TO_SERVER)
        proxy.stall(TO_CLIENT)
        stalled = time.monotonic()
        run.log({"loss": 1.0})
        until(lambda: renewed_since(stalled))
        assert "suspended" not in caplog.text
        assert run.flush(TIMEOUT_S)
        proxy.cut()
        run.finish()
    finally:
        proxy.close()


def test_finish_does_not_hang_on_a_dead_coordinator(
    start_coordinator: StartCoordinator, start_puppet: StartPuppet
) -> None:
    coordinator = start_coordinator()
    trainer = start_puppet(coordinator)
    trainer.call("init", project="p", id="r", resume="allow")
    store = coordinator.store_pid
    coordinator.kill()
    os.kill(store, signal.SIGKILL)
    trainer.call("train", start=0, stop=100)
    assert trainer.exit() == 0  # within the puppet's bound, though it never called finish
    assert "200 points of p/r can be delivered later: runlease sync" in trainer.stderr
