"""Folders of archived objects that tests can look into, break and slow down."""

from __future__ import annotations

import io
from typing import Any

from runlease_coordinator.history.objects import ArchiveError, MissingObject


class MemoryObjects:
    """Objects in memory; ``away`` makes every call fail as a dead network does."""

    url = "memory://archive"

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.away = False

    def put(self, path: str, content: memoryview) -> None:
        self._check(path)
        self.content[path] = bytes(content)

    def open(self, path: str) -> Any:
        self._check(path)
        if path not in self.content:
            raise MissingObject(f"{self.url}/{path} is missing")
        return io.BytesIO(self.content[path])

    def remove(self, path: str) -> None:
        self._check(path)
        self.content.pop(path, None)

    def parts(self) -> list[str]:
        return sorted(path for path in self.content if "/parts/" in path)

    def _check(self, path: str) -> None:
        if self.away:
            raise ArchiveError(f"{self.url}/{path}: it does not answer")
