"""The CPU, in one process or in several."""

import logging
import platform

import torch
from torch import nn

from dr.accel.depthwise import keep_depthwise_float32
from dr.accel.launching import Place, cores_of_rank
from dr.accel.memory import keep_freed_memory
from dr.accel.ranks import Ranked
from dr.config import AccelConfig

_log = logging.getLogger(__name__)


def computes_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _threads(config: AccelConfig, place: Place | None) -> int | None:
    """How many threads a process computes with; None leaves that to torch."""
    local_ranks = config.devices if place is None else place.local_world_size
    alone = local_ranks == 1
    return config.threads if alone else config.threads or cores_of_rank(local_ranks)


def _warn_of_too_many(ranks: int) -> None:
    if ranks > (cores := cores_of_rank(1)):
        _log.warning(
            "accel.devices=%d: are more ranks than the %d cores here; they will share them",
            ranks,
            cores,
        )


class CPU(Ranked):
    """A process on the CPU; ranks talk through gloo."""

    name = "cpu"

    def __init__(self, config: AccelConfig, place: Place | None = None) -> None:
        """`place` makes it one of several ranks. Raises ValueError for float16."""
        if config.precision == "float16":
            raise ValueError("accel.precision=float16: is for CUDA; choose bfloat16 or float32")
        automatic = "bfloat16" if computes_bfloat16() else "float32"
        super().__init__(
            device=torch.device("cpu"),
            precision=automatic if config.precision == "auto" else config.precision,
            channels_last=True if config.channels_last is None else config.channels_last,
        )
        self.compiled = config.compile
        keep_freed_memory()
        self._threads = _threads(config, place)
        if self._threads is not None and (place is not None or config.devices == 1):
            torch.set_num_threads(self._threads)
        if place is not None:
            self.join(place, "gloo")
        else:
            _warn_of_too_many(config.devices)

    def prepare_model(self, model: nn.Module) -> nn.Module:
        model = super().prepare_model(model)
        return model if self.precision == "float32" else keep_depthwise_float32(model)

    def describe(self) -> str:
        capability = torch.backends.cpu.get_cpu_capability()
        threads = self._threads or torch.get_num_threads()
        one = f"cpu ({platform.machine()}, {capability}, {threads} threads)"
        return one if self.devices == 1 else f"{self.devices} x {one}"
