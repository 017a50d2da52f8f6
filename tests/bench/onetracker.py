"""Logs rows of 5 scalars to one tracker, times its calls, prints JSON; a program, run with the tracker's interpreter.

Imports nothing of this package: the tracker's environment has none of it. See `trackers.py` for what is compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import platform
import secrets
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

#: Rows whose calls are timed one by one, at the pace of a fast training.
TIMED_ROWS, ROWS_A_SECOND = 1000, 1000
#: Rows logged flat out until the tracker says that it is done with them; a slow one logs fewer.
BURST_ROWS = 50_000

Row = dict[str, float]


def row_of(number: int) -> Row:
    """Return the row of a step: a noisy curve, so that nothing compresses it away."""
    x = number * 1e-3
    return {
        "train/loss": 3.0 * math.exp(-x) + 0.1 * math.sin(37.0 * number),
        "train/acc": 1.0 - math.exp(-x),
        "lr": 3e-4 * (1.0 + math.cos(x)),
        "grad_norm": 1.0 + 0.5 * math.sin(11.0 * number),
        "throughput": 1234.5 + math.cos(5.0 * number),
    }


class Tracker:
    """One run of one tracker; `log` is its own call, bound as a user would write it."""

    #: Whose version is told; '' for none.
    package: str
    log: Callable[[Row, int], Any]
    finish: Callable[[], Any]

    def stored(self) -> int | None:
        """Return how many rows are found where the tracker keeps them, once it has finished; None: no way to count."""
        return None


class Runlease(Tracker):
    package = "runlease"

    def __init__(self, folder: Path) -> None:
        import runlease

        with runlease.Client() as client:
            client.set_limits("bench", run_points=0, run_bytes=0, project_points=0, project_bytes=0)
        run = runlease.init(project="bench", id=f"trackers-{secrets.token_hex(5)}", resume="allow")
        self._id = run.id
        self.log = lambda row, step: run.log(row)
        self.finish = run.finish

    def stored(self) -> int:
        import runlease

        with runlease.Client() as client:
            return sum(1 for _ in client.history("bench", self._id, keys=["lr"]).rows())


class DictCopy(Tracker):
    """The least that a call can do which reads its values at once: what a busy machine makes of that shows here."""

    package = ""

    def __init__(self, folder: Path) -> None:
        rows: list[Row] = []
        self.log = lambda row, step: rows.append(dict(row))
        self.finish = lambda: None
        self.stored = rows.__len__


class Wandb(Tracker):
    package = "wandb"

    def __init__(self, folder: Path) -> None:
        import wandb

        run = wandb.init(project="bench", mode="offline", dir=str(folder))
        self._file = Path(run.dir).parent / f"run-{run.id}.wandb"
        self.log = lambda row, step: run.log(row)
        self.finish = run.finish

    def stored(self) -> int:
        """Count the history records of its file: LevelDB's log format behind a header, a protobuf message each."""
        from wandb.proto.wandb_internal_pb2 import Record

        return sum(Record.FromString(each).HasField("history") for each in leveldb_records(self._file.read_bytes()))


class Trackio(Tracker):
    package = "trackio"

    def __init__(self, folder: Path) -> None:
        import trackio

        self._project = f"bench{secrets.token_hex(3)}"
        trackio.init(project=self._project, auto_log_gpu=False, auto_log_cpu=False)
        self.log = lambda row, step: trackio.log(row)
        self.finish = trackio.finish

    def stored(self) -> int:
        from trackio.utils import TRACKIO_DIR

        return count(next(Path(TRACKIO_DIR).glob(f"{self._project}*.db")), "select count(*) from metrics")


class TensorBoard(Tracker):
    package = "tensorboardX"

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._folder = folder / secrets.token_hex(3)
        writer = SummaryWriter(str(self._folder))
        self.finish = writer.close

        def log(row: Row, step: int) -> None:
            for key, value in row.items():
                writer.add_scalar(key, value, step)

        self.log = log

    def stored(self) -> int:
        """Count records: a length, its checksum, the record, its checksum; the first says the version."""
        records = 0
        for path in self._folder.iterdir():
            left = path.read_bytes()
            place = 0
            while place < len(left):
                place += 8 + 4 + int.from_bytes(left[place : place + 8], "little") + 4
                records += 1
        return (records - 1) // len(row_of(0))


