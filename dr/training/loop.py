"""The one loop: an epoch of training, and an evaluation that counts every record once.

Every rank knows the whole plan; it takes its share of each batch.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dr.accel.base import Accelerator
from dr.config import GRADES
from dr.loading.batches import Batch, BatchLoader, Drawing
from dr.training.interruption import voted, votes
from dr.training.learner import Learner
from dr.training.mixing import mixed_pictures, mixed_sum
from dr.training.optimizers import set_learning_rate, train_mode

Records = NDArray[np.int64]


@dataclass(kw_only=True)
class Tally:
    """How far an epoch is: `step` batches of its plan are done, `taken` of them with a step.

    `not_finite` were left out for their loss or gradient. `loss_sum` adds up the mean losses of
    the steps taken; `seconds` and `waited` (for data) are
    those of all processes that worked on the epoch.
    """

    step: int = 0
    taken: int = 0
    not_finite: int = 0
    loss_sum: float = 0.0
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def count(self, figures: "StepFigures", *, step: int, images: int) -> None:
        """Count the batch at place `step` of the plan, of `images` records."""
        self.step, self.images = step + 1, self.images + images
        if figures.taken:
            self.taken, self.loss_sum = self.taken + 1, self.loss_sum + figures.loss
        else:
            self.not_finite += 1


@dataclass(frozen=True, kw_only=True)
class EpochFigures:
    """Mean training loss, pictures, seconds, and the share of them spent waiting for data.

    `skipped` counts the records that were to come and could not be read, `not_finite` the batches
    that were left out for their loss or gradient.
    """

    loss: float
    images: int
    skipped: int
    not_finite: int
    seconds: float
    data_wait: float
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """For each of `records` int64 `[N]`: score `[N]`, probabilities `[N, 5]`, loss `[N]`."""

    records: Records
    scores: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    losses: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StepFigures:
    """A step's mean loss over all ranks and the norm of its gradients before clipping.

    `taken` tells whether the optimizer's step was; it is not where either is not finite.
    `reason` is why some rank was asked to stop, 0 where none was.
    """

    loss: float
    norm: float
    taken: bool
    reason: int


class Control:
    """What watches over an epoch from outside of it; this one lets everything go on."""

    def reason(self) -> int:
        """Why this rank is asked to stop; 0: it isn't."""
        return 0

    def not_finite(self, records: Records, figures: StepFigures, tally: Tally) -> None:
        """A step on `records` was not taken. Raises ValueError where that ends the training."""
        raise ValueError(
            f"a batch's loss became {figures.loss}, its gradients' norm {figures.norm}; lower "
            "schedule.max_lr, or set accel.precision=float32"
        )

    def after_step(self, tally: Tally, reason: int) -> None:
        """A step is done; raises what ends the process where a `reason` is given."""

    def check(self) -> None:
        """Between batches of an evaluation: raises what ends the process, on all ranks alike."""


class _Clock:
    """Keeps the times of a tally."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._origin = time.perf_counter() - tally.seconds

    def tick(self) -> None:
        """Take the time that has passed until now."""
        self._tally.seconds = time.perf_counter() - self._origin

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """`batches`, the time that their consumer waits for them added up."""
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self._tally.waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch


def shares(accelerator: Accelerator, plan: list[Records]) -> list[Records]:
    """This rank's share of each batch of a plan, without those it has no part in."""
    parts = [accelerator.share(records) for records in plan]
    return [records for records in parts if len(records)]


def loader_drawing(drawing: Drawing) -> Drawing | None:
    """What the loader draws of an epoch; None where the device augments."""
    return None if drawing.augmentation.on_device else drawing


def device_drawing(drawing: Drawing) -> Drawing | None:
    """What the device draws of an epoch; None where the loader augments."""
    return drawing if drawing.augmentation.on_device else None


