"""`debug=overfit`: can the network learn one batch by heart? If not, it will not learn a fold."""

import dataclasses
import itertools
import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dr.config import GRADES, AugmentConfig, TrainConfig
from dr.loading.batches import Batch
from dr.modeling.heads import HEADS
from dr.modeling.objectives import Objective, build_objective
from dr.scoring.kappa import quadratic_weighted_kappa
from dr.training.debugging import Finding, trial
from dr.training.job import FoldJob, open_loader
from dr.training.learner import Learner
from dr.training.loop import micro_batches, train_step
from dr.training.optimizers import train_mode

STEPS = 300
NEAR = 0.2
"""The batch is learned when each record gets its grade, and of the way from the best single answer
to the least possible loss this share, or less, is left."""

_WARM_UP = 10
_SAID_EVERY = 25
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The least loss of a batch with given labels, and the least for one answer to all records."""

    least: float
    blind: float

    @property
    def goal(self) -> float:
        """The loss below which the batch may be learned."""
        return self.least + NEAR * (self.blind - self.least)


def overfit(config: TrainConfig) -> Finding:
    """Train one batch of the first fold asked for, again and again, until it is learned.

    Nothing is left to chance: no augmentation, no mixing, no dropped units or paths, nothing
    frozen, no weight decay; the rate warms up to `schedule.max_lr` and stays there. Raises
    ValueError for anything that cannot be trained as asked.
    """
    with trial(_calmed(config)) as (job, learner):
        batch = _batch(job)
        bounds = _bounds(job, job.labels[batch.records])
        losses, learned = _train(job, learner, batch, bounds)
        text = _text(job, learner, batch, bounds, losses)
        if learned:
            return Finding(f"overfit: learned: {text}")
        hints = "".join(f"\n  - {hint}" for hint in _hints(job, batch, bounds, losses))
        problem = f"the network does not learn one batch by heart; try:{hints}"
        return Finding(f"overfit: NOT learned: {text}", problem)


def _calmed(config: TrainConfig) -> TrainConfig:
    objective = config.objective
    if hasattr(objective, "label_smoothing"):
        objective = dataclasses.replace(objective, label_smoothing=0.0)  # type: ignore[call-arg]
    return dataclasses.replace(
        config,
        augment=AugmentConfig(),
        model=dataclasses.replace(config.model, drop_rate=0.0, drop_path_rate=0.0),
        objective=objective,
        optimizer=dataclasses.replace(
            config.optimizer, weight_decay=0.0, decay_norms_and_biases=False, freeze_epochs=0
        ),
        ema_decay=None,
        start_image_size=None,
        skip_nonfinite=0,
    )


def _batch(job: FoldJob) -> Batch:
    """A batch of the fold's training records in which the grades come as evenly as they can."""
    records = np.random.default_rng(job.config.seed).permutation(job.split.training(job.fold))
    labels = job.labels[records]
    rank = np.empty(len(records), dtype=np.int64)
    for grade in np.unique(labels):
        of_grade = np.flatnonzero(labels == grade)
        rank[of_grade] = np.arange(len(of_grade))
    chosen = np.sort(records[np.argsort(rank, kind="stable")[: job.config.batch_size]])
    loader = open_loader(
        job.config, job.shards, image_size=job.image_size, accelerator=job.accelerator
    )
    with loader:
        return next(loader.batches([chosen]))


def _bounds(job: FoldJob, labels: NDArray[np.int64]) -> Bounds:
    """What the objective's own head reaches that is told each record's grade, or nothing."""
    objective = build_objective(job.config.objective, label_counts=job.label_counts)
    target = torch.from_numpy(labels)
    told = nn.functional.one_hot(target, int(labels.max()) + 1).float()
    return Bounds(
        least=_least(objective, target, told),
        blind=_least(objective, target, torch.ones(len(labels), 1)),
    )


def _least(objective: Objective, target: torch.Tensor, features: torch.Tensor) -> float:
    kind = HEADS[objective.head]
    linear = nn.Linear(features.shape[1], objective.outputs if kind is None else 1)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    head = linear if kind is None else kind(linear, outputs=objective.outputs)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total, weight = objective.training_sums(head(features), target)
        mean = total / weight
        mean.backward()  # type: ignore[no-untyped-call]
        return mean

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return float(loss().detach())


