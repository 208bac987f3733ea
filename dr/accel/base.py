"""The small interface through which training meets a device."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

D = TypeVar("D")
T = TypeVar("T")
PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Accelerator(ABC):
    """A device, the precision computed in, and what a step needs of both.

    `rank` of `world_size` ranks is this process's; `devices` is how many of them `launch` uses.
    `precision` is `float32`, `bfloat16` or `float16`; `channels_last` tells the memory layout of
    pictures and weights. With `static_batch` every batch has the same shape, so that nothing is
    compiled anew; `compiled` networks go through torch.compile. `own_memory` tells whether a step
    may not fit where the host's memory would do. Where `updates_first`, a step's update is asked
    for before its figures are known, so that both are computed in one go: a step that is not
    finite was taken then, and can only end the training.
    """

    name: str
    rank = 0
    world_size = 1
    devices = 1
    static_batch = False
    compiled = False
    own_memory = False
    updates_first = False

    def __init__(self, *, device: torch.device, precision: str, channels_last: bool) -> None:
        self.device = device
        self.precision = precision
        self.channels_last = channels_last

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def describe(self) -> str:
        """The device in words."""

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def launch(self, function: "Callable[[Accelerator, D], T]", data: D) -> T:
        """Call `function` with an accelerator and `data` on every rank; the first rank's result.

        Where there are several, both are pickled: `function` is a module's own, `data` plain.
        """
        return function(self, data)

    def follow(self) -> None:
        """Do what the first rank's `launch` asks for, until it closes; for all other ranks."""
        raise AssertionError("there is one rank")

    def close(self) -> None:
        """Let go of devices, and of the processes that wait for a `launch`."""
        return None

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """The model on the device, in the layout that suits it."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return model.to(device=self.device, memory_format=layout)  # type: ignore[call-overload, no-any-return]

    def network(self, model: nn.Module) -> nn.Module:
        """What a training step calls in the place of a prepared `model`, whose weights it shares.

        Asked for anew when other parameters begin to learn.
        """
        if not self.compiled:
            return model
        return cast(nn.Module, torch.compile(model))

    def check_batch(self, batch_size: int, *, accumulate: int = 1) -> None:
        """Raises ValueError where a global batch cannot be taken, in so many micro-batches."""
        return None

    def share(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        """This rank's part of a batch of all ranks, in the batch's order; it may be empty."""
        return np.array_split(records, self.world_size)[self.rank]

    def pictures(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 `[N, H, W, 3]` on the host -> float32 `[N, 3, H, W]` in 0 to 1 on the device."""
        moved = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return moved.to(dtype=torch.float32, memory_format=layout).div_(255)

    def tensor(self, values: NDArray[Any]) -> torch.Tensor:
        """An array of the host on the device."""
        return torch.from_numpy(values).to(self.device, non_blocking=True)

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the model computes."""
        enabled = self.precision != "float32"
        kind = PRECISIONS[self.precision] if enabled else None
        return torch.autocast(self.device.type, dtype=kind, enabled=enabled)

    def seed(self, *key: int) -> None:
        """Seed torch's random numbers from whole numbers of at least 0."""
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def accumulating(self, network: nn.Module, *, last: bool) -> AbstractContextManager[object]:
        """The context of a micro-batch's forward and backward pass; `last` is a step's last."""
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of `loss`, this rank's part of a sum over all ranks."""
        loss.backward()  # type: ignore[no-untyped-call]

    def gradient_norm(self, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """The joint 2-norm of all gradients, a scalar on the device."""
        return nn.utils.get_total_norm(gradients(optimizer))

    def update(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        norm: torch.Tensor,
        clip_norm: float | None = None,
    ) -> None:
        """One step of the optimizer, gradients cleared.

        With `clip_norm`, gradients whose joint `norm` exceeds it are scaled down to it.
        """
        if clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters(optimizer), clip_norm, norm)
        self._step(optimizer)
        optimizer.zero_grad(set_to_none=True)

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()

    def drop_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Forget the gradients: no step is taken with them."""
        optimizer.zero_grad(set_to_none=True)

    def figures(self, scalars: Sequence[torch.Tensor]) -> list[float]:
        """Scalars of the device as numbers: the one point where a step waits for it."""
        joined = torch.stack([scalar.detach().double() for scalar in scalars])
        return [float(value) for value in joined.cpu()]

    def flush(self) -> None:
        """Have everything computed that was asked for, without waiting for it."""
        return None

    def agree(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of a small array of the host over all ranks."""
        return values

    def collect(self, arrays: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], ...] | None:
        """Arrays of all ranks, each joined along its first axis, on the first rank; else None."""
        return arrays

    def broadcast(self, value: T) -> T:
        """The first rank's `value`, on every rank."""
        return value

    def barrier(self) -> None:
        """Wait until every rank is here."""
        return None

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold of the accelerator."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        return None


def parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """All parameters of an optimizer."""
    return [one for group in optimizer.param_groups for one in group["params"]]


def gradients(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The gradients of an optimizer's parameters, of those that have one."""
    return [one.grad for one in parameters(optimizer) if one.grad is not None]
