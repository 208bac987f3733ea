"""The folds of a run, one after the other, on every rank alike."""

import time
from contextlib import ExitStack
from dataclasses import dataclass

from dr.accel.base import Accelerator
from dr.config import TrainConfig
from dr.loading.augmentation import Augmentation
from dr.loading.sampler import Mixture
from dr.loading.split import Split
from dr.progress import JobProgress
from dr.shards.shard_set import ShardSet
from dr.training.fine_tuning import SourceRun
from dr.training.fold import train_fold
from dr.training.interruption import Stopper
from dr.training.job import FoldJob
from dr.training.keeping import is_trained
from dr.training.run_folder import RunFolder, locked, update_result
from dr.training.timings import Timings


@dataclass(frozen=True, kw_only=True)
class FoldsTask:
    """What training the `folds` of a run takes, as plain data that other processes can be given.

    `image_size` is the training size in pixels; at `deadline` (of `time.time`) the
    run saves and leaves.
    """

    config: TrainConfig
    shards: ShardSet
    split: Split
    mixture: Mixture | None
    image_size: int
    folds: tuple[int, ...]
    run: RunFolder
    source: SourceRun | None
    batches: int | None = None
    deadline: float | None


def train_folds(accelerator: Accelerator, task: FoldsTask) -> dict[str, float]:
    """Train the folds that are not trained yet, this process being one of the ranks.

    Gives the seconds that each stage took in it. Raises ValueError where another process trains
    one of them, and what `train_fold` raises.
    """
    limit = None if task.deadline is None else task.deadline - time.time()
    stopper = Stopper(limit if accelerator.is_first else None)
    progress = JobProgress(0, description="training", bar=accelerator.is_first)
    timings = Timings()
    with stopper, progress:
        jobs = [_job(task, fold, accelerator, progress, timings) for fold in task.folds]
        progress.skip(-sum(job.images_in_all for job in jobs))
        for job in jobs:
            _train_if_due(job, stopper)
    return timings.seconds


def _job(
    task: FoldsTask,
    fold: int,
    accelerator: Accelerator,
    progress: JobProgress,
    timings: Timings,
) -> FoldJob:
    return FoldJob(
        config=task.config,
        shards=task.shards,
        split=task.split,
        fold=fold,
        run=task.run,
        image_size=task.image_size,
        accelerator=accelerator,
        augmentation=Augmentation(task.config.augment),
        progress=progress,
        timings=timings,
        mixture=task.mixture,
        start=None if task.source is None else task.source.start(fold, task.config.objective),
        batches=task.batches,
    )


def _train_if_due(job: FoldJob, stopper: Stopper) -> None:
    """Train a fold under its lock, which the first rank holds for all."""
    accelerator = job.accelerator
    with ExitStack() as stack:
        due = False
        if accelerator.is_first:
            stack.enter_context(locked(job.folder, what=f"fold {job.fold}"))
            due = not is_trained(job.run, job.fold)
        if not accelerator.broadcast(due):
            job.progress.skip(job.images_in_all)
            return
        train_fold(job, stopper)
        if accelerator.is_first:
            update_result(job.run)
