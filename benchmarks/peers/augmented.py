"""This project's whole path: decoded and augmented in batches, moved to the device, normalised."""

import numpy as np
import torch
from torch import nn

from benchmarks.peers.contract import Batches, Epoch, Run
from dr.accel.cpu import CPU
from dr.compose import compose
from dr.config import AccelConfig, LoaderConfig, ObjectiveConfig, TrainConfig
from dr.loading.augmentation import Augmentation
from dr.loading.batches import BatchLoader, Drawing
from dr.loading.sampler import training_batches
from dr.modeling.objectives import build_objective
from dr.shards.opening import open_shards
from dr.training.learner import Learner

PACKAGES = ("albumentations", "opencv-python-headless", "simplejpeg", "torch")


def open_epochs(run: Run, *, augment: str, where: str) -> Epoch:
    shards = open_shards(run.folder / "dr")
    config = compose("train", TrainConfig, [f"augment={augment}", f"augment.where={where}"])
    augmentation = Augmentation(config.augment)
    loader = BatchLoader(
        shards.read_image, image_size=run.image_size, config=LoaderConfig(threads=run.threads)
    )
    labels = shards.table["label"].to_numpy()
    records, learner = np.arange(len(shards)), _learner(run.threads)

    def epoch(number: int) -> Batches:
        plan = training_batches(records, batch_size=run.batch_size, seed=0, epoch=number)
        drawing = Drawing(augmentation=augmentation, seed=0, epoch=number)
        here, there = (drawing, None) if augmentation.on_device else (None, drawing)
        for batch in loader.batches(plan, there):
            yield learner.inputs(batch, here), labels[batch.records]

    return epoch


def _learner(threads: int) -> Learner:
    """One that only prepares the model's input."""
    middle = torch.full((1, 3, 1, 1), 0.5)
    return Learner(
        model=nn.Identity(),
        objective=build_objective(ObjectiveConfig()),
        optimizer=torch.optim.SGD([torch.zeros(1)]),
        accelerator=CPU(AccelConfig(name="cpu", threads=threads)),
        mean=middle,
        std=middle,
    )
