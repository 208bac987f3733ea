"""From `accel=...` to an accelerator."""

from dr.accel.base import Accelerator
from dr.config import AccelConfig


def choose_accelerator(config: AccelConfig) -> Accelerator:
    """The accelerator that `config` asks for; `auto` takes CUDA where there is a device.

    Raises ValueError saying what is missing where it cannot be had.
    """
    import torch

    from dr.accel.cpu import CPU
    from dr.accel.cuda import CUDA

    if config.name == "tpu":
        from dr.accel.tpu import connect

        return connect(config)
    if config.name == "cuda" or (config.name == "auto" and torch.cuda.is_available()):
        return CUDA(config)
    return CPU(config)
