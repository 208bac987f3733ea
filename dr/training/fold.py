"""Training one fold: epochs, history, the epoch that is kept, and what a fold leaves behind."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dr.accel.base import Accelerator
from dr.config import GRADES, TrainConfig
from dr.files import write_csv, write_json
from dr.loading.advice import NOTABLE_WAIT, advice
from dr.loading.augmentation import Augmentation
from dr.loading.batches import BatchLoader, Drawing
from dr.loading.pictures import open_pictures
from dr.loading.sampler import Mixture, evaluation_batches, training_batches
from dr.loading.split import Split
from dr.modeling.backbones import build_model, normalisation
from dr.modeling.objectives import build_objective
from dr.progress import JobProgress
from dr.scoring.metrics import SCORES, score_predictions, to_json
from dr.shards.shard_set import ShardSet
from dr.training.checkpoint import (
    CHECKPOINT,
    WEIGHTS,
    load_checkpoint,
    save_checkpoint,
    save_weights,
)
from dr.training.loop import (
    EpochFigures,
    Learner,
    Predictions,
    evaluate,
    loader_drawing,
    normalisation_tensors,
    train_epoch,
)
from dr.training.optimizers import build_optimizer, freeze_backbone
from dr.training.run_folder import PREDICTION_COLUMNS, PREDICTIONS, RunFolder
from dr.training.schedules import learning_rate

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
    "skipped",
    "unscored",
)
TRAINED = "trained.json"
SCORES_FILE = "scores.json"
EPOCHS = "epochs"


@dataclass(frozen=True, kw_only=True)
class FoldJob:
    """All that training a fold needs. `image_size` is the training size in pixels."""

    config: TrainConfig
    shards: ShardSet
    split: Split
    fold: int
    run: RunFolder
    image_size: int
    accelerator: Accelerator
    augmentation: Augmentation
    progress: JobProgress
    mixture: Mixture | None = None

    @property
    def folder(self) -> Path:
        """Where this fold's files lie."""
        return self.run.fold(self.fold)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The label of every record."""
        labels: NDArray[np.int64] = self.shards.table["label"].to_numpy()
        return labels

    @property
    def label_counts(self) -> NDArray[np.int64]:
        """How many of the fold's training records have each grade, int64 `[5]`."""
        return np.bincount(self.labels[self.split.training(self.fold)], minlength=GRADES)

    def plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """The training batches of an epoch, from 0."""
        return training_batches(
            self.split.training(self.fold),
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            epoch=epoch,
            mixture=self.mixture,
        )

    def drawing(self, epoch: int) -> Drawing:
        """What augments an epoch, from 0."""
        return Drawing(augmentation=self.augmentation, seed=self.config.seed, epoch=epoch)

    def labels_of(self, plan: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        """The label of every number in `plan`, those of records drawn again included."""
        times = max(int(batch.max()) for batch in plan) // len(self.shards) + 1
        return np.tile(self.labels, times)

    def evaluation_plan(self) -> list[NDArray[np.int64]]:
        """The batches of the held-out records."""
        held_out = self.split.held_out(self.fold)
        return evaluation_batches(held_out, batch_size=self.config.batch_size)

    @property
    def images_per_epoch(self) -> int:
        """Pictures that pass through the model in one epoch, evaluation included."""
        training = len(self.split.training(self.fold)) // self.config.batch_size
        return training * self.config.batch_size + len(self.split.held_out(self.fold))


def is_trained(run: RunFolder, fold: int) -> bool:
    """Whether all epochs of a fold are done."""
    folder = run.fold(fold)
    return (folder / TRAINED).is_file() or (folder / SCORES_FILE).is_file()


def train_fold(job: FoldJob) -> None:
    """Train a fold's epochs, from its last checkpoint where there is one.

    Leaves history.csv, and with `select=last|best` model.safetensors, predictions.csv and
    scores.json; with `select=cross` these wait for the other folds.
    """
    _seed(job, epoch=0)
    learner = build_learner(
        job.config, job.accelerator, image_size=job.image_size, label_counts=job.label_counts
    )
    history, first = _resume(job, learner)
    job.progress.skip(first * job.images_per_epoch)
    with open_loader(
        job.config, job.shards, image_size=job.image_size, accelerator=job.accelerator
    ) as loader:
        for epoch in range(first, job.config.epochs):
            _seed(job, epoch=epoch)
            row = _run_epoch(job, learner, loader, epoch, history)
            history.append(row)
            _save_state(job, learner, history)
            job.progress.say(_epoch_line(job, row, loader))
    if job.config.select != "cross":
        finish_fold(job.run, job.fold, kept_epoch(history, job.config), history)
    write_json(job.folder / TRAINED, {"epochs": job.config.epochs})


def open_loader(
    config: TrainConfig, shards: ShardSet, *, image_size: int, accelerator: Accelerator
) -> BatchLoader:
    """The loader of the pictures of `shards` at the training size.

    It takes numbers beyond the last record too: a record drawn again (`training_batches`).
    """
    pictures = open_pictures(
        shards, image_size=image_size, config=config.loader, cache=Path(config.cache)
    )
    return BatchLoader(
        image_size=image_size,
        config=config.loader,
        pictures=lambda record, out: pictures(record % len(shards), out),
        allocate=_pinned if accelerator.device.type == "cuda" else None,
    )


def _pinned(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Memory that copies to CUDA don't wait for; torch lends it again when they are done."""
    pinned: NDArray[np.uint8] = torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
    return pinned


def _seed(job: FoldJob, *, epoch: int) -> None:
    key = np.random.SeedSequence((job.config.seed, job.fold, epoch)).generate_state(1)
    torch.manual_seed(int(key[0]))


def build_learner(
    config: TrainConfig,
    accelerator: Accelerator,
    *,
    image_size: int,
    pretrained: bool = True,
    label_counts: NDArray[np.int64] | None = None,
) -> Learner:
    """The model that a fold starts from, and what trains it; `pretrained=False` loads no weights.

    `label_counts` int64 `[5]` of the training records are needed to train with class weights.
    Raises ValueError where the model cannot be built.
    """
    objective = build_objective(config.objective, label_counts=label_counts)
    model = build_model(
        config.model,
        outputs=objective.outputs,
        head=objective.head,
        pretrained=pretrained,
        image_size=image_size,
    )
    model = accelerator.prepare_model(model)
    mean, std = normalisation_tensors(normalisation(config.model), accelerator.device)
    return Learner(
        model=model,
        objective=objective,
        optimizer=build_optimizer(model, config.optimizer),
        clip_norm=config.optimizer.clip_norm,
        accelerator=accelerator,
        mean=mean,
        std=std,
    )


def _resume(job: FoldJob, learner: Learner) -> tuple[list[dict[str, Any]], int]:
    state = load_checkpoint(job.folder)
    if state is None:
        return [], 0
    learner.model.load_state_dict(state["model"])
    learner.optimizer.load_state_dict(state["optimizer"])
    history: list[dict[str, Any]] = json.loads(state["history"])
    job.progress.say(f"fold {job.fold}: going on after epoch {len(history)}")
    return history, len(history)


def _save_state(job: FoldJob, learner: Learner, history: list[dict[str, Any]]) -> None:
    state = {
        "model": learner.model.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "history": json.dumps(history),
    }
    save_checkpoint(job.folder, state)
    write_history(job.folder / "history.csv", history)


def _run_epoch(
    job: FoldJob,
    learner: Learner,
    loader: BatchLoader,
    epoch: int,
    history: list[dict[str, Any]],
) -> dict[str, Any]:
    description = f"fold {job.fold}, epoch {epoch + 1} of {job.config.epochs}"
    done = partial(job.progress.advance, description=description)
    row = _history_row(epoch, _train(job, learner, loader, epoch, done))
    if job.evaluation_plan():
        predictions = _evaluate(job, learner, loader, epoch, done)
        row["unscored"] = len(job.split.held_out(job.fold)) - len(predictions.records)
        row |= _scores(job, predictions)
        _keep(job, learner, row, history, predictions)
    elif epoch + 1 == job.config.epochs:
        save_weights(job.folder / WEIGHTS, learner.model)
    return row


def _train(
    job: FoldJob, learner: Learner, loader: BatchLoader, epoch: int, done: Callable[[int], None]
) -> EpochFigures:
    plan = job.plan(epoch)
    if job.config.optimizer.freeze_epochs:
        freeze_backbone(learner.model, frozen=epoch < job.config.optimizer.freeze_epochs)
    if job.evaluation_plan():
        loader.announce(job.evaluation_plan())

    def rate(step: int) -> float:
        return learning_rate(
            job.config.schedule,
            step=epoch * len(plan) + step,
            steps_per_epoch=len(plan),
            epochs=job.config.epochs,
        )

    return train_epoch(
        learner,
        loader,
        plan=plan,
        labels=job.labels_of(plan),
        drawing=job.drawing(epoch),
        learning_rate=rate,
        done=done,
    )


def _evaluate(
    job: FoldJob, learner: Learner, loader: BatchLoader, epoch: int, done: Callable[[int], None]
) -> Predictions:
    if epoch + 1 < job.config.epochs:
        loader.announce(job.plan(epoch + 1), loader_drawing(job.drawing(epoch + 1)))
    plan = job.evaluation_plan()
    return evaluate(learner, loader, plan=plan, labels=job.labels, done=done)


def _history_row(epoch: int, figures: EpochFigures) -> dict[str, Any]:
    return {
        "epoch": epoch + 1,
        "learning_rate": figures.learning_rate,
        "train_loss": figures.loss,
        "seconds": round(figures.seconds, 3),
        "images_per_second": round(figures.images / figures.seconds, 2),
        "data_wait": round(figures.data_wait, 4),
        "skipped": figures.skipped,
        "unscored": 0,
        **dict.fromkeys(SCORES),
    }


def _scores(job: FoldJob, predictions: Predictions) -> dict[str, float | None]:
    return to_json(
        score_predictions(
            labels=job.labels[predictions.records],
            probabilities=predictions.probabilities,
            losses=predictions.losses,
        )
    )


def _keep(
    job: FoldJob,
    learner: Learner,
    row: dict[str, Any],
    history: list[dict[str, Any]],
    predictions: Predictions,
) -> None:
    """Save the weights and predictions that a later choice of epoch may want."""
    if job.config.select == "cross":
        folder = job.folder / EPOCHS / f"{row['epoch']:04d}"
        folder.mkdir(parents=True, exist_ok=True)
    elif kept_epoch([*history, row], job.config) == row["epoch"]:
        folder = job.folder
        if job.config.select == "last" and row["epoch"] < job.config.epochs:
            return
    else:
        return
    save_weights(folder / WEIGHTS, learner.model)
    write_predictions(folder / PREDICTIONS, job.shards, fold=job.fold, predictions=predictions)


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


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """Write `history.csv`, a row an epoch."""
    write_csv(path, HISTORY_COLUMNS, history)


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The rows of a fold's `history.csv`, numbers as numbers, None where empty."""
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: None if text == "" else float(text) for key, text in row.items()} for row in rows]


