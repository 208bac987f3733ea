"""What learns in a fold: model, objective, optimizer, and the device they are on."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dr.accel.base import Accelerator
from dr.config import AugmentConfig, TrainConfig
from dr.loading.batches import Batch, Drawing
from dr.loading.device_warp import augment_batch
from dr.modeling.backbones import Normalisation, build_model, normalisation
from dr.modeling.objectives import Objective, build_objective
from dr.modeling.weights import RunWeights
from dr.training.ema import EMA
from dr.training.mixing import draw_mix
from dr.training.optimizers import build_optimizer, freeze_backbone


@dataclass(kw_only=True)
class Learner:
    """What learns: the model on its device, its objective, optimizer and input normalisation.

    `clip_norm` bounds the norm of all gradients together; None leaves them as they are. A step
    goes through its batch in `accumulate` parts. `guarded` keeps running statistics aside during a
    step, which a batch that is left out must not reach. `network` is None until a step needs it.
    Where there is an `ema`, its model is the one that is scored and kept.
    """

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    mean: torch.Tensor
    std: torch.Tensor
    clip_norm: float | None = None
    mixing: AugmentConfig = field(default_factory=AugmentConfig)
    accumulate: int = 1
    guarded: bool = False
    frozen: bool = False
    network: nn.Module | None = None
    ema: EMA | None = None

    @property
    def training_network(self) -> nn.Module:
        """What a training step calls, with the weights of `model`."""
        if self.network is None:
            self.network = self.accelerator.network(self.model)
        return self.network

    def training_logits(self, pictures: torch.Tensor) -> torch.Tensor:
        """`[B, outputs]` of the network that is trained, for normalised pictures."""
        with self.accelerator.autocast():
            logits: torch.Tensor = self.training_network(pictures)
        return logits

    def logits(self, batch: Batch) -> torch.Tensor:
        """`[B, outputs]` of the model that is scored, for a batch of uint8 pictures."""
        pictures = self.inputs(batch)
        with self.accelerator.autocast():
            logits: torch.Tensor = self.scored(pictures)
        return logits

    @property
    def scored(self) -> nn.Module:
        """The model that is scored and kept."""
        return self.model if self.ema is None else self.ema.model

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
        return normalise_(pictures, self.mean, self.std)

    def mix(self, image_size: int, key: tuple[int, ...]) -> torch.Tensor | None:
        """How the step that `key` tells mixes its pictures, on the device; None: not at all."""
        drawn = draw_mix(self.mixing, size=image_size, key=key)
        return None if drawn is None else self.accelerator.tensor(drawn)

    def update(self, norm: torch.Tensor) -> None:
        """A step of the optimizer with gradients of that joint norm, and of the average."""
        self.accelerator.update(self.optimizer, norm=norm, clip_norm=self.clip_norm)
        if self.ema is not None:
            self.ema.update(self.model)

    def settle(self, norm: torch.Tensor, kept: list[torch.Tensor], *, taken: bool) -> None:
        """Take a step whose figures are known, or leave it without a trace.

        `kept` is what `statistics` gave before it.
        """
        if taken:
            self.update(norm)
        else:
            self.accelerator.drop_gradients(self.optimizer)
            self._restore(kept)
        self.accelerator.flush()

    def statistics(self) -> list[torch.Tensor]:
        """Copies of what a forward pass changes in the model, where a step is `guarded`."""
        return [value.clone() for value in self.model.buffers()] if self.guarded else []

    def _restore(self, statistics: list[torch.Tensor]) -> None:
        for value, kept in zip(self.model.buffers(), statistics, strict=False):
            value.copy_(kept)

    def freeze(self, frozen: bool) -> None:
        """Let the backbone learn, or not."""
        freeze_backbone(self.model, frozen=frozen)
        if frozen != self.frozen:
            self.frozen, self.network = frozen, None

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of all this."""
        return {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.state(),
            "optimizer": self.optimizer.state_dict(),
            "accelerator": self.accelerator.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.accelerator.load_state(state["accelerator"])


def normalise_(pictures: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """`(pictures - mean) / std` in place, for `[B, 3, H, W]` and two `[1, 3, 1, 1]`."""
    if not pictures.is_contiguous(memory_format=torch.channels_last):
        return pictures.sub_(mean).div_(std)
    images, _, height, width = pictures.shape
    # A processor takes many values of a long row at once, but only the three of a pixel.
    rows = pictures.permute(0, 2, 3, 1).view(images, height, 3 * width)
    rows.sub_(mean.flatten().repeat(width)).div_(std.flatten().repeat(width))
    return pictures


def normalisation_tensors(
    normalisation: Normalisation, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation as `[1, 3, 1, 1]` on the device."""
    shape = (1, 3, 1, 1)
    mean = torch.tensor(normalisation.mean, device=device).reshape(shape)
    return mean, torch.tensor(normalisation.std, device=device).reshape(shape)


def build_learner(
    config: TrainConfig,
    accelerator: Accelerator,
    *,
    image_size: int,
    pretrained: bool = True,
    label_counts: NDArray[np.int64] | None = None,
    start: RunWeights | None = None,
) -> Learner:
    """The model that a fold starts from, and what trains it; `pretrained=False` loads no weights.

    `label_counts` int64 `[5]` of the training records are needed to train with class weights,
    `start` where `model.weights` names a run.
    Raises ValueError where the model cannot be built.
    """
    objective = build_objective(config.objective, label_counts=label_counts)
    model = build_model(
        config.model,
        outputs=objective.outputs,
        head=objective.head,
        pretrained=pretrained,
        image_size=image_size,
        start=start,
    )
    model = accelerator.prepare_model(model)
    mean, std = normalisation_tensors(normalisation(config.model), accelerator.device)
    return Learner(
        model=model,
        objective=objective,
        optimizer=build_optimizer(model, config.optimizer),
        clip_norm=config.optimizer.clip_norm,
        guarded=config.skip_nonfinite > 0,
        mixing=config.augment,
        accumulate=config.accel.micro_batches,
        accelerator=accelerator,
        mean=mean,
        std=std,
        ema=None if config.ema_decay is None else EMA(model, config.ema_decay),
    )
