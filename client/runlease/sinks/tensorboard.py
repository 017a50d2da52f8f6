"""TensorBoard: event files, written by its own record writer; neither TensorFlow nor PyTorch is needed.

A run is a directory. The memo names the file and its size after the last flush. What lies behind that was written by a
sink that died before it could remember it, and will come again: it is cut off, and a new file is begun, since a
TensorBoard that is open may have read beyond. With nothing remembered, whatever is there is declared superseded.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from runlease.records import RunRecord
from runlease.sinks.target import Memo, MissingPackage, Row, RunTarget, TargetError

#: TensorBoard reads all files with the first part in their names, in the order of their names.
_PREFIX, _SUFFIX = "events.out.tfevents.", ".runlease"
_VERSION = "brain.Event:2"


class TensorBoard:
    """A directory of runs for `tensorboard --logdir`."""

    def __init__(self, logdir: Path) -> None:
        """Take the directory.

        Raises:
            MissingPackage: TensorBoard is not installed.
        """
        self._logdir = logdir.absolute()
        try:
            import tensorboard.compat.proto.event_pb2
            import tensorboard.summary.writer.record_writer  # noqa: F401  # asks only whether it is there
        except ImportError as error:
            raise MissingPackage("tensorboard", error) from error

    @property
    def identity(self) -> str:
        """The directory."""
        return str(self._logdir)

    def open(self, record: RunRecord, name: str, memo: Memo) -> RunTarget:
        """Open the run's directory."""
        try:
            return _EventFiles(self._logdir / record.project / name, memo)
        except OSError as error:
            raise TargetError(f"cannot write for TensorBoard: {error}") from error

    def close(self) -> None:
        """Do nothing: files are closed with their runs."""


class _EventFiles:
    def __init__(self, directory: Path, memo: Memo) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._events: Any = event_pb2
        self._summaries: Any = summary_pb2
        directory.mkdir(parents=True, exist_ok=True)
        ours = sorted(path for path in directory.glob(f"{_PREFIX}*{_SUFFIX}"))
        known = directory / str(memo.get("file", ""))
        goes_on = known in ours and _cut_back(known, int(memo["size"]), [path for path in ours if path > known])
        self._path = known if goes_on else _next_name(directory)
        self._file: BinaryIO = self._path.open("ab" if goes_on else "xb")
        self._records = RecordWriter(self._file)
        if not goes_on:
            self._write(file_version=_VERSION, wall_time=time.time())
            if known not in ours:
                # For some of TensorBoard's readers only the second START of a directory, and later ones, hide anything.
                # Where there are files that nobody remembers, this one says that all in them is superseded.
                self.restart(0, time.time())

    def restart(self, step: int, time_s: float) -> None:
        """Let TensorBoard drop what lies at or above a step."""
        started = self._events.SessionLog(status=self._events.SessionLog.START)
        self._write(session_log=started, step=step, wall_time=time_s)

    def write(self, rows: Iterable[Row]) -> None:
        """Write one event a row."""
        value_of = self._summaries.Summary.Value
        for row in rows:
            values = [value_of(tag=key, simple_value=value) for key, value in row.values.items()]
            self._write(summary=self._summaries.Summary(value=values), step=row.step, wall_time=row.time)

    def flush(self) -> Memo:
        """Write through to the disk."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            return {"file": self._path.name, "size": self._file.tell()}
        except OSError as error:
            raise TargetError(f"cannot write for TensorBoard: {error}") from error

    def end(self, record: RunRecord) -> None:
        """Do nothing: event files know no outcome."""

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:
            raise TargetError(f"cannot write for TensorBoard: {error}") from error

    def _write(self, **event: Any) -> None:
        try:
            self._records.write(self._events.Event(**event).SerializeToString())
        except OSError as error:
            raise TargetError(f"cannot write for TensorBoard: {error}") from error


def _cut_back(known: Path, size: int, later: Iterable[Path]) -> bool:
    """Remove what nobody remembers having written; return whether the known file can go on."""
    strays = list(later)
    for path in strays:
        path.unlink()
    longer = known.stat().st_size - size
    if longer > 0:
        os.truncate(known, size)
    return longer == 0 and not strays


def _next_name(directory: Path) -> Path:
    """Return a name behind all others: it begins with seconds, as TensorBoard's own names do."""
    taken = [path.name.removeprefix(_PREFIX)[:10] for path in directory.glob(f"{_PREFIX}*")]
    latest = max((int(seconds) for seconds in taken if seconds.isdigit()), default=0)
    return directory / f"{_PREFIX}{max(int(time.time()), latest + 1):010d}{_SUFFIX}"
