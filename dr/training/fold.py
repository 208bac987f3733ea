"""Training one fold: epoch after epoch, from wherever it was interrupted."""

import json
import logging
import time
from functools import partial
from typing import Any

from dr.files import write_json
from dr.loading.advice import NOTABLE_WAIT
from dr.loading.batches import BatchLoader
from dr.loggers.base import Logger, NoLogger
from dr.scoring.metrics import score_predictions, to_json
from dr.training.checkpoint import load_checkpoint, save_checkpoint
from dr.training.control import FoldControl
from dr.training.history import history_row, kept_epoch, write_history
from dr.training.interruption import Stopper
from dr.training.job import FoldJob, loader_advice, open_loader
from dr.training.keeping import TRAINED, finish_fold, keep_epoch
from dr.training.learner import Learner
from dr.training.logged import fold_logger
from dr.training.loop import (
    EpochFigures,
    Predictions,
    evaluate,
    loader_drawing,
    shares,
    train_epoch,
)
from dr.training.resuming import go_on_with, settings_in_force
from dr.training.schedules import learning_rate
from dr.training.starting import start_learner
from dr.training.state import FoldState, pack_state, unpack_state

_log = logging.getLogger(__name__)


def train_fold(job: FoldJob, stopper: Stopper) -> None:
    """Train a fold's epochs, from its last checkpoint where there is one.

    Leaves history.csv, and with `select=last|best` model.safetensors, predictions.csv and
    scores.json; with `select=cross` these wait for the other folds. Raises Interrupted, all saved,
    where `stopper` says so.
    """
    with job.timings.of("building"):
        fold = _begin(job, stopper)
    with _logger(job, fold.state) as logger:
        with open_loader(
            job.config,
            job.shards,
            image_size=job.image_size,
            accelerator=job.accelerator,
            other_sizes=job.growth.sizes,
        ) as loader:
            while fold.state.epoch < job.config.epochs:
                _run_epoch(fold, loader)
                logger.epoch(fold.state.history[-1])
        if job.accelerator.is_first:
            logger.finish(_finish(job, fold.state))


def _logger(job: FoldJob, state: FoldState) -> Logger:
    if not job.accelerator.is_first:
        return NoLogger()
    return fold_logger(job.config, job.run, job.fold, state.history)


class _Fold:
    """A fold under way: its job, what learns, how far it is, and what watches over it."""

    def __init__(self, job: FoldJob, learner: Learner, state: FoldState, stopper: Stopper) -> None:
        self.job, self.learner, self.state = job, learner, state
        self.control = FoldControl(job, state, stopper, save=self.save)

    def save(self) -> None:
        """Write a checkpoint; the first rank's part alone."""
        if not self.job.accelerator.is_first:
            return
        with self.job.timings.of("saving"):
            packed = pack_state(self.state, self.learner)
            settings = json.dumps(_settings(self.job, self.learner))
            save_checkpoint(self.job.folder, {**packed, "settings": settings})


def _begin(job: FoldJob, stopper: Stopper) -> _Fold:
    packed = load_checkpoint(job.folder, which=job.config.resume_from)
    stored = {} if packed is None else json.loads(packed["settings"])
    learner = start_learner(job, accumulate=stored.get("accumulate", 1))
    state = FoldState()
    if packed is not None:
        _take_settings(job, learner, stored)
        state = unpack_state(packed, learner)
        where = f"epoch {state.epoch + 1}, step {state.tally.step}"
        job.progress.say(f"fold {job.fold}: going on at {where}")
    job.progress.skip(state.epoch * job.images_per_epoch + state.tally.images)
    return _Fold(job, learner, state, stopper)


def _settings(job: FoldJob, learner: Learner) -> dict[str, Any]:
    return settings_in_force(job.accelerator, job.config, accumulate=learner.accumulate)


def _take_settings(job: FoldJob, learner: Learner, stored: dict[str, Any]) -> None:
    """Go on with the settings of a checkpoint, or say what is another now."""
    lines = go_on_with(stored, _settings(job, learner))
    if lines and job.accelerator.is_first:
        _log.warning(
            "fold %d: goes on with other settings, so not to the same bits as without: %s",
            job.fold,
            "; ".join(lines),
        )


def _finish(job: FoldJob, state: FoldState) -> dict[str, Any]:
    """The kept epoch's scores, empty where it is chosen later."""
    if job.config.select == "cross":
        write_json(job.folder / TRAINED, {"epochs": job.config.epochs})
        return {}
    epoch = kept_epoch(state.history, job.config)
    return finish_fold(job.run, job.fold, epoch, state.history)


def _run_epoch(fold: _Fold, loader: BatchLoader) -> None:
    """Train and evaluate an epoch; its checkpoint stands when its line is said."""
    job, state = fold.job, fold.state
    with job.timings.of("training"):
        figures = _train(fold, loader)
    row = history_row(state.epoch, figures)
    started = time.perf_counter()
    with job.timings.of("evaluation"):
        predictions = _evaluate(fold, loader)
    row["evaluation_seconds"] = round(time.perf_counter() - started, 3)
    if predictions is not None:
        row["unscored"] = sum(map(len, job.evaluation_plan())) - len(predictions.records)
        row |= _scores(job, predictions)
    state.next_epoch(row)
    if job.accelerator.is_first:
        with job.timings.of("saving"):
            keep_epoch(job, fold.learner.scored, state.history, predictions)
            fold.save()
            write_history(job.folder / "history.csv", state.history)
        job.progress.say(_epoch_line(job, row, loader))


def _train(fold: _Fold, loader: BatchLoader) -> EpochFigures:
    job, learner, epoch = fold.job, fold.learner, fold.state.epoch
    plan = job.plan(epoch)
    if job.config.optimizer.freeze_epochs:
        learner.freeze(epoch < job.config.optimizer.freeze_epochs)
    if job.evaluation_plan():
        loader.announce(shares(job.accelerator, job.evaluation_plan()))

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
        labels=job.labels,
        drawing=job.drawing(epoch),
        learning_rate=rate,
        done=partial(job.progress.advance, description=_described(job, epoch)),
        key=(job.config.seed, job.fold),
        image_size=job.growth.image_size_at(epoch),
        tally=fold.state.tally,
        control=fold.control,
    )


def _described(job: FoldJob, epoch: int) -> str:
    return f"fold {job.fold}, epoch {epoch + 1} of {job.config.epochs}"


def _evaluate(fold: _Fold, loader: BatchLoader) -> Predictions | None:
    """The predictions of the held-out records; None without any, and on ranks but the first."""
    job, epoch = fold.job, fold.state.epoch
    plan = job.evaluation_plan()
    if not plan:
        return None
    if epoch + 1 < job.config.epochs:
        loader.announce(
            shares(job.accelerator, job.plan(epoch + 1)),
            loader_drawing(job.drawing(epoch + 1)),
            image_size=job.growth.image_size_at(epoch + 1),
        )
    return evaluate(
        fold.learner,
        loader,
        plan=plan,
        labels=job.labels,
        done=partial(job.progress.advance, description=_described(job, epoch)),
        pad_to=job.config.batch_size if job.accelerator.static_batch else None,
        control=fold.control,
    )


def _scores(job: FoldJob, predictions: Predictions) -> dict[str, float | None]:
    return to_json(
        score_predictions(
            labels=job.labels[predictions.records],
            probabilities=predictions.probabilities,
            losses=predictions.losses,
        )
    )


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
    return f" (try {loader_advice(job, loader)})"
