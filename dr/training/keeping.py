"""What an epoch and a finished fold leave behind: weights, predictions, scores."""

import shutil
from pathlib import Path
from typing import Any

from torch import nn

from dr.config import TrainConfig
from dr.files import write_csv, write_json
from dr.modeling.backbones import build_model
from dr.modeling.objectives import build_objective
from dr.scoring.metrics import SCORES
from dr.shards.shard_set import ShardSet
from dr.training.checkpoint import WEIGHTS, drop_checkpoints, load_weights_file, save_weights
from dr.training.history import kept_epoch
from dr.training.job import FoldJob
from dr.training.loop import Predictions
from dr.training.run_folder import PREDICTION_COLUMNS, PREDICTIONS, RunFolder

TRAINED = "trained.json"
"""Says with `select=cross` that all epochs are done and the scores wait for the other folds."""
SCORES_FILE = "scores.json"
EPOCHS = "epochs"


def is_trained(run: RunFolder, fold: int) -> bool:
    """Whether all epochs of a fold are done."""
    folder = run.fold(fold)
    return (folder / TRAINED).is_file() or (folder / SCORES_FILE).is_file()


def keep_epoch(
    job: FoldJob,
    model: nn.Module,
    history: list[dict[str, Any]],
    predictions: Predictions | None,
) -> None:
    """Save the weights and predictions of the last epoch of `history` that may be kept later.

    `predictions` are None where no record is held out.
    """
    epoch = history[-1]["epoch"]
    folder = job.folder
    if job.config.select == "cross":
        folder = job.folder / EPOCHS / f"{epoch:04d}"
        folder.mkdir(parents=True, exist_ok=True)
    elif not _may_be_kept(job, history):
        return
    save_weights(folder / WEIGHTS, model)
    if predictions is not None:
        write_predictions(folder / PREDICTIONS, job.shards, fold=job.fold, predictions=predictions)


def load_kept_model(path: Path, config: TrainConfig, *, image_size: int) -> nn.Module:
    """The network that a fold of `config` kept at `path`, on the CPU.

    Raises ValueError where the file does not fit it.
    """
    objective = build_objective(config.objective)
    model = build_model(
        config.model,
        outputs=objective.outputs,
        head=objective.head,
        pretrained=False,
        image_size=image_size,
    )
    load_weights_file(path, model)
    return model


def _may_be_kept(job: FoldJob, history: list[dict[str, Any]]) -> bool:
    if history[-1]["loss"] is None or job.config.select == "last":
        return len(history) == job.config.epochs
    return kept_epoch(history, job.config) == len(history)


def write_predictions(path: Path, shards: ShardSet, *, fold: int, predictions: Predictions) -> None:
    """Write a fold's predictions of records of `shards` as CSV."""
    table = shards.table.iloc[predictions.records]
    rows = []
    for place, (name, patient, label) in enumerate(
        zip(table["name"], table["patient"], table["label"], strict=True)
    ):
        chances = predictions.probabilities[place]
        rows.append(
            {"name": name, "patient": patient, "fold": fold, "label": label}
            | {"score": f"{predictions.scores[place]:.7g}"}
            | {f"p{grade}": f"{chance:.7g}" for grade, chance in enumerate(chances)}
        )
    write_csv(path, PREDICTION_COLUMNS, rows)


def finish_fold(
    run: RunFolder, fold: int, epoch: int, history: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write a fold's scores at the kept epoch, which are returned.

    What only an unfinished fold needs is dropped.
    """
    folder = run.fold(fold)
    kept = folder / EPOCHS / f"{epoch:04d}"
    for name in (PREDICTIONS, WEIGHTS):
        if (kept / name).is_file():
            (kept / name).replace(folder / name)
    row = history[epoch - 1]
    predictions = folder / PREDICTIONS
    records = len(predictions.read_text().splitlines()) - 1 if predictions.is_file() else 0
    scores = {name: row[name] for name in SCORES}
    skipped = int(row.get("unscored") or 0)
    scores |= {"epoch": epoch, "records": records, "skipped": skipped}
    write_json(folder / SCORES_FILE, scores)
    tidy_fold(run, fold)
    return scores


def tidy_fold(run: RunFolder, fold: int) -> None:
    """Drop what only an unfinished fold needs, where the fold has its scores."""
    folder = run.fold(fold)
    if (folder / SCORES_FILE).is_file():
        drop_checkpoints(folder)
        shutil.rmtree(folder / EPOCHS, ignore_errors=True)
