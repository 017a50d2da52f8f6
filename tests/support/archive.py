"""A compactor and a reader over a live store, driven step by step."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runlease.ids import canonical_id
from runlease_coordinator.domain.archive import Manifest
from runlease_coordinator.domain.metrics import Series
from runlease_coordinator.history.archive import ArchivedLog
from runlease_coordinator.history.compactor import Compactor, Pacing
from runlease_coordinator.history.objects import LocalObjects, Objects
from runlease_coordinator.history.reads import HistoryReader, Query
from runlease_coordinator.store.archive import ArchiveStore
from runlease_coordinator.store.keys import run_keys

from tests.support.stores import LiveStore

Shown = list[tuple[str, str, int, str, float, int, bool]]


class Archiving:
    """One coordinator's compactor, without its loop."""

    def __init__(
        self, live: LiveStore, folder: Path, *, owner: str = "a", objects: Objects | None = None, **pacing: Any
    ) -> None:
        self._live = live
        self.folder = folder
        self.objects = objects or LocalObjects(folder)
        self.store = ArchiveStore(live.store, owner)
        self.compactor = Compactor(self.store, live.runs, self.objects, Pacing(**pacing))
        self.reader = HistoryReader(live.runs, live.metrics, ArchivedLog(self.store, self.objects))

    def compact(self, project: str, run_id: str = "r") -> bool:
        """Archive the next part."""
        return self._live.run(self.compactor.compact(project, canonical_id(run_id)))

    def compact_all(self, project: str, run_id: str = "r") -> int:
        parts = 0
        while self.compact(project, run_id):
            parts += 1
        return parts

    def sweep(self) -> int:
        return self._live.run(self.compactor.sweep())

    def manifest(self, project: str, run_id: str = "r") -> Manifest:
        return self._live.run(self.store.manifest(project, canonical_id(run_id)))

    def hot_bytes(self, project: str, run_id: str = "r") -> float | None:
        keys = run_keys(project, canonical_id(run_id))
        score: float | None = self._live.raw.zscore(keys.partition.hot, keys.path)
        return score

    def hot_entries(self, project: str, run_id: str = "r") -> int:
        return int(self._live.raw.xlen(run_keys(project, canonical_id(run_id)).log))

    def read(
        self, project: str, run_id: str = "r", *, writers: Iterable[str] = ("main",), superseded: bool = False
    ) -> list[Series]:
        return self._live.run(self._read(project, run_id, Query(frozenset(writers), superseded=superseded)))

    async def _read(self, project: str, run_id: str, query: Query) -> list[Series]:
        moment = await self.reader.moment(project, run_id, canonical_id(run_id))
        return [one async for one in self.reader.series(moment, query)]

    def collect(self) -> None:
        """Let all garbage be due, and remove it; archives what is due, too."""
        for partition in set(self._live.raw.scan_iter("rl:*:garbage")):
            for path in self._live.raw.zrange(partition, 0, -1):
                self._live.raw.zadd(partition, {path: 0})
        Archiving(self._live, self.folder, owner="collector", objects=self.objects).sweep()

    def shown(self, project: str, run_id: str = "r", **query: Any) -> Shown:
        return flat(self.read(project, run_id, **query))

    def parts(self) -> list[str]:
        """Return the objects that lie in the folder, segments aside."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("part-*"))


def flat(history: Iterable[Series]) -> Shown:
    """Return every point of a history; values as text, so that NaN equals itself and -0.0 is not 0.0."""
    return [
        (one.key, one.writer, step, value.hex(), time, attempt, hidden)
        for one in history
        for step, value, time, attempt, hidden in zip(
            one.steps.tolist(),
            one.values.tolist(),
            one.times.tolist(),
            one.attempts.tolist(),
            [False] * len(one) if one.superseded is None else one.superseded.tolist(),
            strict=True,
        )
    ]
