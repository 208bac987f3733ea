"""What the loggers are told of a fold."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dr.config import TrainConfig
from dr.loggers.base import Logged, Logger
from dr.loggers.opening import open_logger
from dr.training.identity import scientific_settings
from dr.training.run_folder import RunFolder


def fold_logger(
    config: TrainConfig, run: RunFolder, fold: int, history: Sequence[Mapping[str, Any]]
) -> Logger:
    """The logger of a fold, which has the rows of `history` when it is open; it never raises."""

    def describe() -> Logged:
        return Logged(
            folder=run.fold(fold),
            fold=fold,
            identity=run.identity,
            settings=scientific_settings(config) | _in_force(run),
            history=tuple(history),
        )

    return open_logger(config.logger, describe)


def _in_force(run: RunFolder) -> dict[str, Any]:
    """Settings as they are in force where the config may leave them to the machine or the data."""
    environment = json.loads((run.path / "environment.json").read_text())
    data = run.result()["data"]
    return {
        "data": data["name"],
        "data.digest": data["digest"],
        "image_size": data["image_size"],
        "accel.precision": environment["precision"],
        "accel.channels_last": environment["channels_last"],
        "device": environment["device"],
    }
