"""What the sweeper sees though nobody calls: quarantines, refusals, and expired runs beside them."""

from __future__ import annotations

import logging

import pytest
from runlease_coordinator.store.keys import partition_of

from tests.support.losses import QUARANTINE_US, Losses
from tests.support.stores import LiveStore


@pytest.fixture(autouse=True)
def expired(live: LiveStore, project: str, caplog: pytest.LogCaptureFixture) -> None:
    """Two runs that are to be swept, in two partitions."""
    caplog.set_level(logging.INFO, "runlease_coordinator")
    other = next(name for n in range(99) if partition_of(name := f"{project}-{n}") != partition_of(project))
    for each in (project, other):
        live.acquire(each, ttl_us=1)


def test_a_quarantine_starts_by_itself_and_is_said_once_until_it_ends(
    live: LiveStore, losses: Losses, caplog: pytest.LogCaptureFixture
) -> None:
    losses.fail_over()
    # Runs of the partition are left alone, those beside it are not.
    assert live.run(live.sweeper.sweep()) == 1
    assert int(live.raw.hget(losses.meta, "quarantine_until_us") or 0) > live.now_us() + QUARANTINE_US // 2
    assert live.run(live.sweeper.sweep()) == 0
    (said,) = caplog.messages
    assert "no grants in 1 of 64 partitions for " in said
    # A second loss within the quarantine is another one.
    losses.fail_over(2 * QUARANTINE_US)
    live.run(live.sweeper.sweep())
    assert len(caplog.messages) == 2
    losses.end_quarantine()
    live.run(live.sweeper.sweep())
    live.run(live.sweeper.sweep())
    assert caplog.messages[2:] == ["the quarantine of 1 partitions is over: they grant again"]


def test_what_refuses_is_said_once_and_the_others_are_swept(
    live: LiveStore, project: str, caplog: pytest.LogCaptureFixture
) -> None:
    meta = live.meta(project)
    live.raw.rename(meta, "elsewhere")
    try:
        assert live.run(live.sweeper.sweep()) == 1
        live.run(live.sweeper.sweep())
        (said,) = caplog.messages
        assert said.startswith("the store takes nothing: ")
        assert "never opened" in said
    finally:
        live.raw.rename("elsewhere", meta)
    assert live.run(live.sweeper.sweep()) == 1
    assert caplog.messages[1:] == ["the store takes everything again"]
