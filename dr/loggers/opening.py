"""Loggers by name."""

import dataclasses
from collections.abc import Callable, Mapping
from importlib.util import find_spec

from dr.config import LoggerConfig, MLflowConfig, TensorBoardConfig, WandbConfig
from dr.loggers.base import GuardedLogger, Logged, Logger, NoLogger
from dr.urls import mask_values

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


def open_logger(config: LoggerConfig, describe: Callable[[], Logged]) -> Logger:
    """The logger of the fold that `describe` tells of; credentials in URLs are masked.

    It never raises, and never keeps a training waiting for long: what fails, `describe` included,
    is warned about and switched off.
    """
    if type(config) is LoggerConfig:
        return NoLogger()

    def opening() -> Logger:
        logged = describe()
        logged = dataclasses.replace(
            logged, folder=logged.folder.resolve(), settings=mask_values(dict(logged.settings))
        )
        return _OPENERS[type(config)](config, logged)

    return GuardedLogger(config.name, opening)


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