def train_step(
    learner: Learner,
    batch: Batch,
    *,
    labels: NDArray[np.int64],
    drawing: Drawing | None,
    learning_rate: float,
    key: tuple[int, ...] = (0,),
    everyone: Records | None = None,
    reason: int = 0,
) -> StepFigures:
    """One step on this rank's `batch`, of which `everyone` are the records of all ranks.

    `labels` int64 `[records]` by record number, over and over for numbers beyond; `key` seeds
    what the network draws, and how pictures are mixed. The loss is a mean weighted by the records'
    class weights, where the objective has them. `reason` is why this rank is asked to stop.
    """
    accelerator, optimizer = learner.accelerator, learner.optimizer
    set_learning_rate(optimizer, learning_rate)
    accelerator.seed(*key, accelerator.rank)
    whole = batch.records if everyone is None else everyone
    weight = learner.objective.total_weight(labels[whole % len(labels)])
    mix, statistics = learner.mix(batch.images.shape[1], key), learner.statistics()
    loss = _gradients(learner, batch, labels=labels, drawing=drawing, weight=weight, mix=mix)
    norm = accelerator.gradient_norm(optimizer)
    at_once = accelerator.updates_first and not learner.guarded
    if at_once:
        learner.update(norm)
    figures = _agreed(learner, accelerator.figures([loss, norm]), reason)
    if not at_once:
        learner.settle(norm, statistics, taken=figures.taken)
    return figures


def _gradients(
    learner: Learner,
    batch: Batch,
    *,
    labels: NDArray[np.int64],
    drawing: Drawing | None,
    weight: float,
    mix: torch.Tensor | None,
) -> torch.Tensor:
    """Add up the gradients of a batch, part by part; its part of the loss, detached."""
    accelerator = learner.accelerator
    total = torch.zeros((), device=accelerator.device)
    parts = micro_batches(batch, learner.accumulate)
    for number, part in enumerate(parts, start=1):
        target = accelerator.tensor(labels[part.records % len(labels)])
        pictures = mixed_pictures(learner.inputs(part, drawing), mix)
        network = learner.training_network
        with accelerator.accumulating(network, last=number == len(parts)):
            logits = learner.training_logits(pictures)
            loss = mixed_sum(learner.objective, logits, target, mix) / weight
            accelerator.backward(loss)
        total += loss.detach()
    return total


def micro_batches(batch: Batch, count: int) -> list[Batch]:
    """A batch in at most `count` parts of sizes as equal as can be."""
    if count == 1:
        return [batch]
    places = np.array_split(np.arange(len(batch.records)), min(count, len(batch.records)))
    return [
        Batch(batch.images[part[0] : part[-1] + 1], batch.records[part[0] : part[-1] + 1])
        for part in places
    ]


def _agreed(learner: Learner, figures: list[float], reason: int) -> StepFigures:
    """The figures of a step as all ranks see them. The norm is that of all ranks already."""
    loss, norm = figures
    scaled = learner.accelerator.precision == "float16"
    bad = not math.isfinite(loss) or not (scaled or math.isfinite(norm))
    agreed = learner.accelerator.agree(np.array([loss, float(bad), *votes(reason)]))
    return StepFigures(
        loss=float(agreed[0]), norm=norm, taken=not agreed[1], reason=voted(agreed[2:])
    )


def train_epoch(
    learner: Learner,
    loader: BatchLoader,
    *,
    plan: list[Records],
    labels: NDArray[np.int64],
    drawing: Drawing,
    learning_rate: Callable[[int], float],
    done: Callable[[int], None],
    key: tuple[int, ...] = (0,),
    image_size: int | None = None,
    tally: Tally | None = None,
    control: Control | None = None,
) -> EpochFigures:
    """One pass over `plan`, from where `tally` stands; it is kept up to date.

    `learning_rate` is asked for the rate of each step of the epoch; `labels` int64 `[records]` by
    record number, over and over for numbers beyond; pictures are of `image_size` px, or of the
    loader's; `key` seeds what the network draws, together with epoch, step and rank. Raises
    what `control` raises.
    """
    tally, control = tally or Tally(), control or Control()
    train_mode(learner.model)
    own = shares(learner.accelerator, plan[tally.step :])
    clock, rate = _Clock(tally), None
    batches = loader.batches(own, loader_drawing(drawing), image_size=image_size)
    for batch in clock.waiting(batches):
        step = _place(batch, plan, tally.step)
        everyone = batch.records if learner.accelerator.world_size == 1 else plan[step]
        rate = learning_rate(step)
        figures = train_step(
            learner,
            batch,
            labels=labels,
            drawing=device_drawing(drawing),
            learning_rate=rate,
            key=(*key, drawing.epoch, step),
            everyone=everyone,
            reason=control.reason(),
        )
        tally.count(figures, step=step, images=len(everyone))
        clock.tick()
        if not figures.taken:
            control.not_finite(everyone, figures, tally)
        done(len(everyone))
        control.after_step(tally, figures.reason)
    return _epoch_figures(tally, plan, learning_rate(len(plan) - 1) if rate is None else rate)


