"""The store that the tests of its scripts share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.losses import Losses
from tests.support.stores import LiveStore


@pytest.fixture(scope="module", params=["valkey", "redis"])
def live(request: pytest.FixtureRequest) -> Iterator[LiveStore]:
    """The operations over a real Valkey and over a real Redis 7."""
    store = LiveStore(request.getfixturevalue("redis_binary") if request.param == "redis" else None)
    yield store
    store.close()


@pytest.fixture
def losses(live: LiveStore, project: str) -> Iterator[Losses]:
    """What can be lost of the project's partition."""
    losses = Losses(live, project)
    yield losses
    losses.mend()