class Aim(Tracker):
    package = "aim"

    def __init__(self, folder: Path) -> None:
        import aim

        run = aim.Run(repo=str(folder), experiment="bench", system_tracking_interval=None, capture_terminal_logs=False)
        self.log = lambda row, step: run.track(row, step=step)
        self.finish = run.close


class MLflow(Tracker):
    package = "mlflow-skinny"

    def __init__(self, folder: Path) -> None:
        import mlflow

        self._path = folder / "mlflow.db"
        mlflow.set_tracking_uri(f"sqlite:///{self._path}")
        self._run = mlflow.start_run()
        self.log = lambda row, step: mlflow.log_metrics(row, step=step)
        self.finish = mlflow.end_run

    def stored(self) -> int:
        query = f"select count(*) from metrics where key = 'lr' and run_uuid = '{self._run.info.run_id}'"
        return count(self._path, query)


TRACKERS = {
    "runlease": Runlease,
    "dict copy": DictCopy,
    "W&B offline": Wandb,
    "trackio": Trackio,
    "TensorBoard": TensorBoard,
    "Aim": Aim,
    "MLflow": MLflow,
}


def count(database: Path, query: str) -> int:
    """Return what a query of one number says."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return int(connection.execute(query).fetchone()[0])


def leveldb_records(file: bytes, header: int = 7, block: int = 32 << 10) -> Iterator[bytes]:
    """Yield the records of a log: blocks with pieces of checksum, length and type (whole, first, middle, last)."""
    place, record = header, b""
    while place < len(file):
        if block - place % block < 7:  # too little for a piece: zeros up to the next block
            place += block - place % block
            continue
        length, kind = int.from_bytes(file[place + 4 : place + 6], "little"), file[place + 6]
        record += file[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def calls_us(tracker: Tracker, seconds: float) -> list[float]:
    """Return the microseconds of each call, logged at a steady pace for ``seconds`` at most."""
    took: list[float] = []
    began = time.perf_counter()
    for number in range(TIMED_ROWS):
        row = row_of(number)
        time.sleep(max(0.0, began + number / ROWS_A_SECOND - time.perf_counter()))
        start = time.perf_counter_ns()
        tracker.log(row, number)
        took.append((time.perf_counter_ns() - start) / 1e3)
        if time.perf_counter() > began + seconds:
            break
    return took


def burst(tracker: Tracker, seconds: float) -> tuple[int, float, float]:
    """Log flat out for ``seconds`` at most, then finish; returns rows, seconds of the calls, seconds of it all."""
    rows = [row_of(number) for number in range(BURST_ROWS)]
    number = 0
    began = time.perf_counter()
    for number, row in enumerate(rows, 1):
        tracker.log(row, number - 1)
        if number % 16 == 0 and time.perf_counter() > began + seconds:
            break
    called = time.perf_counter()
    tracker.finish()
    return number, called - began, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tracker", choices=TRACKERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0, help="that each of both parts logs, at most")
    options = parser.parse_args()
    make = TRACKERS[options.tracker]
    with contextlib.redirect_stdout(sys.stderr):  # some of them talk
        paced = make(options.folder)
        calls = sorted(calls_us(paced, options.seconds))
        paced.finish()
        flat_out = make(options.folder)
        rows, called_s, took_s = burst(flat_out, options.seconds)
        stored = flat_out.stored()
    found = {
        "version": version(make.package) if make.package else platform.python_version(),
        "p50_us": calls[len(calls) // 2],
        "p99_us": calls[int(len(calls) * 0.99)],
        "timed_rows": len(calls),
        "burst_rows": rows,
        "burst_call_us": called_s / rows * 1e6,
        "rows_a_second": rows / took_s,
        "stored_rows": stored,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
