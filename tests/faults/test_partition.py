"""A trainer whose network vanishes: packets are lost, nothing is reset, nobody is told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import runlease

from tests.support.cable import cable
from tests.support.coordinator import CoordinatorProcess
from tests.support.puppet import Puppet
from tests.support.wait import until


def test_who_is_cut_off_suspends_itself_before_the_next_one_is_granted(
    start_puppet: Callable[..., Puppet],
) -> None:
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(cable())
        coordinator = CoordinatorProcess("--max-ttl", "5", "--lock-delay", "1")
        coordinator.address = f"{line.here}:0"
        stack.callback(coordinator.close)
        coordinator.start()
        trainer = stack.enter_context(contextlib.closing(Puppet(coordinator.env, prefix=line.prefix)))
        granted = trainer.call("init", project="p", id="r", resume="allow")
        trainer.call("train", start=0, stop=100)
        assert trainer.call("flush")
        line.pull()
        trainer.call("train", start=100, stop=200)
        heir = start_puppet(coordinator)
        heir.call("init", project="p", id="r", resume="allow", wait=60)
        assert trainer.call("state")["state"] == "suspended"
        assert trainer.call("train", start=200, stop=300) == 300
        # With the network back it is told who has the run, and nothing of it gets in any more.
        line.plug()
        assert trainer.call("wait_lost", timeout=60)
        heir.call("train", start=100, stop=110)
        assert heir.call("finish")
        with runlease.Client(coordinator.address) as client:
            run = client.get_run("p", "r")
            assert (run.attempt, run.points) == (2, 220)
            assert run.fence > granted["fence"]
        until(lambda: "superseded" in trainer.stderr)
