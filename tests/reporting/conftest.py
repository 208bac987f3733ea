"""Run folders as a training leaves them, with made-up predictions scored for real."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dr.scoring.metrics import SCORES, score_predictions, summarize, to_json

SPEED = ("seconds", "images_per_second", "data_wait")
VALIDATION = ("loss", "qwk", "accuracy", "macro_auc", "sensitivity", "specificity")
HISTORY = ("epoch", "learning_rate", "train_loss", *VALIDATION, *SPEED)


def resolved_config(**changes: Any) -> dict[str, Any]:
    """A resolved config; `changes` have dots written as two underscores."""
    config: dict[str, Any] = {
        "data": {"kind": "table", "images": "/photos", "labels": "/photos/labels.csv"},
        "preparation": {"decode": "scaled"},
        "loader": {"threads": None, "prefetch": 4},
        "augment": {"transforms": [{"name": "HorizontalFlip", "p": 0.5}]},
        "model": {"name": "tf_efficientnet_lite0", "drop_rate": 0.0},
        "objective": {"name": "cross_entropy"},
        "optimizer": {"name": "adam", "weight_decay": 0.0, "betas": [0.9, 0.999]},
        "schedule": {"name": "ramp_decay", "max_lr": 0.001, "decay": 0.8, "ramp_epochs": None},
        "accel": {"name": "cpu", "precision": "float32", "threads": 2},
        "epochs": 6,
        "folds": 5,
        "fold": "all",
        "fold_column": None,
        "seed": 0,
        "select": "last",
        "outputs": "outputs",
    }
    for key, value in changes.items():
        *groups, last = key.split("__")
        inner = config
        for group in groups:
            inner = inner[group]
        inner[last] = value
    return config


def draw_predictions(rng: np.random.Generator, skill: float) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.choice(5, size=120, p=[0.5, 0.15, 0.2, 0.1, 0.05])
    logits = rng.normal(size=(120, 5)) - skill * np.abs(labels[:, None] - np.arange(5))
    chances = np.exp(logits)
    return labels, chances / chances.sum(axis=1, keepdims=True)


def score(labels: np.ndarray, chances: np.ndarray) -> dict[str, float]:
    losses = -np.log(chances[np.arange(len(labels)), labels])
    return score_predictions(labels=labels, probabilities=chances, losses=losses)


def write_history(folder: Path, rng: np.random.Generator, *, epochs: int, validated: bool) -> None:
    folder.mkdir()
    with (folder / "history.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HISTORY)
        for epoch in range(1, epochs + 1):
            rate = 1e-3 * min(epoch / 2, 0.8 ** max(0, epoch - 2))
            train = 0.45 + 0.9 * 0.75**epoch + rng.normal(scale=0.01)
            scores = []
            if validated:
                loss = 0.7 + 0.6 * 0.7**epoch + 0.008 * epoch + rng.normal(scale=0.02)
                qwk = 0.72 - 0.6 * 0.7**epoch + rng.normal(scale=0.02)
                scores = [loss, qwk, 0.5 + qwk / 3, 0.5 + qwk / 2, 0.8, 0.9]
            writer.writerow([epoch, rate, train, *(scores or [""] * 6), 61.2, 20.4, 0.03])


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Make `outputs/<name>` with the folds given; `changes` go into its config."""

    def make(
        name: str,
        *,
        done: int = 5,
        skill: float = 1.0,
        data: str = "sha256:0a1b2c3d4e5f",
        partition: int = 0,
        changes: dict[str, Any] | None = None,
        result: dict[str, Any] | None = None,
    ) -> Path:
        run = tmp_path / "outputs" / name
        run.mkdir(parents=True)
        config = resolved_config(**(changes or {}))
        (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        (run / "environment.json").write_text("{}", encoding="utf-8")
        folds = config["folds"]
        rows = [f"{p}_left,{p},{p % 5},{(p + partition * (p % 3)) % folds}" for p in range(40)]
        lines = ["name,patient,label,fold", *rows]
        (run / "folds.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        rng = np.random.default_rng(partition)
        predictions = {fold: draw_predictions(rng, skill) for fold in range(done)}
        scores = {fold: score(*both) for fold, both in predictions.items()}
        for fold in range(done):
            write_history(run / f"fold-{fold}", rng, epochs=config["epochs"], validated=folds > 1)
        if folds == 1:
            scores = dict.fromkeys(scores, dict.fromkeys(SCORES, math.nan))
        complete = done == folds
        mean, sd = summarize(scores) if scores else ({}, {})
        pooled = None
        if complete and folds > 1:
            together = score(*map(np.concatenate, zip(*predictions.values(), strict=True)))
            pooled = to_json(together | {"records": 120 * folds})
        document = {
            "schema_version": 1,
            "complete": complete,
            "optimistic": config["select"] == "best",
            "identity": name,
            "data": {"name": "eyepacs", "digest": data, "records": 600, "patients": 300},
            "planned_folds": list(range(folds)),
            "folds": {
                str(fold): to_json(own | {"epoch": config["epochs"], "records": 120})
                for fold, own in scores.items()
            },
            "mean": to_json(mean),
            "sd": to_json(sd),
            "pooled": pooled,
        }
        (run / "result.json").write_text(json.dumps(document | (result or {})), encoding="utf-8")
        return run

    return make
