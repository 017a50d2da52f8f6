"""What the sweeper sees though nobody calls: quarantines, refusals, and expired runs beside them."""

from __future__ import annotations

import logging

import pytest
from runlease_coordinator.store.keys import partition_of

from tests.support.stores import LiveStore

QUARANTINE_US = 60_000_000


def lose(live: LiveStore, meta: str) -> None:
    """Let a partition be of another incarnation."""
    live.raw.hset(meta, mapping={"incarnation": "f" * 40, "quarantine_us": QUARANTINE_US})


@pytest.fixture
def others(project: str) -> str:
    """A project of another partition."""
    return next(name for n in range(99) if partition_of(name := f"{project}-{n}") != partition_of(project))


def test_a_quarantine_starts_by_itself_and_is_said_once_until_it_ends(
    live: LiveStore, project: str, others: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "runlease_coordinator")
    meta = live.meta(project)
    for each in (project, others):
        live.acquire(each, ttl_us=1)
    lose(live, meta)
    try:
        # Runs of the partition are left alone, those beside it are not.
        assert live.run(live.sweeper.sweep()) == 1
        assert int(live.raw.hget(meta, "quarantine_until_us") or 0) > live.now_us() + QUARANTINE_US // 2
        assert live.run(live.sweeper.sweep()) == 0
        (said,) = caplog.messages
        assert "no grants in 1 of 64 partitions for " in said
        # A second loss within the quarantine is another one.
        live.raw.hset(meta, mapping={"incarnation": "e" * 40, "quarantine_us": 2 * QUARANTINE_US})
        live.run(live.sweeper.sweep())
        assert len(caplog.messages) == 2
    finally:
        live.raw.hset(meta, mapping={"quarantine_us": 0, "quarantine_until_us": 0})
    live.run(live.sweeper.sweep())
    live.run(live.sweeper.sweep())
    assert caplog.messages[2:] == ["the quarantine of 1 partitions is over: they grant again"]


def test_what_refuses_is_said_once_and_the_others_are_swept(
    live: LiveStore, project: str, others: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "runlease_coordinator")
    meta = live.meta(project)
    for each in (project, others):
        live.acquire(each, ttl_us=1)
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
