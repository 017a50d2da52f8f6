"""What W&B's own process has written to a run's `.wandb` file: LevelDB's log format, of protobuf records.

Blocks of 32 KiB hold fragments, each behind a header of checksum (u32), length (u16) and kind (u8), little-endian.
See https://github.com/google/leveldb/blob/main/doc/log_format.md.
"""

from __future__ import annotations

import struct
from importlib import import_module
from pathlib import Path
from typing import Any

_BLOCK, _HEADER = 32_768, struct.Struct("<IHB")
#: W&B's own header of the file.
_FILE_HEADER = 7
_FULL, _LAST = 1, 4


class WandbFile:
    """Counts history rows in a file that grows; each call reads what is new."""

    def __init__(self, path: Path) -> None:
        """Take the file, which may not be there yet."""
        self._path = path
        self._at = _FILE_HEADER
        self._rows = 0

    def rows(self) -> int:
        """Return how many rows are in the file.

        Raises:
            OSError: it cannot be read.
            ValueError: it has another format.
        """
        from google.protobuf.message import DecodeError

        record: Any = import_module("wandb.proto.wandb_internal_pb2").Record
        try:
            for content in self._new_records():
                self._rows += record.FromString(content).WhichOneof("record_type") == "history"
        except DecodeError as error:
            raise ValueError(f"{self._path} is not as W&B's files were: {error}") from None
        return self._rows

    def _new_records(self) -> list[bytes]:
        with self._path.open("rb") as file:
            file.seek(self._at)
            content = file.read()
        found: list[bytes] = []
        start, at, parts = self._at, 0, b""
        while True:
            rest = _BLOCK - (start + at) % _BLOCK
            if rest < _HEADER.size:  # too small for a fragment: zeros
                at += rest
                continue
            if at + _HEADER.size > len(content):
                return found
            _, size, kind = _HEADER.unpack_from(content, at)
            end = at + _HEADER.size + size
            if kind == 0 or end > len(content):  # not written yet
                return found
            parts += content[at + _HEADER.size : end]
            at = end
            if kind in (_FULL, _LAST):
                found.append(parts)
                parts = b""
                self._at = start + at
