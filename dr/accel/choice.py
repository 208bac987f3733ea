"""From `accel=...` to an accelerator."""

import dataclasses
from collections.abc import Callable
from functools import partial

from dr.accel.base import Accelerator
from dr.accel.launching import Place, RankPool, torchrun_place
from dr.config import AccelConfig


def choose_accelerator(config: AccelConfig) -> Accelerator:
    """The accelerator that `config` asks for; `auto` takes CUDA where there is a device.

    With several `devices` its `launch` starts the ranks; under torchrun it takes those there are,
    and gives all but the first an accelerator that has to `follow`. Raises ValueError saying what
    is missing where it cannot be had.
    """
    if config.name == "tpu":
        from dr.accel.tpu import connect

        return connect(config)
    place = torchrun_place()
    if place is not None and config.devices not in (1, place.world_size):
        raise ValueError(
            f"accel.devices={config.devices}: torchrun started {place.world_size} process(es), "
            "one for each device; leave accel.devices out"
        )
    if place is not None and place.world_size > 1:
        return _started(config, place)
    return _starting(config)


def _on_cuda(config: AccelConfig) -> bool:
    import torch

    return config.name == "cuda" or (config.name == "auto" and torch.cuda.is_available())


def _starting(config: AccelConfig) -> Accelerator:
    """One process, which starts ranks where there are several devices."""
    from dr.accel.cpu import CPU
    from dr.accel.cuda import CUDA

    accelerator = CUDA(config) if _on_cuda(config) else CPU(config)
    if config.devices == 1:
        return accelerator
    settled = dataclasses.replace(
        config, precision=accelerator.precision, channels_last=accelerator.channels_last
    )
    make: Callable[[Place], Accelerator] = partial(CPU, settled)
    if isinstance(accelerator, CUDA):
        make = partial(CUDA, settled, devices=accelerator.chosen)
    return accelerator.lead(RankPool(make, config.devices))


def _started(config: AccelConfig, place: Place) -> Accelerator:
    """One of torchrun's processes."""
    from dr.accel.cpu import CPU
    from dr.accel.cuda import CUDA

    rank = CUDA(config, place) if _on_cuda(config) else CPU(config, place)
    return rank.alone() if place.rank == 0 else rank
