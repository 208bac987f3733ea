"""What CPU and CUDA share where several ranks work together, through torch.distributed."""

import copy
import datetime
import logging
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from dr.accel.base import Accelerator
from dr.accel.launching import Place, RankPool, die_with_torchrun

D = TypeVar("D")
T = TypeVar("T")
PATIENCE = datetime.timedelta(days=7)
"""How long a rank waits for another, which may prepare data; who dies is noticed otherwise."""
_END = b""


class Ranked(Accelerator):
    """A device that may be one of several, each with a rank of its own.

    Outside of `launch` this process computes alone, `world_size` being 1; what `launch` calls is
    given the accelerator of a rank.
    """

    _team: "RankPool | TorchrunTeam | None" = None

    def launch(self, function: "Callable[[Accelerator, D], T]", data: D) -> T:
        if self._team is None:
            return super().launch(function, data)
        result: T = self._team.run(function, data)
        return result

    def follow(self) -> None:
        TorchrunTeam(self).follow()

    def close(self) -> None:
        if self._team is not None:
            self._team.close()
            self._team = None
        elif self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def lead(self, pool: RankPool) -> Self:
        """Let `launch` use the ranks of `pool`."""
        self._team, self.devices = pool, pool.count
        return self

    def join(self, place: Place, backend: str) -> None:
        """Become the rank of `place`."""
        self.rank, self.world_size = place.rank, place.world_size
        self.devices = place.world_size
        if place.port is None:
            die_with_torchrun()
            dist.init_process_group(backend, timeout=PATIENCE)
            return
        store = TCPStore("127.0.0.1", place.port, is_master=False, timeout=PATIENCE)
        dist.init_process_group(
            backend, store=store, rank=place.rank, world_size=place.world_size, timeout=PATIENCE
        )

    def alone(self) -> Self:
        """The first of torchrun's ranks, as it computes outside of `launch`."""
        alone = copy.copy(self)
        alone.world_size, alone._team = 1, TorchrunTeam(self)
        return alone

    def prepare_model(self, model: nn.Module) -> nn.Module:
        model = super().prepare_model(model)
        return self.synchronised(model) if self.world_size > 1 else model

    def synchronised(self, model: nn.Module) -> nn.Module:
        """`model` with the BatchNorm statistics of all ranks."""
        from dr.accel.sync_batchnorm import synchronise

        return synchronise(model)

    def network(self, model: nn.Module) -> nn.Module:
        network = super().network(model)
        if self.world_size == 1:
            return network
        parallel = DistributedDataParallel(
            network,
            device_ids=None if self.device.index is None else [self.device.index],
            gradient_as_bucket_view=True,
        )
        # All ranks keep the same running statistics: they need not be sent before each step.
        parallel.broadcast_buffers = False
        return parallel

    def accumulating(self, network: nn.Module, *, last: bool) -> AbstractContextManager[object]:
        if last or not isinstance(network, DistributedDataParallel):
            return nullcontext()
        context: AbstractContextManager[object] = network.no_sync()
        return context

    def backward(self, loss: torch.Tensor) -> None:
        # DistributedDataParallel takes the mean of what has to be summed.
        super().backward(loss * self.world_size)

    def agree(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.world_size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.numpy()

    def collect(self, arrays: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], ...] | None:
        if self.world_size == 1:
            return arrays
        gathered: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        dist.gather_object(arrays, gathered)
        if gathered is None:
            return None
        return tuple(np.concatenate(parts) for parts in zip(*gathered, strict=True))

    def broadcast(self, value: T) -> T:
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def barrier(self) -> None:
        self.agree(np.zeros(1))


class TorchrunTeam:
    """The ranks that torchrun started: the first one leads, the others follow."""

    def __init__(self, rank: Ranked) -> None:
        self._rank = rank
        self._broken = False

    def run(self, function: Callable[[Any, Any], Any], data: Any) -> Any:
        """`RankPool.run`, of the first rank. Exceptions of others end them, and torchrun all."""
        self._rank.broadcast(pickle.dumps((function, data)))
        try:
            return function(self._rank, data)
        except BaseException:
            self._broken = True
            raise

    def follow(self) -> None:
        """Take part in everything that the first rank runs.

        Raises ConnectionError where that one ends without saying so.
        """
        root = logging.getLogger()
        root.setLevel(max(root.level, logging.WARNING))
        while (task := self._next()) != _END:
            function, data = pickle.loads(task)
            function(self._rank, data)

    def _next(self) -> bytes:
        try:
            return self._rank.broadcast(_END)
        except RuntimeError as error:
            raise ConnectionError(
                "the first rank ended before its work was done; what it printed says why"
            ) from error

    def close(self) -> None:
        """Let the others end. After a failure they may wait for something else: torchrun's task."""
        if not self._broken:
            self._rank.broadcast(_END)
        self._rank.close()
