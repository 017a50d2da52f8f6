"""What the malformed calls have in common: a coordinator's services, and a run that may be written to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.coordinator import CoordinatorProcess
from tests.support.rawcalls import TIMEOUT_S, Stubs, wish


@pytest.fixture(scope="module")
def stubs(coordinator: CoordinatorProcess) -> Iterator[Stubs]:
    stubs = Stubs(coordinator.address)
    yield stubs
    stubs.channel.close()


@pytest.fixture
def fence(stubs: Stubs, project: str) -> int:
    return int(stubs.leases.Acquire(wish(project), timeout=TIMEOUT_S).grant.fence)
