"""The CPU."""

import platform

import torch

from dr.accel.base import Accelerator
from dr.config import AccelConfig


def computes_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class CPU(Accelerator):
    """One process on the CPU."""

    name = "cpu"

    def __init__(self, config: AccelConfig) -> None:
        """Raises ValueError for more devices than one, or float16."""
        if config.devices > 1:
            raise ValueError(
                f"accel.devices={config.devices}: accel=cpu trains in one process; set 1"
            )
        if config.precision == "float16":
            raise ValueError("accel.precision=float16: is for CUDA; choose bfloat16 or float32")
        automatic = "bfloat16" if computes_bfloat16() else "float32"
        super().__init__(
            device=torch.device("cpu"),
            precision=automatic if config.precision == "auto" else config.precision,
            channels_last=True if config.channels_last is None else config.channels_last,
        )
        if config.threads is not None:
            torch.set_num_threads(config.threads)

    def describe(self) -> str:
        capability = torch.backends.cpu.get_cpu_capability()
        return f"cpu ({platform.machine()}, {capability}, {torch.get_num_threads()} threads)"
