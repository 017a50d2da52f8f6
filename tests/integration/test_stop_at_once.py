"""A coordinator that is stopped the moment it serves, whatever is still on its way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from runlease_coordinator.bootstrap import Coordinator
from runlease_coordinator.settings import Settings

ROUNDS = 20


@pytest.mark.parametrize("turns", [0, 1, 5])
def test_it_stops_in_time_and_serves_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    async def start_and_stop() -> None:
        coordinator = Coordinator(Settings(listen="127.0.0.1:0", data_dir=tmp_path / "data"))
        await coordinator.start()
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.wait_for(coordinator.stop(), 30)

    for _ in range(ROUNDS):
        asyncio.run(start_and_stop())
