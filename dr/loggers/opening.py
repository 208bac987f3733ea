"""Loggers by name."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dr.config import LoggerConfig, MLflowConfig, TensorBoardConfig, WandbConfig
from dr.files import write_json
from dr.loggers.base import GuardedLogger, Logged, Logger, NoLogger
from dr.urls import mask_values

TOKEN_FILE = "logger.json"
PACKAGES: Mapping[type[LoggerConfig], tuple[str, ...]] = {
    LoggerConfig: (),
    TensorBoardConfig: ("tensorboard",),
    MLflowConfig: ("mlflow", "sqlalchemy", "alembic"),
    WandbConfig: ("wandb",),
}
"""What each logger imports."""


def missing_packages(config: LoggerConfig) -> list[str]:
    """What the logger needs and is not installed."""
    return [name for name in PACKAGES[type(config)] if find_spec(name) is None]


def open_logger(
    config: LoggerConfig,
    *,
    run: Path,
    fold: int,
    identity: str,
    settings: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
) -> Logger:
    """The logger of a fold; it never raises, and never keeps a training waiting for long.

    Args:
        config: which one, and its settings.
        run: the run's folder, in `outputs`; the fold's lies in it.
        fold: the number of the fold.
        identity: what the run is known by.
        settings: what the run was made with, by dotted keys; credentials in URLs are masked.
        history: rows of history.csv, those of the epochs that are done already.
    """
    if type(config) is LoggerConfig:
        return NoLogger()

    def opening() -> Logger:
        logged = Logged(
            run=run.resolve(),
            fold=fold,
            identity=identity,
            token=_token(run / f"fold-{fold}"),
            settings=mask_values(dict(settings)),
            history=history,
        )
        return _OPENERS[type(config)](config, logged)

    return GuardedLogger(config.name, opening)


def _token(folder: Path) -> str:
    """What tells a fold's training from all others, also after an interruption."""
    path = folder / TOKEN_FILE
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {"token": uuid.uuid4().hex[:16]})
    return str(json.loads(path.read_text())["token"])


def _tensorboard(config: LoggerConfig, logged: Logged) -> Logger:
    from dr.loggers.tensorboard import TensorBoardLogger

    return TensorBoardLogger(logged)


def _mlflow(config: LoggerConfig, logged: Logged) -> Logger:
    from dr.loggers.mlflow import MLflowLogger

    assert isinstance(config, MLflowConfig)
    return MLflowLogger(config, logged, outputs=str(logged.run.parent))


def _wandb(config: LoggerConfig, logged: Logged) -> Logger:
    from dr.loggers.wandb import WandbLogger

    assert isinstance(config, WandbConfig)
    return WandbLogger(config, logged)


_OPENERS: Mapping[type[LoggerConfig], Callable[[LoggerConfig, Logged], Logger]] = {
    TensorBoardConfig: _tensorboard,
    MLflowConfig: _mlflow,
    WandbConfig: _wandb,
}
