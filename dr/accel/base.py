"""The small interface through which training meets a device."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")
PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Accelerator(ABC):
    """A device, the precision computed in, and what a step needs of both.

    `rank` of `world_size` ranks; `precision` is `float32`, `bfloat16` or `float16`;
    `channels_last` tells the memory layout of pictures and weights.
    """

    name: str
    rank = 0
    world_size = 1

    def __init__(self, *, device: torch.device, precision: str, channels_last: bool) -> None:
        self.device = device
        self.precision = precision
        self.channels_last = channels_last

    @abstractmethod
    def describe(self) -> str:
        """The device in words."""

    def launch(self, task: Callable[[], T]) -> T:
        """Run `task` on every rank and return the first rank's result."""
        return task()

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """The model on the device, in the layout that suits it."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return model.to(device=self.device, memory_format=layout)  # type: ignore[call-overload, no-any-return]

    def pictures(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 `[N, H, W, 3]` on the host -> float32 `[N, 3, H, W]` in 0 to 1 on the device."""
        moved = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return moved.to(dtype=torch.float32, memory_format=layout).div_(255)

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the model computes."""
        enabled = self.precision != "float32"
        kind = PRECISIONS[self.precision] if enabled else None
        return torch.autocast(self.device.type, dtype=kind, enabled=enabled)

    def backward_and_step(
        self,
        loss: torch.Tensor,
        optimizer: torch.optim.Optimizer,
        *,
        clip_norm: float | None = None,
    ) -> None:
        """Gradients of `loss`, one step of the optimizer, gradients cleared.

        With `clip_norm`, gradients whose joint norm exceeds it are scaled down to it.
        """
        loss.backward()  # type: ignore[no-untyped-call]
        clip_gradients(optimizer, clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def reduce(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of `value` over all ranks."""
        return value

    def gather(self, value: torch.Tensor) -> torch.Tensor:
        """`value` of all ranks, joined along the first dimension, on the host."""
        return value.detach().to("cpu")

    def barrier(self) -> None:
        """Wait until every rank is here."""
        return None


def clip_gradients(optimizer: torch.optim.Optimizer, clip_norm: float | None) -> None:
    """Scale the gradients of all parameters so that their joint 2-norm is at most `clip_norm`.

    They must be true gradients, not those a gradient scaler has enlarged.
    """
    if clip_norm is not None:
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        nn.utils.clip_grad_norm_(parameters, clip_norm)
