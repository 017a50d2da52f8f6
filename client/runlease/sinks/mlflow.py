"""MLflow: one run of an experiment for each run, through MLflow's own client.

A database (or a server over one) takes a metric of the same key, step, time and value once, so what a dead sink sent
but did not remember does no harm when it comes again.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from runlease.records import RunRecord
from runlease.redaction import without_secrets
from runlease.sinks.target import Memo, MissingPackage, Row, RunTarget, TargetError

#: What MLflow takes at once.
_METRICS_A_BATCH = 1000
_LONGEST_KEY = 250
_NOT_ALLOWED = re.compile(r"[^\w\-. :/]")
#: MLflow's words for how a run ended; crashed and preempted runs failed as far as it knows.
_STATUS = {"finished": "FINISHED", "killed": "KILLED", "deleted": "KILLED"}
_RUN_TAG, _CREATED_TAG = "runlease.run", "runlease.created"

_T = TypeVar("_T")


class MlflowTarget:
    """An MLflow tracking server, or a database that MLflow can open."""

    def __init__(self, tracking_uri: str | None, experiment: str | None) -> None:
        """Open it.

        Args:
            tracking_uri: as MLflow takes it; None: what MLflow itself would use.
            experiment: its name, made where it is missing; None: the project's.

        Raises:
            MissingPackage: MLflow is not installed.
            TargetError: it cannot be reached.
        """
        # It would count its uses over the network, and hide for minutes that a server is away: we try again ourselves.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        try:
            import mlflow
        except ImportError as error:
            raise MissingPackage("mlflow", error) from error
        for chatty in ("mlflow", "alembic"):  # tell of each table that they make
            logging.getLogger(chatty).setLevel(logging.WARNING)
        self._mlflow: Any = mlflow
        self._experiment = experiment
        uri = tracking_uri or str(mlflow.get_tracking_uri())
        self._uri = uri
        self._client: Any = _reached(uri, partial(mlflow.MlflowClient, tracking_uri=uri))
        self._experiments: dict[str, str] = {}

    @property
    def identity(self) -> str:
        """The tracking URI, without a password, and the experiment."""
        return f"{_without_credentials(self._uri)} {self._experiment or ''}".strip()

    def open(self, record: RunRecord, name: str, memo: Memo) -> RunTarget:
        """Find the run by its tags, or create it."""
        experiment = self._experiment_id(self._experiment or record.project)
        tags = {_RUN_TAG: f"{record.project}/{name}", _CREATED_TAG: f"{record.created_s:.6f}"}
        wanted = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
        found = _reached(self._uri, lambda: self._client.search_runs([experiment], filter_string=wanted, max_results=1))
        if found:
            run_id = str(found[0].info.run_id)
            if record.state == "running" and found[0].info.status != "RUNNING":
                _reached(self._uri, lambda: self._client.update_run(run_id, status="RUNNING"))
        else:
            shown = record.name if name == record.canonical_id else f"{record.name} {name.partition('@')[2]}"
            start_ms = round(record.created_s * 1000)
            created = _reached(
                self._uri,
                lambda: self._client.create_run(experiment, start_time=start_ms, tags=tags, run_name=shown or name),
            )
            run_id = str(created.info.run_id)
        return _MlflowRun(self._uri, self._client, self._mlflow.entities.Metric, run_id)

    def close(self) -> None:
        """Do nothing: each call is one of its own."""

    def _experiment_id(self, name: str) -> str:
        if name not in self._experiments:
            found = _reached(self._uri, lambda: self._client.get_experiment_by_name(name))
            self._experiments[name] = str(
                found.experiment_id if found else _reached(self._uri, lambda: self._client.create_experiment(name))
            )
        return self._experiments[name]


class _MlflowRun:
    def __init__(self, uri: str, client: Any, metric: Any, run_id: str) -> None:
        self._uri, self._client, self._metric, self._run_id = uri, client, metric, run_id

    def restart(self, step: int, time_s: float) -> None:
        """Do nothing: MLflow keeps every value, and shows both."""

    def write(self, rows: Iterable[Row]) -> None:
        """Log the values of rows, with their steps and times."""
        batch: list[Any] = []
        for row in rows:
            milliseconds = round(row.time * 1000)
            for key, value in row.values.items():
                batch.append(self._metric(mlflow_key(key), value, milliseconds, row.step))
                if len(batch) == _METRICS_A_BATCH:
                    self._log(batch)
                    batch = []
        if batch:
            self._log(batch)

    def flush(self) -> Memo:
        """Do nothing: a batch that was logged is there."""
        return {"run_id": self._run_id}

    def end(self, record: RunRecord) -> None:
        """Set the run's status and end."""
        status = _STATUS.get(record.state, "FAILED")
        ended = record.attempts[-1].ended_s if record.attempts else None
        end_ms = round((ended or record.updated_s) * 1000)
        _reached(self._uri, lambda: self._client.set_terminated(self._run_id, status, end_time=end_ms))

    def close(self) -> None:
        """Do nothing."""

    def _log(self, batch: list[Any]) -> None:
        _reached(self._uri, lambda: self._client.log_batch(self._run_id, metrics=batch))


def mlflow_key(key: str) -> str:
    """Return a key as MLflow takes it: what it does not allow becomes `_`, and so does a path that is not plain."""
    plain = _NOT_ALLOWED.sub("_", key)[:_LONGEST_KEY]
    parts = [part if part not in ("", ".", "..") else "_" for part in plain.split("/")]
    return "/".join(parts)


def _without_credentials(uri: str) -> str:
    return re.sub(r"^([A-Za-z][\w+.-]*://)(?!/)[^?]*@", r"\1", uri)


def _reached(uri: str, call: Callable[[], _T]) -> _T:
    try:
        return call()
    except Exception as error:  # MLflow's own, its HTTP client's, its database's: there is no common root
        reason = without_secrets(str(error), uri).strip().splitlines()
        # Not chained: what it holds may quote the URI, password and all.
        raise TargetError(f"MLflow: {reason[0] if reason else type(error).__name__}") from None