def _train(
    job: FoldJob, learner: Learner, batch: Batch, bounds: Bounds
) -> tuple[list[float], bool]:
    """The losses before each step, and whether the batch is learned; the last may be not finite."""
    train_mode(learner.model)
    losses: list[float] = []
    labels = job.labels[batch.records]
    for step in range(STEPS):
        figures = train_step(
            learner,
            batch,
            labels=job.labels,
            drawing=None,
            learning_rate=job.config.schedule.max_lr * min(1.0, (step + 1) / _WARM_UP),
            key=(job.config.seed, job.fold, step),
        )
        losses.append(figures.loss)
        if step % _SAID_EVERY == 0:
            _log.info("step %d: loss %.4g, to be %.4g", step, figures.loss, bounds.goal)
        if not figures.taken:
            return losses, False
        if figures.loss <= bounds.goal and (_grades(learner, batch) == labels).all():
            return losses, True
    return losses, False


def _text(job: FoldJob, learner: Learner, batch: Batch, bounds: Bounds, losses: list[float]) -> str:
    labels = job.labels[batch.records]
    counts = ", ".join(map(str, np.bincount(labels, minlength=GRADES)))
    return (
        f"loss {losses[0]:.4g} to {losses[-1]:.4g} in {len(losses)} steps (learned below "
        f"{bounds.goal:.4g}; the least possible is {bounds.least:.4g}, the same answer to all "
        f"records gives {bounds.blind:.4g})\n  {_scores(labels, _grades(learner, batch))} on its "
        f"{len(labels)} records ({counts} of the grades 0 to 4)"
    )


@torch.no_grad()
def _grades(learner: Learner, batch: Batch) -> NDArray[np.int64]:
    """The grades of the network as it trains, with the batch's own statistics."""
    parts = []
    for part in micro_batches(batch, learner.accumulate):
        logits = learner.training_logits(learner.inputs(part))
        parts.append(learner.objective.decode(logits)[1].argmax(dim=1).cpu())
    grades: NDArray[np.int64] = torch.cat(parts).numpy()
    return grades


def _scores(labels: NDArray[np.int64], grades: NDArray[np.int64]) -> str:
    kappa = quadratic_weighted_kappa(labels, grades)
    return f"accuracy {(labels == grades).mean():.4f}, QWK {kappa:.4f}"


def _hints(job: FoldJob, batch: Batch, bounds: Bounds, losses: list[float]) -> list[str]:
    config = job.config
    find = "python -m dr.find_lr with the same keys suggests a rate"
    if not np.isfinite(losses[-1]) or len(losses) < STEPS:
        return [
            f"a lower schedule.max_lr, which is {config.schedule.max_lr:g} ({find})",
            "optimizer.clip_norm=1",
            f"accel.precision=float32 (it ran in {job.accelerator.precision})",
        ]
    hints = _contradictions(job, batch)
    if min(losses[-20:]) > 0.5 * (bounds.blind + bounds.least):
        hints.append(f"another schedule.max_lr than {config.schedule.max_lr:g}: {find}")
    else:
        hints.append(f"a higher schedule.max_lr: {STEPS} steps were too few at this one ({find})")
    for key in ("layer_decay", "backbone_lr_scale"):
        if (value := getattr(config.optimizer, key)) < 1:
            hints.append(f"optimizer.{key} nearer to 1: at {value:g} most layers hardly learn")
    if config.objective.class_weights:
        hints.append("objective.class_weights=0: rare grades take all of the loss")
    hints.append("python -m dr.inspect shards=DIR: do pictures and labels belong together?")
    hints.append(f"a larger image_size than {job.image_size}, or another model")
    return hints


def _contradictions(job: FoldJob, batch: Batch) -> list[str]:
    """A hint where records of the batch have the same picture and different labels."""
    names, labels = job.shards.table["name"].to_numpy(), job.labels
    places = itertools.combinations(range(len(batch.records)), 2)
    pairs = [
        (batch.records[one], batch.records[other])
        for one, other in places
        if labels[batch.records[one]] != labels[batch.records[other]]
        and np.array_equal(batch.images[one], batch.images[other])
    ]
    if not pairs:
        return []
    one, other = pairs[0]
    return [
        f"other labels: {len(pairs)} pairs of its pictures are the same and have different grades, "
        f"as {names[one]} ({labels[one]}) and {names[other]} ({labels[other]})"
    ]
