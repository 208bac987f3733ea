"""An exponential moving average of a model's weights."""

import copy
from typing import Any

from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import nn


class EMA:
    """Average of the weights and of BatchNorm's statistics over the steps taken.

    After `n` updates (from 0) a further one keeps the share `min(decay, (1 + n) / (10 + n))` of
    the average, so that a short training is not held where it started.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """The average starts as a copy of `model`, on its device."""
        # timm's warm-up is 1 - (1 + s / gamma)^-power at s = step - 1; here s = n + 1. Made on the
        # CPU: timm wants random numbers of the model's device, which torch has not for XLA.
        average = ModelEmaV3(
            copy.deepcopy(model).cpu(),
            decay=decay,
            use_warmup=True,
            warmup_gamma=9.0,
            warmup_power=1.0,
        )
        self._average = average.requires_grad_(False).to(next(model.parameters()).device)
        self._updates = 0

    @property
    def model(self) -> nn.Module:
        """The model with the averaged weights."""
        averaged: nn.Module = self._average.module
        return averaged

    def update(self, model: nn.Module) -> None:
        """Take in the weights of `model` after a step; nothing waits for the device."""
        self._average.update(model, step=self._updates + 2)
        self._updates += 1

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: the averaged weights, and how many updates they had."""
        return {"model": self.model.state_dict(), "updates": self._updates}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.model.load_state_dict(state["model"])
        self._updates = state["updates"]
