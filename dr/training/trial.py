"""A fold that is tried: its training as it would be, without a run folder."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dr.accel.base import Accelerator
from dr.config import FindLrConfig, TrainConfig
from dr.loading.batches import Batch, BatchLoader, Drawing
from dr.progress import JobProgress
from dr.training.experiment import check_batch, check_experiment
from dr.training.job import FoldJob
from dr.training.loop import device_drawing, loader_drawing
from dr.training.run_folder import RunFolder


def trial_job(config: TrainConfig | FindLrConfig, accelerator: Accelerator) -> FoldJob:
    """The first fold that `config.fold` asks for, checked as ever; its run folder is never made.

    Raises ValueError as `check_experiment` does.
    """
    fold = _first_fold(config)
    check_batch(config, accelerator)
    experiment = check_experiment(dataclasses.replace(config, fold=[fold], test=None))
    return FoldJob(
        config=experiment.config,
        shards=experiment.shards,
        split=experiment.split,
        fold=fold,
        run=RunFolder(Path(config.outputs) / "trial", ""),
        image_size=experiment.image_size,
        accelerator=accelerator,
        augmentation=experiment.augmentation,
        progress=JobProgress(0, description="trial"),
        mixture=experiment.mixture,
        start=experiment.start(fold),
    )


def _first_fold(config: TrainConfig) -> int:
    chosen = config.fold[0] if isinstance(config.fold, list) else config.fold
    return 0 if chosen == "all" else int(chosen)


def trial_batches(
    job: FoldJob, loader: BatchLoader
) -> Iterator[tuple[Batch, NDArray[np.int64], Drawing | None]]:
    """The batches of one epoch after the other, with all labels and what the device draws."""
    for epoch in itertools.count():
        plan, drawing = job.plan(epoch), job.drawing(epoch)
        here = device_drawing(drawing)
        for batch in loader.batches(plan, loader_drawing(drawing)):
            yield batch, job.labels, here
