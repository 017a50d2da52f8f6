"""What trackers have, read by their own readers; of W&B's files, by their format."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Shown(NamedTuple):
    """A point as a tracker has it."""

    key: str
    step: int
    value: float
    time: float


def in_tensorboard(directory: Path) -> list[Shown]:
    """Return what TensorBoard shows of a run's directory, by key, then step: both of its readers in Python agree."""
    from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator
    from tensorboard.util.tensor_util import make_ndarray

    scalars = event_accumulator.EventAccumulator(str(directory), {event_accumulator.SCALARS: 0}).Reload()
    points = [
        Shown(tag, event.step, event.value, event.wall_time)
        for tag in scalars.Tags()[event_accumulator.SCALARS]
        for event in scalars.Scalars(tag)
    ]
    # That of its web server, without the fast loader.
    tensors = plugin_event_accumulator.EventAccumulator(str(directory), {plugin_event_accumulator.TENSORS: 0}).Reload()
    served = [
        Shown(tag, event.step, make_ndarray(event.tensor_proto).item(), event.wall_time)
        for tag in tensors.Tags()[plugin_event_accumulator.TENSORS]
        for event in tensors.Tensors(tag)
    ]
    assert sorted(served) == sorted(points)
    return sorted(points, key=lambda point: (point.key, point.step))


_MLFLOW = """
import json, logging, sys, warnings
warnings.simplefilter("ignore")  # of its database layer's own use of what is deprecated
logging.disable()
import mlflow
client = mlflow.MlflowClient(tracking_uri=sys.argv[1])
experiment = client.get_experiment_by_name(sys.argv[2])
found = []
for run in client.search_runs([experiment.experiment_id]) if experiment else ():
    metrics = [
        [m.key, m.step, repr(m.value), m.timestamp / 1000]
        for key in run.data.metrics
        for m in client.get_metric_history(run.info.run_id, key)
    ]
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("runlease.")}
    found.append({"name": run.info.run_name, "status": run.info.status, "tags": tags, "metrics": sorted(metrics)})
print(json.dumps(found))
"""


def in_mlflow(uri: str, experiment: str) -> list[dict[str, Any]]:
    """Return an experiment's runs with `metrics` as [key, step, repr of the value, time], by MLflow's own client."""
    done = subprocess.run(
        [sys.executable, "-c", _MLFLOW, uri, experiment], capture_output=True, text=True, timeout=110, check=True
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def rows_in_wandb(directory: Path, run_id: str) -> list[dict[str, Any]]:
    """Return the history rows of a run in the files that W&B's offline mode wrote, oldest file first."""
    rows = []
    for path in sorted(directory.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb")):
        for record in _wandb_records(path.read_bytes()):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def _wandb_records(content: bytes) -> Iterator[Any]:
    """Read LevelDB's log format, as W&B uses it: blocks of 32 KiB, records in fragments behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    at, parts = 7, []  # the file begins with a header of its own
    while at + 7 <= len(content):
        room = 32_768 - at % 32_768
        if room < 7:
            at += room
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        if kind == 0 and size == 0:
            return
        parts.append(content[at + 7 : at + 7 + size])
        at += 7 + size
        if kind in (1, 4):  # full, or last
            yield wandb_internal_pb2.Record.FromString(b"".join(parts))
            parts = []
