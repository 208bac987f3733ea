"""MLflow: a run a fold, in a local SQLite store or on a tracking server."""

import logging
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dr.config import MLflowConfig
from dr.loggers.base import Logged, Logger, batches, figures, kept

TOKEN = "dr.token"
PARAMS_A_CALL = 100
PARAM_LENGTH = 6000
QUIET = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Environment variables that are set where the user has not set them."""


def store_folder(outputs: str) -> Path:
    """Where the local store of runs under `outputs` lies."""
    return Path(outputs).resolve() / ".mlflow"


def local_uri(outputs: str) -> str:
    """The tracking URI of the local store."""
    return f"sqlite:///{store_folder(outputs)}/mlflow.db"


class MLflowLogger(Logger):
    """The MLflow run that has the fold's token as tag `dr.token`, begun where there is none."""

    def __init__(self, config: MLflowConfig, logged: Logged, *, outputs: str) -> None:
        from filelock import FileLock

        folder = store_folder(outputs)
        folder.mkdir(parents=True, exist_ok=True)
        self._finished = False
        # Jobs side by side would make the tables and the experiment at the same time.
        with FileLock(folder / ".lock"):
            self._client = _client(config.uri or local_uri(outputs))
            artifacts = None if config.uri else (folder / "artifacts").as_uri()
            experiment = self._experiment(config.experiment, artifacts)
            self._run = self._find(experiment, logged) or self._begin(experiment, logged)
        done = self._epochs_of(self._run)
        self._log_rows(row for row in logged.history if row["epoch"] not in done)

    def epoch(self, row: Mapping[str, Any]) -> None:
        self._log_rows([row])

    def finish(self, scores: Mapping[str, Any]) -> None:
        self._log(kept(scores), int(scores.get("epoch", 0)))
        self._finished = True

    def close(self) -> None:
        self._client.set_terminated(self._run, "FINISHED" if self._finished else "KILLED")

    def _experiment(self, name: str, artifacts: str | None) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(name, artifact_location=artifacts))

    def _find(self, experiment: str, logged: Logged) -> str | None:
        """The fold's run, unless it holds epochs that the fold is about to train again."""
        clause = f"tags.`{TOKEN}` = '{logged.token()}'"
        done = {int(row["epoch"]) for row in logged.history}
        for run in self._client.search_runs([experiment], clause, order_by=["start_time DESC"]):
            name = str(run.info.run_id)
            if self._epochs_of(name) <= done:
                self._client.update_run(name, status="RUNNING")
                return name
        return None

    def _begin(self, experiment: str, logged: Logged) -> str:
        tags = {
            TOKEN: logged.token(),
            "dr.run": logged.run.name,
            "dr.identity": logged.identity,
            "dr.fold": str(logged.fold),
        }
        run = self._client.create_run(experiment, tags=tags, run_name=logged.name)
        name = str(run.info.run_id)
        self._log_settings(name, logged.settings)
        return name

    def _log_settings(self, run: str, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        for part in batches(settings, PARAMS_A_CALL):
            params = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in part.items()]
            self._client.log_batch(run, params=params)

    def _epochs_of(self, run: str) -> set[int]:
        history = self._client.get_metric_history(run, "learning_rate")
        return {int(metric.step) for metric in history}

    def _log_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            self._log(figures(row), int(row["epoch"]))

    def _log(self, numbers: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in numbers.items()]
        self._client.log_batch(self._run, metrics=metrics)


def _client(uri: str) -> Any:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)
