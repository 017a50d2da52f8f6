"""The disk of an embedded store is full: it cannot acknowledge, and says so; with room again, all is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import runlease

from tests.support.coordinator import CoordinatorProcess
from tests.support.puppet import Puppet
from tests.support.tmpfs import SmallDisk, small_disk
from tests.support.wait import until


@pytest.fixture
def stored_on() -> Iterator[tuple[CoordinatorProcess, SmallDisk]]:
    coordinator = CoordinatorProcess()
    try:
        with small_disk(coordinator.data_dir, "8m") as disk:
            coordinator.start()
            yield coordinator, disk
            coordinator.stop()  # while its data are there
    finally:
        coordinator.close()


def test_metrics_wait_for_room_on_the_stores_disk(
    stored_on: tuple[CoordinatorProcess, SmallDisk], start_puppet: Callable[[CoordinatorProcess], Puppet]
) -> None:
    coordinator, disk = stored_on
    trainer = start_puppet(coordinator)
    granted = trainer.call("init", project="p", id="r", resume="allow", ttl=10)
    trainer.call("train", start=0, stop=1000)
    trainer.call("commit", step=999, wait=True)

    # When there is no room left, then the store ends at its next write, and the operator is told why
    disk.fill()
    trainer.call("train", start=1000, stop=3000)
    until(lambda: "No space left on device; make room" in coordinator.log.read_text())
    assert trainer.call("train", start=3000, stop=4000) == 4000  # the training goes on
    stats = trainer.call("stats")
    assert (stats["dropped"], stats["lost"], stats["rejected"]) == (0, 0, 0)

    # And when there is room again, what was acknowledged is there, and the rest arrives, under the same fence
    disk.free()
    assert trainer.call("flush", timeout=60)
    until(lambda: trainer.call("state")["state"] == "held")
    with runlease.Client(coordinator.address) as client:
        assert [(row.step, row.value) for row in client.history("p", "r", keys=["loss"]).rows()] == [
            (step, float(step)) for step in range(4000)
        ]
        run = client.get_run("p", "r")
        assert (run.points, run.fence, run.checkpoint and run.checkpoint.step) == (8000, granted["fence"], 999)
    assert trainer.call("finish")
