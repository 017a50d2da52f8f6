"""Weights & Biases: one W&B run for each run, through its SDK; offline it needs no network.

W&B counts its own steps and refuses smaller ones, so the step of a row is a metric of its own, `runlease/step`, that
all others are drawn over; `runlease/attempt` tells attempts apart. W&B can neither take points back nor tell whether it
has one already: superseded points stay, and after a sink was killed its last portion may be there twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from runlease.records import RunRecord
from runlease.sinks.target import Memo, MissingPackage, Row, RunTarget, TargetError
from runlease.sinks.wandbfile import WandbFile

STEP, ATTEMPT = "runlease/step", "runlease/attempt"
#: Nothing of this process belongs to the run: neither its output and its machine nor the code around it.
_SETTINGS = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "silent": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    # Seconds between two writes of what W&B's own process holds: nothing else makes it write.
    "x_transaction_log_flush_interval": 0.5,
}
#: How long W&B's own process may take to write, in seconds, and how often to look.
_WRITTEN_WITHIN_S, _LOOK_S = 60.0, 0.1
#: Keys that W&B sets itself.
_RESERVED = ("_step", "_runtime", "_timestamp", "_wandb")

_T = TypeVar("_T")


class Wandb:
    """A W&B project, or a directory of runs to upload later."""

    def __init__(self, *, entity: str | None, project: str | None, directory: Path | None, offline: bool) -> None:
        """Take where to.

        Args:
            entity: user or team; None: W&B's default.
            project: W&B's project; None: that of the run.
            directory: where W&B keeps its files; None: `WANDB_DIR`, else the current directory.
            offline: write files only; also by `WANDB_MODE=offline`.

        Raises:
            MissingPackage: W&B's SDK is not installed.
        """
        # Its reports of its own errors would go over the network, offline too.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb
        except ImportError as error:
            raise MissingPackage("wandb", error) from error
        self._wandb: Any = wandb
        self._entity, self._project = entity, project
        self._directory = directory or Path(os.environ.get("WANDB_DIR") or ".")
        self._offline = offline or os.environ.get("WANDB_MODE") == "offline"

    @property
    def identity(self) -> str:
        """Entity and project; offline the directory."""
        place = f"offline {self._directory.absolute()}" if self._offline else "online"
        return f"{place} {self._entity or ''}/{self._project or ''}"

    def open(self, record: RunRecord, name: str, memo: Memo) -> RunTarget:
        """Start the run, or go on with it."""

        def start() -> Any:
            self._directory.mkdir(parents=True, exist_ok=True)
            known = dir(self._wandb.Settings())
            settings = {name: value for name, value in _SETTINGS.items() if name in known}
            if self._offline:
                settings["mode"] = "offline"
            return self._wandb.init(
                entity=self._entity,
                project=self._project or record.project,
                id=name.replace("@", "-"),
                name=record.name,
                notes=record.notes or None,
                tags=list(record.tags) or None,
                config={**record.config},
                dir=str(self._directory),
                resume=None if self._offline else "allow",
                reinit="create_new",
                settings=self._wandb.Settings(**settings),
            )

        return _WandbRun(_reached(start))

    def close(self) -> None:
        """Stop W&B's own process."""
        self._wandb.teardown()


class _WandbRun:
    def __init__(self, run: Any) -> None:
        self._run = run
        self._file = WandbFile(Path(run.dir).parent / f"run-{run.id}.wandb")
        self._logged = 0
        for own in (STEP, ATTEMPT):
            run.define_metric(own, hidden=True)
        run.define_metric("*", step_metric=STEP)

    def restart(self, step: int, time_s: float) -> None:
        """Do nothing: W&B cannot take points back."""

    def write(self, rows: Iterable[Row]) -> None:
        """Log rows, each with its step, its attempt and its time."""
        for row in rows:
            values = {f"metric/{key}" if key in _RESERVED else key: value for key, value in row.values.items()}
            own = {STEP: row.step, ATTEMPT: row.attempt, "_timestamp": row.time}
            _reached(partial(self._run.log, values | own))
            self._logged += 1

    def flush(self) -> Memo:
        """Wait until W&B's own process has written to its file what it was given; it does not say so itself."""
        deadline = time.monotonic() + _WRITTEN_WITHIN_S
        while (written := _reached(self._file.rows)) < self._logged:
            if time.monotonic() >= deadline:
                raise TargetError(f"W&B has written {written} of {self._logged} rows to its file")
            time.sleep(_LOOK_S)
        return {}

    def end(self, record: RunRecord) -> None:
        """Finish the run, by its outcome."""
        _reached(lambda: self._run.finish(exit_code=0 if record.state == "finished" else 1))

    def close(self) -> None:
        """Let W&B write what is left."""
        _reached(self._run.finish)


def _reached(call: Callable[[], _T]) -> _T:
    try:
        return call()
    except Exception as error:  # W&B raises its own and Python's
        reason = str(error).strip().splitlines()
        raise TargetError(f"W&B: {reason[0] if reason else type(error).__name__}") from error
