"""Trainings that log: what the tools have is what history.csv has, however a training went."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from dr.checks import check_train
from dr.config import TensorBoardConfig, TrainConfig
from dr.loggers import opening
from dr.loggers.base import Logger
from dr.training.cross_validation import cross_validate
from dr.training.history import TIMINGS, read_history

Make = Callable[..., TrainConfig]
LostIn = Callable[[int], AbstractContextManager[None]]


def expected(run: Path, fold: int) -> dict[str, list[tuple[int, Any]]]:
    """The curves that `history.csv` of a fold has; those without a value are left out."""
    rows = read_history(run / f"fold-{fold}")
    return {
        name: [
            (int(row["epoch"]), pytest.approx(row[name], rel=1e-6))
            for row in rows
            if row[name] is not None
        ]
        for name in rows[0]
        if name != "epoch" and any(row[name] is not None for row in rows)
    }


def without(curves: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: curve for name, curve in curves.items() if name not in names}


def history_of(curves: Mapping[str, Any]) -> dict[str, Any]:
    return {name: curve for name, curve in curves.items() if not name.startswith("kept/")}


def test_a_training_logs_its_history_and_its_scores(tiny_config: Make, tool: Any) -> None:
    outcome = cross_validate(tiny_config(f"logger={tool.config.name}", "folds=2"))
    assert outcome is not None
    for fold, scores in outcome.result["folds"].items():
        curves = tool.curves(outcome.folder, int(fold))
        assert history_of(curves) == expected(outcome.folder, int(fold))
        assert curves["kept/qwk"] == [(2, pytest.approx(scores["qwk"], rel=1e-6))]
        settings = tool.settings(outcome.folder, int(fold))
        assert settings["image_size"] == "32"
        assert settings["accel.precision"] == "float32"
        assert settings["schedule.max_lr"] == "0.01"


def test_an_interrupted_training_has_each_epoch_once(
    tiny_config: Make, interrupted_in_epoch: LostIn, tool: Any
) -> None:
    config = tiny_config(f"logger={tool.config.name}", "fold=1", "epochs=3")
    with interrupted_in_epoch(2):
        cross_validate(config)
    (run,) = Path(config.outputs).glob("test_*")
    assert len(tool.curves(run, 1)["train_loss"]) == 2
    cross_validate(config)
    assert history_of(tool.curves(run, 1)) == expected(run, 1)
    assert tool.count(run, 1) == 1


def test_the_epoch_that_select_cross_keeps_is_logged(tiny_config: Make, tool: Any) -> None:
    outcome = cross_validate(tiny_config(f"logger={tool.config.name}", "select=cross"))
    assert outcome is not None
    for fold, scores in outcome.result["folds"].items():
        curves = tool.curves(outcome.folder, int(fold))
        assert history_of(curves) == expected(outcome.folder, int(fold))
        assert curves["kept/epoch"] == [(scores["epoch"], scores["epoch"])]
        assert tool.count(outcome.folder, int(fold)) == 1


class Failing(Logger):
    """Fails at the call named `at`."""

    def __init__(self, at: str) -> None:
        self.at = at
        self._call("open")

    def _call(self, name: str) -> None:
        if name == self.at:
            raise OSError("the disk of the logs is full")

    def epoch(self, row: Mapping[str, Any]) -> None:
        self._call("epoch")

    def finish(self, scores: Mapping[str, Any]) -> None:
        self._call("finish")

    def close(self) -> None:
        self._call("close")


@pytest.mark.parametrize("at", ["open", "epoch", "finish", "close"])
def test_a_failing_logger_ends_no_training_and_changes_nothing(
    tiny_config: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    at: str,
) -> None:
    pytest.importorskip("tensorboard")
    silent = cross_validate(tiny_config("fold=0", f"outputs={tmp_path / 'silent'}"))
    monkeypatch.setitem(opening._OPENERS, TensorBoardConfig, lambda config, logged: Failing(at))
    logged = cross_validate(tiny_config("fold=0", "logger=tensorboard"))
    assert silent is not None and logged is not None
    assert logged.folder.name == silent.folder.name
    assert logged.result == silent.result
    weights = [each.folder / "fold-0" / "model.safetensors" for each in (silent, logged)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    kept = [
        [without(row, TIMINGS) for row in read_history(each.folder / "fold-0")]
        for each in (silent, logged)
    ]
    assert kept[0] == kept[1]
    (warning,) = [each for each in caplog.records if each.name == "dr.loggers.base"]
    assert "the disk of the logs is full" in warning.getMessage()


def test_no_logger_leaves_nothing(tiny_config: Make) -> None:
    outcome = cross_validate(tiny_config("fold=0"))
    assert outcome is not None
    names = {path.name for path in outcome.folder.iterdir()}
    assert not names & {"tensorboard", "wandb"}
    assert not (outcome.folder / "fold-0" / "logger.json").exists()
    assert not (outcome.folder.parent / ".mlflow").exists()


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("tensorboard", "tensorboard"),
        ("mlflow", "mlflow"),
        ("wandb", "wandb"),
        ("mlflow", "alembic"),
    ],
)
def test_a_logger_whose_package_is_missing_is_refused(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda asked: None if asked == package else asked)
    (problem,) = check_train(tiny_config(f"logger={name}"))
    assert problem.key == "logger"
    assert package in problem.fix
    assert "pip install 'dr[loggers]'" in problem.fix


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (["logger=wandb", "logger.mode=cloud"], "logger.mode"),
        (["logger=wandb", "logger.project=''"], "logger.project"),
        (["logger=mlflow", "logger.experiment=''"], "logger.experiment"),
        (["logger=mlflow", "outputs=runs/100%"], "outputs"),
    ],
)
def test_settings_that_no_logger_takes_are_refused(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch, changes: list[str], key: str
) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda asked: asked)
    assert [problem.key for problem in check_train(tiny_config(*changes))] == [key]