def _place(batch: Batch, plan: list[Records], start: int) -> int:
    """The place in `plan` of the batch that `batch` is a part of, from `start` on."""
    while batch.records[0] not in plan[start]:
        start += 1
    return start


def _epoch_figures(tally: Tally, plan: list[Records], rate: float) -> EpochFigures:
    return EpochFigures(
        loss=tally.loss_sum / tally.taken if tally.taken else math.nan,
        images=tally.images,
        skipped=sum(len(records) for records in plan) - tally.images,
        not_finite=tally.not_finite,
        seconds=tally.seconds,
        data_wait=min(1.0, tally.waited / tally.seconds) if tally.seconds else 0.0,
        learning_rate=rate,
    )


@torch.no_grad()
def evaluate(
    learner: Learner,
    loader: BatchLoader,
    *,
    plan: list[Records],
    labels: NDArray[np.int64],
    done: Callable[[int], None],
    pad_to: int | None = None,
    control: Control | None = None,
) -> Predictions | None:
    """Predictions for every record of `plan` that can be read, each once, in the plan's order.

    The ranks share each batch; the first one gets all predictions, the others None. With `pad_to`
    smaller batches are filled up to that size, and what fills them is cut off again.
    """
    learner.scored.eval()
    accelerator, control = learner.accelerator, control or Control()
    batches = loader.batches(shares(accelerator, plan))
    parts: list[tuple[torch.Tensor, ...]] = []
    records: list[Records] = []
    for everyone in plan:
        control.check()
        batch = next(batches, None) if len(accelerator.share(everyone)) else None
        if batch is not None:
            records.append(batch.records)
            parts.append(_scored(learner, batch, labels, pad_to=pad_to))
        done(len(everyone))
    return _collected(learner, plan, records, parts)


def _scored(
    learner: Learner, batch: Batch, labels: NDArray[np.int64], *, pad_to: int | None
) -> tuple[torch.Tensor, ...]:
    """Score, probabilities and loss of a batch's records, on the device, padding included."""
    missing = 0 if pad_to is None else pad_to - len(batch.records)
    if missing > 0:
        images = np.pad(batch.images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        batch = Batch(images, np.pad(batch.records, (0, missing), mode="edge"))
    target = learner.accelerator.tensor(labels[batch.records])
    logits = learner.logits(batch)
    loss = learner.objective.loss(logits, target)
    score, probabilities = learner.objective.decode(logits)
    learner.accelerator.flush()
    return score.float(), probabilities.float(), loss.float()


def _collected(
    learner: Learner,
    plan: list[Records],
    records: list[Records],
    parts: list[tuple[torch.Tensor, ...]],
) -> Predictions | None:
    empty = (np.empty(0), np.empty((0, GRADES)), np.empty(0))
    here = [
        np.concatenate([_host(value, len(own)) for value, own in zip(values, records, strict=True)])
        for values in zip(*parts, strict=True)
    ]
    numbers = np.concatenate([*records, np.empty(0, np.int64)])
    joined = learner.accelerator.collect((numbers, *(here or empty)))
    if joined is None:
        return None
    order = np.argsort(_places(joined[0], plan), kind="stable")
    found, scores, probabilities, losses = (values[order] for values in joined)
    return Predictions(records=found, scores=scores, probabilities=probabilities, losses=losses)


def _host(value: torch.Tensor, count: int) -> NDArray[np.float64]:
    """The first `count` rows of a tensor; the rest fills a batch up."""
    rows: NDArray[np.float64] = value.detach().cpu()[:count].double().numpy()
    return rows


def _places(records: Records, plan: list[Records]) -> Records:
    """Where each of `records` stands in the row of all records of `plan`."""
    row = np.concatenate(plan)
    by_number = np.argsort(row)
    places: Records = by_number[np.searchsorted(row, records, sorter=by_number)]
    return places
