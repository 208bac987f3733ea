"""The one loop: an epoch of training, and an evaluation that counts every record once."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dr.accel.base import Accelerator
from dr.loading.batches import Batch, BatchLoader, Drawing
from dr.loading.device_warp import augment_batch
from dr.modeling.backbones import Normalisation
from dr.modeling.objectives import Objective
from dr.training.optimizers import set_learning_rate, train_mode


@dataclass(frozen=True, kw_only=True)
class Learner:
    """What learns: the model on its device, its objective, optimizer and input normalisation.

    `clip_norm` bounds the norm of all gradients together; None leaves them as they are.
    """

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    mean: torch.Tensor
    std: torch.Tensor
    clip_norm: float | None = None

    def logits(self, batch: Batch, drawing: Drawing | None = None) -> torch.Tensor:
        """`[B, outputs]` for a batch of uint8 pictures, augmented here where `drawing` is given."""
        pictures = self.inputs(batch, drawing)
        with self.accelerator.autocast():
            logits: torch.Tensor = self.model(pictures)
        return logits

    def inputs(self, batch: Batch, drawing: Drawing | None = None) -> torch.Tensor:
        """Normalised pictures `[B, 3, S, S]` on the device, augmented where `drawing` is given."""
        pictures = self.accelerator.pictures(torch.from_numpy(batch.images))
        if drawing is not None:
            pictures = augment_batch(
                pictures,
                drawing.augmentation,
                records=batch.records,
                seed=drawing.seed,
                epoch=drawing.epoch,
            )
        return pictures.sub_(self.mean).div_(self.std)


def normalisation_tensors(
    normalisation: Normalisation, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation as `[1, 3, 1, 1]` on the device."""
    shape = (1, 3, 1, 1)
    mean = torch.tensor(normalisation.mean, device=device).reshape(shape)
    return mean, torch.tensor(normalisation.std, device=device).reshape(shape)


@dataclass(frozen=True, kw_only=True)
class EpochFigures:
    """Mean training loss, pictures, seconds, and the share of them spent waiting for data.

    `skipped` counts the records that were to come and could not be read.
    """

    loss: float
    images: int
    skipped: int
    seconds: float
    data_wait: float
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """For each of `records` int64 `[N]`: score `[N]`, probabilities `[N, 5]`, loss `[N]`."""

    records: NDArray[np.int64]
    scores: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    losses: NDArray[np.float64]


class _Waiting:
    """Adds up the time that the consumer of an iterator waits for it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - started
            if batch is None:
                return
            yield batch


def loader_drawing(drawing: Drawing) -> Drawing | None:
    """What the loader draws of an epoch; None where the device augments."""
    return None if drawing.augmentation.on_device else drawing


def train_step(
    learner: Learner,
    batch: Batch,
    *,
    labels: NDArray[np.int64],
    drawing: Drawing | None,
    learning_rate: float,
) -> torch.Tensor:
    """One step on a batch; its mean training loss before it, detached, on the device.

    The mean is weighted by the records' class weights, where the objective has them.
    """
    set_learning_rate(learner.optimizer, learning_rate)
    target = torch.from_numpy(labels[batch.records]).to(learner.accelerator.device)
    total, weight = learner.objective.training_sums(learner.logits(batch, drawing), target)
    loss = total / weight
    learner.accelerator.backward_and_step(loss, learner.optimizer, clip_norm=learner.clip_norm)
    return loss.detach()


def train_epoch(
    learner: Learner,
    loader: BatchLoader,
    *,
    plan: list[NDArray[np.int64]],
    labels: NDArray[np.int64],
    drawing: Drawing,
    learning_rate: Callable[[int], float],
    done: Callable[[int], None],
) -> EpochFigures:
    """One pass over `plan`; `learning_rate` is asked for the rate of each step of the epoch.

    `labels` int64 `[records]` by record number. Raises ValueError where the loss is not finite.
    """
    train_mode(learner.model)
    started = time.perf_counter()
    waiting = _Waiting()
    total = torch.zeros((), dtype=torch.float64, device=learner.accelerator.device)
    here = drawing if drawing.augmentation.on_device else None
    seen = 0
    for step, batch in enumerate(waiting.over(loader.batches(plan, loader_drawing(drawing)))):
        rate = learning_rate(step)
        loss = train_step(learner, batch, labels=labels, drawing=here, learning_rate=rate)
        total += loss.double()
        seen += len(batch.records)
        done(len(batch.records))
    mean = float(learner.accelerator.reduce(total)) / (step + 1)
    if not math.isfinite(mean):
        raise ValueError(
            f"the training loss became {mean} in epoch {drawing.epoch + 1}; lower "
            "schedule.max_lr, or set accel.precision=float32"
        )
    seconds = time.perf_counter() - started
    return EpochFigures(
        loss=mean,
        images=seen,
        skipped=sum(len(records) for records in plan) - seen,
        seconds=seconds,
        data_wait=min(1.0, waiting.seconds / seconds),
        learning_rate=rate,
    )


@torch.no_grad()
def evaluate(
    learner: Learner,
    loader: BatchLoader,
    *,
    plan: list[NDArray[np.int64]],
    labels: NDArray[np.int64],
    done: Callable[[int], None],
) -> Predictions:
    """Predictions for every record of `plan` that can be read, each once, and their losses."""
    learner.model.eval()
    parts: list[tuple[torch.Tensor, ...]] = []
    records: list[NDArray[np.int64]] = []
    for batch in loader.batches(plan):
        records.append(batch.records)
        target = torch.from_numpy(labels[batch.records]).to(learner.accelerator.device)
        logits = learner.logits(batch)
        loss = learner.objective.loss(logits, target)
        score, probabilities = learner.objective.decode(logits)
        parts.append((score.float(), probabilities.float(), loss.float()))
        done(len(batch.records))
    joined = [
        learner.accelerator.gather(torch.cat(tensors)).double().numpy()
        for tensors in zip(*parts, strict=True)
    ]
    return Predictions(
        records=np.concatenate(records),
        scores=joined[0],
        probabilities=joined[1],
        losses=joined[2],
    )
