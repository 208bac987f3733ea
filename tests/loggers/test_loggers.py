import shutil
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dr.config import MLflowConfig
from dr.loggers.base import Logged
from dr.loggers.mlflow import local_uri
from dr.loggers.opening import open_logger

SETTINGS = {"optimizer.name": "adamw", "schedule.max_lr": 0.001, "model.weights": "none"}
Row = dict[str, Any]


def row(epoch: int) -> Row:
    """A row of history.csv whose fold had nothing to score macro AUC on."""
    return {
        "epoch": epoch,
        "learning_rate": 0.1 / epoch,
        "train_loss": 1.5 / epoch,
        "qwk": 0.1 * epoch,
        "macro_auc": None,
        "skipped": 0,
    }


def logged(outputs: Path, *, history: list[Row], **settings: Any) -> Logged:
    folder = outputs / "net_constant_12345678" / "fold-1"
    folder.mkdir(parents=True, exist_ok=True)
    return Logged(
        folder=folder,
        fold=1,
        identity="12345678" * 8,
        settings=SETTINGS | settings,
        history=history,
    )


def log(tool: Any, outputs: Path, *, after: int, to: int, finish: bool = False) -> Path:
    """Log the epochs after `after` up to `to`, as a fold that goes on after `after` of them."""
    fold = logged(outputs, history=[row(epoch) for epoch in range(1, after + 1)])
    with open_logger(tool.config, lambda: fold) as logger:
        for epoch in range(after + 1, to + 1):
            logger.epoch(row(epoch))
        if finish:
            logger.finish({"epoch": to, "qwk": 0.75, "loss": None, "records": 40})
    return fold.run


def expected(epochs: int) -> dict[str, list[tuple[int, float]]]:
    rows = [row(epoch) for epoch in range(1, epochs + 1)]
    names = [name for name, value in row(1).items() if name != "epoch" and value is not None]
    return {name: [(each["epoch"], pytest.approx(each[name])) for each in rows] for name in names}


def test_an_interrupted_fold_goes_on_and_has_each_epoch_once(tool: Any, tmp_path: Path) -> None:
    log(tool, tmp_path / "outputs", after=0, to=2)
    run = log(tool, tmp_path / "outputs", after=2, to=4, finish=True)
    kept = {"kept/epoch": 4, "kept/qwk": 0.75, "kept/records": 40}
    last = {name: [(4, pytest.approx(value))] for name, value in kept.items()}
    assert tool.curves(run, 1) == expected(4) | last
    assert tool.count(run, 1) == 1


def test_epochs_that_a_killed_process_did_not_log_are_logged_later(
    tool: Any, tmp_path: Path
) -> None:
    log(tool, tmp_path / "outputs", after=0, to=1)
    run = log(tool, tmp_path / "outputs", after=3, to=4)
    assert tool.curves(run, 1) == expected(4)


def test_a_fold_that_starts_again_further_back_has_each_epoch_once(
    tool: Any, tmp_path: Path
) -> None:
    log(tool, tmp_path / "outputs", after=0, to=3)
    run = log(tool, tmp_path / "outputs", after=1, to=3)
    assert tool.curves(run, 1) == expected(3)


def test_settings_are_logged_without_credentials(tool: Any, tmp_path: Path) -> None:
    url = "s3://ann:sesame@host/bucket"
    fold = logged(tmp_path / "outputs", history=[], **{"model.weights": url, "augment": ["a|b"]})
    with open_logger(tool.config, lambda: fold) as logger:
        logger.epoch(row(1))
    found = tool.settings(fold.run, 1)
    assert found["model.weights"] == "s3://***@host/bucket"
    assert float(found["schedule.max_lr"]) == 0.001
    files = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"sesame" in path.read_bytes()]


def test_mlflow_tells_a_finished_fold_from_an_interrupted_one(
    tmp_path: Path, mlflow_store: Path
) -> None:
    from mlflow.tracking import MlflowClient

    shutil.copytree(mlflow_store, tmp_path / ".mlflow")
    tool = SimpleNamespace(config=MLflowConfig(experiment="grading"))
    client = MlflowClient(tracking_uri=local_uri(str(tmp_path)))
    for after, finish, status in ((0, False, "KILLED"), (2, True, "FINISHED")):
        log(tool, tmp_path, after=after, to=after + 2, finish=finish)
        experiment = client.get_experiment_by_name("grading")
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.status == status
        assert run.data.tags["dr.identity"] == "12345678" * 8
        assert run.info.run_name == "net_constant_12345678/fold-1"


def test_a_server_that_never_answers_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = MLflowConfig(uri=f"http://ann:sesame@127.0.0.1:{silent.getsockname()[1]}")
        fold = logged(tmp_path, history=[])
        with open_logger(config, lambda: fold) as logger:
            logger.epoch(row(1))
    (warning,) = [
        record.getMessage() for record in caplog.records if record.name == "dr.loggers.base"
    ]
    assert "logger=mlflow: switched off" in warning
    assert "sesame" not in warning
