"""All that training one fold needs, and the plans that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dr.accel.base import Accelerator
from dr.config import GRADES, TrainConfig
from dr.loading.advice import advice
from dr.loading.augmentation import Augmentation
from dr.loading.batches import BatchLoader, Drawing
from dr.loading.pictures import open_pictures
from dr.loading.sampler import Balance, Mixture, evaluation_batches, training_batches
from dr.loading.split import Split
from dr.modeling.weights import RunWeights
from dr.progress import JobProgress
from dr.shards.shard_set import ShardSet
from dr.training.run_folder import RunFolder
from dr.training.sizes import Growth
from dr.training.timings import Timings


@dataclass(frozen=True, kw_only=True)
class FoldJob:
    """All that training a fold needs. `image_size` in pixels is that of the last epoch.

    `start`: the weights of another run, where the fold starts from those. `batches`: how many, of
    an epoch and of an evaluation, where it is not all.
    """

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
    start: RunWeights | None = None
    batches: int | None = None
    timings: Timings = field(default_factory=Timings)

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
        whole = training_batches(
            self.split.training(self.fold),
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            epoch=epoch,
            mixture=self.mixture,
            balance=balance_of(self.config, self.labels),
        )
        return whole[: self.batches]

    @property
    def growth(self) -> Growth:
        """The training size of each epoch."""
        return growth_of(self.config, self.image_size)

    def drawing(self, epoch: int) -> Drawing:
        """What augments an epoch, from 0."""
        return Drawing(augmentation=self.augmentation, seed=self.config.seed, epoch=epoch)

    def evaluation_plan(self) -> list[NDArray[np.int64]]:
        """The batches of the held-out records."""
        held_out = self.split.held_out(self.fold)
        return evaluation_batches(held_out, batch_size=self.config.batch_size)[: self.batches]

    @property
    def images_per_epoch(self) -> int:
        """Pictures that pass through the model in one epoch, evaluation included."""
        size = self.config.batch_size
        training = len(self.split.training(self.fold)) // size
        if self.batches is not None:
            training = min(training, self.batches)
        return training * size + sum(map(len, self.evaluation_plan()))

    @property
    def images_in_all(self) -> int:
        """Pictures that pass through the model in all epochs."""
        return self.images_per_epoch * self.config.epochs


def balance_of(config: TrainConfig, labels: NDArray[np.int64]) -> Balance | None:
    """How `config` evens out the grades, `labels` int64 `[records]`; None: not at all."""
    return Balance(labels, config.balance) if config.balance else None


def growth_of(config: TrainConfig, image_size: int) -> Growth:
    """The training sizes of `config`, the last of which is `image_size`."""
    return Growth(
        start=config.start_image_size or image_size,
        end=image_size,
        percent=config.grow_percent,
        epochs=config.epochs,
    )


def open_loader(
    config: TrainConfig,
    shards: ShardSet,
    *,
    image_size: int,
    accelerator: Accelerator,
    other_sizes: Sequence[int] = (),
) -> BatchLoader:
    """The loader of the pictures of `shards`, at `image_size` unless a plan asks for another one.

    It takes numbers beyond the last record too: a record drawn again (`training_batches`).
    """
    pictures = {
        size: open_pictures(shards, image_size=size, config=config.loader, cache=Path(config.cache))
        for size in {image_size, *other_sizes}
    }
    return BatchLoader(
        image_size=image_size,
        config=config.loader,
        pictures=lambda record, out: pictures[len(out)](record % len(shards), out),
        allocate=_pinned if accelerator.device.type == "cuda" else None,
    )


def loader_advice(job: FoldJob, loader: BatchLoader) -> str:
    """What would shorten the wait for pictures, in one line."""
    return advice(
        job.config.loader,
        loader.resources,
        image_size=job.image_size,
        shard_size=job.shards.image_size,
        transforms=0 if job.augmentation.on_device else len(job.config.augment.transforms),
    )


def _pinned(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Memory that copies to CUDA don't wait for; torch lends it again when they are done."""
    pinned: NDArray[np.uint8] = torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
    return pinned
