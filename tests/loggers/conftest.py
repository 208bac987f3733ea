"""What loggers wrote, by the tools' own readers."""

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dr.config import LoggerConfig, MLflowConfig, TensorBoardConfig, WandbConfig
from dr.loggers.mlflow import local_uri

Curves = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A logger, and how a fold's curves and settings are read back.

    `curves(run, fold)`: metric -> (step, value) as they lie there, repetitions included;
    `count(run, fold)`: how many runs of its own the tool has for a fold.
    """

    config: LoggerConfig
    curves: Callable[[Path, int], Curves]
    settings: Callable[[Path, int], dict[str, str]]
    count: Callable[[Path, int], int]


def tensorboard_events(run: Path, fold: int) -> Iterator[Any]:
    """Every event of all event files, those that a reader would purge included."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    for path in sorted((run / "tensorboard" / f"fold-{fold}").iterdir()):
        yield from EventFileLoader(str(path)).Load()


def tensorboard_curves(run: Path, fold: int) -> Curves:
    from tensorboard.util import tensor_util

    curves: Curves = {}
    for event in tensorboard_events(run, fold):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "scalars":
                number = float(tensor_util.make_ndarray(value.tensor))
                curves.setdefault(value.tag, []).append((event.step, number))
    return curves


def tensorboard_settings(run: Path, fold: int) -> dict[str, str]:
    values = [value for event in tensorboard_events(run, fold) for value in event.summary.value]
    (text,) = [value for value in values if value.tag.startswith("settings")]
    lines = text.tensor.string_val[0].decode().splitlines()[2:]
    cells = [line.strip("| ").split(" | ") for line in lines]
    return {key: value for key, value in cells}


def mlflow_runs(run: Path, fold: int) -> list[Any]:
    """The MLflow runs of a fold in the local store, the newest first."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=local_uri(str(run.parent)))
    experiment = client.get_experiment_by_name("dr")
    clause = f"tags.`dr.run` = '{run.name}' and tags.`dr.fold` = '{fold}'"
    found = client.search_runs(
        [experiment.experiment_id], clause, order_by=["attributes.start_time DESC"]
    )
    return list(found)


def mlflow_curves(run: Path, fold: int) -> Curves:
    from mlflow.tracking import MlflowClient

    newest = mlflow_runs(run, fold)[0]
    client = MlflowClient(tracking_uri=local_uri(str(run.parent)))
    return {
        name: [(m.step, m.value) for m in client.get_metric_history(newest.info.run_id, name)]
        for name in newest.data.metrics
    }


def mlflow_settings(run: Path, fold: int) -> dict[str, str]:
    return dict(mlflow_runs(run, fold)[0].data.params)


def wandb_files(run: Path, fold: int) -> list[Path]:
    token = json.loads((run / f"fold-{fold}" / "logger.json").read_text())["token"]
    return list((run / "wandb").glob(f"offline-run-*-{token}/run-{token}.wandb"))


def wandb_records(run: Path, fold: int) -> list[Any]:
    """All records of the one offline run of a fold."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # its writing process has written everything when it has ended
    (path,) = wandb_files(run, fold)
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


def _wandb_items(items: Any) -> dict[str, Any]:
    named = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
    return {name: value for name, value in named.items() if not name.startswith("_")}


def wandb_curves(run: Path, fold: int) -> Curves:
    """The history, and what the summary has beside its last values."""
    curves: Curves = {}
    summary: dict[str, Any] = {}
    for record in wandb_records(run, fold):
        for name, value in _wandb_items(record.history.item).items():
            curves.setdefault(name, []).append((record.history.step.num, value))
        summary |= _wandb_items(record.summary.update)
    step = int(summary.get("kept/epoch", 0))
    kept = {name: value for name, value in summary.items() if name not in curves}
    return curves | {name: [(step, value)] for name, value in kept.items()}


def wandb_settings(run: Path, fold: int) -> dict[str, str]:
    found: dict[str, Any] = {}
    for record in wandb_records(run, fold):
        found |= _wandb_items(record.run.config.update) | _wandb_items(record.config.update)
    return {key: str(value) for key, value in found.items()}


TOOLS = {
    "tensorboard": Tool(
        config=TensorBoardConfig(),
        curves=tensorboard_curves,
        settings=tensorboard_settings,
        count=lambda run, fold: len(list((run / "tensorboard" / f"fold-{fold}").iterdir())),
    ),
    "mlflow": Tool(
        config=MLflowConfig(),
        curves=mlflow_curves,
        settings=mlflow_settings,
        count=lambda run, fold: len(mlflow_runs(run, fold)),
    ),
    "wandb": Tool(
        config=WandbConfig(),
        curves=wandb_curves,
        settings=wandb_settings,
        count=lambda run, fold: len(wandb_files(run, fold)),
    ),
}


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store with nothing in it but tables, which take seconds to make."""
    pytest.importorskip("mlflow")
    from dr.loggers.mlflow import _client

    outputs = tmp_path_factory.mktemp("store")
    (outputs / ".mlflow").mkdir()
    _client(local_uri(str(outputs))).search_experiments()
    return outputs / ".mlflow"


@pytest.fixture(params=TOOLS)
def tool(request: pytest.FixtureRequest, tmp_path: Path) -> Tool:
    """Each logger, with `tmp_path / "outputs"` for its runs."""
    pytest.importorskip(request.param)
    if request.param == "mlflow":
        store = request.getfixturevalue("mlflow_store")
        shutil.copytree(store, tmp_path / "outputs" / ".mlflow")
    return TOOLS[request.param]
