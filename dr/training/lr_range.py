"""The learning-rate range test: the loss while the rate grows from step to step."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dr.accel.choice import choose_accelerator
from dr.config import FindLrConfig
from dr.loading.batches import BatchLoader
from dr.progress import JobProgress
from dr.training.job import FoldJob, open_loader
from dr.training.learner import Learner
from dr.training.loop import train_step
from dr.training.optimizers import train_mode
from dr.training.starting import start_learner
from dr.training.trial import trial_batches, trial_job

Values = NDArray[np.float64]

DIVERGED = 4.0
"""A mean loss of the last steps above this many times the best one ends the test (fastai's)."""

_LAST = 5
_WIDTH = 1 / 25
_SURE = 4.0
"""Standard errors: of 3,000 tests of 100 steps whose losses were noise alone, 5 passed."""


@dataclass(frozen=True, kw_only=True)
class LrRange:
    """The test's `rates`, `losses` before each step, and `smoothed` losses, all float64 `[n]`.

    `diverged` tells whether it ended before the highest rate.
    """

    rates: Values
    losses: Values
    smoothed: Values
    diverged: bool


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """The rate of the `steepest` descent, and that of the `lowest` smoothed loss, `loss`."""

    steepest: float
    lowest: float
    loss: float


def find_lr(config: FindLrConfig) -> LrRange:
    """Train one fold's model for `steps` steps, at rates that grow by the same factor each.

    Smith, Cyclical Learning Rates for Training Neural Networks, 2017 (arXiv 1506.01186). Model,
    batches, augmentation, objective and optimizer are the training's, but nothing is frozen, all
    pictures are of the full size, and nothing is kept. Raises ValueError for anything that cannot
    be trained as asked.
    """
    rates = np.geomspace(config.lowest_lr, config.highest_lr, config.steps)
    with choose_accelerator(config.accel) as accelerator:
        losses, diverged = _try(trial_job(config, accelerator), rates)
    tried = rates[: len(losses)]
    return smooth(tried, np.array(losses), width=_width(config.steps), diverged=diverged)


def _try(job: FoldJob, rates: Values) -> tuple[list[float], bool]:
    """The losses at `rates`, up to where they diverge, and whether they do."""
    config, accelerator = job.config, job.accelerator
    learner = start_learner(job)
    opened = open_loader(config, job.shards, image_size=job.image_size, accelerator=accelerator)
    images = len(rates) * config.batch_size
    with opened as loader, JobProgress(images, description="trying rates") as progress:
        return _losses(job, learner, loader, rates, progress.advance)


def _width(steps: int) -> float:
    """The standard deviation, in steps, of the Gaussian that smooths a test of `steps` steps."""
    return steps * _WIDTH


def _losses(
    job: FoldJob,
    learner: Learner,
    loader: BatchLoader,
    rates: Values,
    done: Callable[[int], None],
) -> tuple[list[float], bool]:
    train_mode(learner.model)
    losses: list[float] = []
    best = math.inf
    steps = zip(rates, trial_batches(job, loader), strict=False)
    for step, (rate, (batch, labels, drawing)) in enumerate(steps):
        figures = train_step(
            learner,
            batch,
            labels=labels,
            drawing=drawing,
            learning_rate=float(rate),
            key=(job.config.seed, job.fold, step),
        )
        losses.append(figures.loss)
        done(len(batch.records))
        recent = float(np.mean(losses[-_LAST:]))
        best = min(best, recent)
        if not recent <= DIVERGED * best:
            return losses, True
    return losses, False


def smooth(rates: Values, losses: Values, *, width: float, diverged: bool = False) -> LrRange:
    """Smooth `losses` float64 `[n]` over their steps by a Gaussian of `width` steps.

    A centred one, because a running mean would move the descent to higher rates. Losses count as
    at most `DIVERGED` times the first ones, so that the end of a diverging test does not reach
    back; steps whose loss is not finite are left out.
    """
    from scipy.ndimage import gaussian_filter1d

    finite = np.isfinite(losses)
    rates, losses = rates[finite], losses[finite]
    if len(losses) == 0:
        raise ValueError(
            "the loss is not finite at lowest_lr already; lower it, or set accel.precision=float32"
        )
    ceiling = DIVERGED * losses[: max(1, round(width))].mean()
    smoothed = gaussian_filter1d(np.minimum(losses, ceiling), width, mode="reflect")
    return LrRange(rates=rates, losses=losses, smoothed=smoothed, diverged=diverged)


def suggest(tried: LrRange, *, steps: int) -> Suggestion | None:
    """Where the smoothed loss of a test of `steps` steps falls fastest, and where it is lowest.

    None where the fall from the first loss to the lowest may be chance.
    """
    smoothed, lowest = tried.smoothed, int(np.argmin(tried.smoothed))
    calm = tried.losses[: max(lowest + 1, len(smoothed) // 3)]
    if lowest < 2 or smoothed[0] - smoothed[lowest] <= _chance(calm, _width(steps)):
        return None
    slope = np.gradient(smoothed[: lowest + 1], np.log(tried.rates[: lowest + 1]))
    return Suggestion(
        steepest=float(tried.rates[int(np.argmin(slope))]),
        lowest=float(tried.rates[lowest]),
        loss=float(smoothed[lowest]),
    )


def _chance(losses: Values, width: float) -> float:
    """A fall of the smoothed loss that noise does not make: some standard errors of it.

    The noise of a step is how `losses` scatter from each to the next; smoothing makes it the
    smaller the wider it is, half as well (in variance) at the first step.
    """
    scatter = float(np.diff(losses).std()) / math.sqrt(2)
    error = scatter / math.sqrt(2 * math.sqrt(math.pi) * width)
    return _SURE * math.sqrt(3) * error
