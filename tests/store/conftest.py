"""The store that the tests of its scripts share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.stores import LiveStore


@pytest.fixture(scope="module", params=["valkey", "redis"])
def live(request: pytest.FixtureRequest) -> Iterator[LiveStore]:
    """The operations over a real Valkey and over a real Redis 7."""
    store = LiveStore(request.getfixturevalue("redis_binary") if request.param == "redis" else None)
    yield store
    store.close()
