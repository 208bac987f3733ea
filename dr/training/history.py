"""The figures of a fold's epochs, and which epoch they say is kept."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from dr.config import TrainConfig
from dr.files import write_csv
from dr.scoring.metrics import SCORES
from dr.training.loop import EpochFigures

HISTORY_COLUMNS = (
    "epoch",
    "learning_rate",
    "train_loss",
    "loss",
    "qwk",
    "accuracy",
    "macro_auc",
    "sensitivity",
    "specificity",
    "seconds",
    "images_per_second",
    "data_wait",
    "evaluation_seconds",
    "skipped",
    "not_finite",
    "unscored",
)
TIMINGS = ("seconds", "images_per_second", "data_wait", "evaluation_seconds")
"""The columns that differ where the same training is run again."""


def history_row(epoch: int, figures: EpochFigures) -> dict[str, Any]:
    """The row of an epoch (from 0) whose evaluation is still to come."""
    return {
        "epoch": epoch + 1,
        "learning_rate": figures.learning_rate,
        "train_loss": figures.loss,
        "seconds": round(figures.seconds, 3),
        "images_per_second": round(figures.images / figures.seconds, 2),
        "data_wait": round(figures.data_wait, 4),
        "evaluation_seconds": 0.0,
        "skipped": figures.skipped,
        "not_finite": figures.not_finite,
        "unscored": 0,
        **dict.fromkeys(SCORES),
    }


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """Write `history.csv`, a row an epoch."""
    write_csv(path, HISTORY_COLUMNS, history)


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The rows of a fold's `history.csv`, numbers as numbers, None where empty."""
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: None if text == "" else float(text) for key, text in row.items()} for row in rows]


def kept_epoch(history: list[dict[str, Any]], config: TrainConfig) -> int:
    """The epoch (from 1) that `select=last` or `select=best` keeps, the earliest of equals."""
    if config.select == "last" or history[0]["loss"] is None:
        return len(history)
    return best_epoch([_merit(row, config) for row in history])


def _merit(row: dict[str, Any], config: TrainConfig) -> float:
    value = row[config.select_metric or "qwk"]
    if value is None:
        return float("-inf")
    return -float(value) if config.select_metric == "loss" else float(value)


def merits(history: list[dict[str, Any]], config: TrainConfig) -> list[float]:
    """How good each epoch of a fold was, by `select_metric`; larger is better."""
    return [_merit(row, config) for row in history]


def best_epoch(curve: list[float]) -> int:
    """The epoch (from 1) of the largest value, the earliest of equals."""
    return int(np.argmax(curve)) + 1
