"""What loggers wrote, by the tools' own readers: metric name -> (step, value) as they lie there."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Curves = dict[str, list[tuple[int, float]]]


def read_tensorboard(run: Path, fold: int) -> Curves:
    """Every scalar event of all event files, those that a reader would purge included."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    curves: Curves = {}
    for path in sorted((run / "tensorboard" / f"fold-{fold}").iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    number = float(tensor_util.make_ndarray(value.tensor))
                    curves.setdefault(value.tag, []).append((event.step, number))
    return curves


def read_mlflow(run: Path, fold: int, *, uri: str | None = None) -> Curves:
    """The metrics of the one MLflow run of a fold."""
    from mlflow.tracking import MlflowClient

    (found,) = mlflow_runs(run, fold, uri=uri)
    client = MlflowClient(tracking_uri=uri or mlflow_uri(run))
    return {
        name: [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, name)]
        for name in found.data.metrics
    }


def mlflow_uri(run: Path) -> str:
    return f"sqlite:///{run.parent}/.mlflow/mlflow.db"


def mlflow_runs(run: Path, fold: int, *, uri: str | None = None) -> list[Any]:
    """All MLflow runs of a fold."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri or mlflow_uri(run))
    experiment = client.get_experiment_by_name("dr")
    clause = f"tags.`dr.run` = '{run.name}' and tags.`dr.fold` = '{fold}'"
    return list(client.search_runs([experiment.experiment_id], clause))


def read_wandb(run: Path, fold: int) -> Curves:
    """The history and summary of the one offline W&B run of a fold."""
    curves: Curves = {}
    for record in wandb_records(run, fold):
        if record.WhichOneof("record_type") == "history":
            step = record.history.step.num
            for item in record.history.item:
                name = item.key or item.nested_key[0]
                if not name.startswith("_"):
                    curves.setdefault(name, []).append((step, json.loads(item.value_json)))
    return curves


def wandb_records(run: Path, fold: int) -> list[Any]:
    """All records of the one offline run of a fold."""
    from wandb.proto import wandb_internal_pb2

    token = json.loads((run / f"fold-{fold}" / "logger.json").read_text())["token"]
    (path,) = (run / "wandb").glob(f"offline-run-*-{token}/run-{token}.wandb")
    records = []
    for data in _leveldb_log(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        records.append(record)
    return records


def _leveldb_log(data: bytes) -> Iterator[bytes]:
    """The records of a `.wandb` file: 7 bytes of head, then LevelDB's log format."""
    place, parts = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""