def finish_fold(run: RunFolder, fold: int, epoch: int, history: list[dict[str, Any]]) -> None:
    """Write a fold's scores at the kept epoch and drop what only an unfinished fold needs."""
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
    known = {"epoch": epoch, "records": records, "skipped": skipped}
    write_json(folder / SCORES_FILE, {**scores, **known})
    (folder / CHECKPOINT).unlink(missing_ok=True)
    shutil.rmtree(folder / EPOCHS, ignore_errors=True)


def _epoch_line(job: FoldJob, row: dict[str, Any], loader: BatchLoader) -> str:
    head = f"fold {job.fold} epoch {row['epoch']}/{job.config.epochs}"
    line = f"{head}: train loss {row['train_loss']:.4f}"
    if row["loss"] is not None:
        qwk = "undefined" if row["qwk"] is None else f"{row['qwk']:.4f}"
        line += f", loss {row['loss']:.4f}, qwk {qwk}, accuracy {row['accuracy']:.4f}"
    line += f" | lr {row['learning_rate']:.3g}, {row['images_per_second']:.0f} images/s"
    line += f", {row['data_wait']:.0%} waiting for data{_advice(job, row, loader)}"
    left_out = row["skipped"] + row["unscored"]
    if left_out:
        line += f", {left_out} unreadable records left out ({row['unscored']} of them unscored)"
    return f"{line}, {job.progress.left()}"


def _advice(job: FoldJob, row: dict[str, Any], loader: BatchLoader) -> str:
    if row["data_wait"] <= NOTABLE_WAIT:
        return ""
    changes = advice(
        job.config.loader,
        loader.resources,
        image_size=job.image_size,
        shard_size=job.shards.image_size,
        transforms=0 if job.augmentation.on_device else len(job.config.augment.transforms),
    )
    return f" (try {changes})"
