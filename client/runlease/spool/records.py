"""Records of a spool: framed with length and checksum, so that what is torn or rotten is never taken for one."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from google.protobuf.message import DecodeError

from runlease.v1 import metrics_pb2, spool_pb2

#: What this version writes and reads (SpoolHeader.version).
VERSION = 1
#: Length and CRC-32 of the record behind it.
HEAD = struct.Struct("<II")

#: Payloads of entries.
KINDS = {
    "points": spool_pb2.SpooledEntry.KIND_POINTS,
    "commit": spool_pb2.SpooledEntry.KIND_COMMIT,
    "rewind": spool_pb2.SpooledEntry.KIND_REWIND,
    "lost": spool_pb2.SpooledEntry.KIND_LOST,
}


def frame(record: spool_pb2.SpoolRecord) -> bytes:
    """Return a record as it stands in a file."""
    payload = record.SerializeToString()
    return HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def frame_entry(entry: metrics_pb2.Entry, place: int, points: int, items_through: int = 0) -> bytes:
    """Return an entry's record as it stands in a file.

    Args:
        entry: what it holds besides its payload is not kept.
        place: its place among the session's entries.
        points: how many points it holds, or stands for.
        items_through: up to which index the journal's items are in entries up to this one.
    """
    kept = metrics_pb2.Entry()
    kind = entry.WhichOneof("payload")
    getattr(kept, kind).CopyFrom(getattr(entry, kind))
    record = spool_pb2.SpoolRecord()
    record.entry.place = place
    record.entry.entry = kept.SerializeToString()
    record.entry.kind = KINDS[kind]
    record.entry.points = points
    record.entry.step = top_step(entry)
    record.entry.items_through = items_through
    return frame(record)


def top_step(entry: metrics_pb2.Entry) -> int:
    """Return the highest step of an entry, 0 where it has none."""
    match entry.WhichOneof("payload"):
        case "points":
            return max(entry.points.steps, default=0)
        case "commit":
            return entry.commit.step
        case "rewind":
            return entry.rewind.step
    return 0


def unframe(data: bytes | memoryview) -> spool_pb2.SpoolRecord | None:
    """Return the record that ``data`` begins with, or None if none stands there whole and sound."""
    if len(data) < HEAD.size:
        return None
    length, checksum = HEAD.unpack_from(data)
    payload = memoryview(data)[HEAD.size : HEAD.size + length]
    # Zeros, which file systems leave behind after a power cut, would pass as an empty record.
    if not length or len(payload) < length or zlib.crc32(payload) != checksum:
        return None
    try:
        return spool_pb2.SpoolRecord.FromString(bytes(payload))
    except DecodeError:
        return None


class Scan:
    """The records of a file's content, each with its offset and length, up to the first that is not sound."""

    def __init__(self, data: bytes) -> None:
        """Take the content; iterate once."""
        self._data = memoryview(data)
        #: Bytes of sound records, once iterated.
        self.sound = 0

    def __iter__(self) -> Iterator[tuple[int, int, spool_pb2.SpoolRecord]]:
        """Yield offset, length with frame (bytes), and record."""
        while (record := unframe(self._data[self.sound :])) is not None:
            length = HEAD.size + HEAD.unpack_from(self._data, self.sound)[0]
            yield self.sound, length, record
            self.sound += length
