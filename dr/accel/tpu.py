"""TPU through torch-xla: the one file that imports it.

SPMD (Xu et al. 2021, arXiv 2105.04663): one process computes the global batch, which is laid out
over all devices along its first axis; the compiler shares out the work and adds up gradients and
BatchNorm statistics, so results are those of one device but for rounding.
"""

import importlib.util
import logging
import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dr.accel.base import Accelerator
from dr.accel.launching import torchrun_place
from dr.config import AccelConfig

INSTALL = "pip install -c constraints-tpu.txt -e '.[tpu]' in an environment of its own"
_log = logging.getLogger(__name__)


def connect(config: AccelConfig) -> Accelerator:
    """The TPU's accelerator, through whatever drives it here.

    Raises ValueError saying what to install or set where there is none, for a number of devices
    that the runtime does not have, and for settings that belong to other accelerators.
    """
    _check_processes()
    _check_settings(config)
    return _backend()(config)


def _backend() -> "type[TPU]":
    """The accelerator for what drives a TPU here, by the packages that are installed.

    torch-tpu, which succeeds torch-xla, would be chosen here, and have an accelerator of its own.
    Raises ValueError where there is none.
    """
    if importlib.util.find_spec("torch_xla") is not None:
        return TPU
    other = ""
    if importlib.util.find_spec("torch_tpu") is not None:
        other = " (torch-tpu, which is, cannot be used yet)"
    raise ValueError(f"accel=tpu: torch-xla is not installed{other}; {INSTALL}")


def _check_processes() -> None:
    place = torchrun_place()
    if place is not None and place.world_size > 1:
        raise ValueError(
            f"accel=tpu: torchrun started {place.world_size} processes, but one process uses all "
            "TPU devices; start it with python -m dr.train"
        )


def _check_settings(config: AccelConfig) -> None:
    if config.precision == "float16":
        raise ValueError("accel.precision=float16: is for CUDA; choose bfloat16 or float32")
    idle = {
        "threads": "has an effect on accel=cpu only",
        "channels_last": "the compiler chooses the layout on accel=tpu; leave it out",
    }
    for name, reason in idle.items():
        if value := getattr(config, name):
            raise ValueError(f"accel.{name}={value}: {reason}")


def _device_kind() -> str:
    """`TPU`, or what else PJRT_DEVICE asks for. Raises ValueError where no TPU can be reached."""
    asked = "PJRT_DEVICE" in os.environ
    from torch_xla import runtime

    kind = str(runtime.device_type())
    if not asked and kind != "TPU":
        os.environ.pop("PJRT_DEVICE", None)
        raise ValueError(
            "accel=tpu: torch-xla finds no TPU here (it needs the chip and libtpu); run on a TPU "
            "machine, or set PJRT_DEVICE=CPU to try it without one"
        )
    if kind == "TPU" and not _chips():
        _log.warning(
            "PJRT_DEVICE=TPU: no TPU chip shows on this machine's bus; where there is none, "
            "torch-xla looks for it for many minutes: set PJRT_DEVICE=CPU to try it without one"
        )
    return kind


def _chips() -> int:
    from torch_xla._internal import tpu

    return int(tpu.num_available_chips())


def _devices(kind: str) -> int:
    """How many devices the runtime has, SPMD being on. Raises ValueError without any."""
    from torch_xla import runtime

    if runtime.local_process_count() > 1:
        raise ValueError(
            "accel=tpu: torch_xla.launch started several processes, but one uses all TPU devices; "
            "start it with python -m dr.train"
        )
    if not runtime.is_spmd():
        runtime.use_spmd()
    try:
        count, processes = runtime.global_runtime_device_count(), runtime.process_count()
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"accel=tpu: PJRT_DEVICE={kind} cannot be reached ({error}); run on a TPU machine "
            "that no other process computes on"
        ) from error
    if processes > 1:
        raise ValueError(
            f"accel=tpu: {processes} hosts share this TPU; choose one of a single host, as v3-8"
        )
    return int(count)


class TPU(Accelerator):
    """All TPU devices of this machine, one mesh of them sharing each batch.

    Every new shape of a batch is compiled anew, so evaluation fills batches up.
    """

    name = "tpu"
    static_batch = True
    updates_first = True

    def __init__(self, config: AccelConfig) -> None:
        """Raises ValueError without a TPU, or where it has other than the devices asked for."""
        self.kind = _device_kind()
        self.devices = _devices(self.kind)
        if config.devices not in (1, self.devices):
            raise ValueError(
                f"accel.devices={config.devices}: there are {self.devices}, and all of them are "
                "used; leave accel.devices out"
            )
        import torch_xla
        from torch_xla.distributed.spmd import Mesh

        automatic = "bfloat16" if self.kind == "TPU" else "float32"
        precision = automatic if config.precision == "auto" else config.precision
        if precision == "float32" and self.kind == "TPU":
            # Left alone, a TPU multiplies float32 as bfloat16.
            torch_xla.backends.set_mat_mul_precision("highest")
        super().__init__(device=torch_xla.device(), precision=precision, channels_last=False)
        self._mesh = Mesh(np.arange(self.devices), (self.devices,), ("data",))

    def check_batch(self, batch_size: int, *, accumulate: int = 1) -> None:
        parts = self.devices * accumulate
        if batch_size % parts:
            raise ValueError(
                f"batch_size={batch_size}: must be a multiple of {parts}, so that {self.devices} "
                f"TPU device(s) share each of {accumulate} micro-batch(es) evenly; set "
                f"{(batch_size // parts + 1) * parts}"
            )

    def describe(self) -> str:
        one = f"tpu ({self.kind}, torch-xla {version('torch-xla')})"
        return one if self.devices == 1 else f"{self.devices} x {one}"

    def prepare_model(self, model: nn.Module) -> nn.Module:
        prepared = super().prepare_model(model)
        self.flush()
        return prepared

    def pictures(self, images: torch.Tensor) -> torch.Tensor:
        # Laid out as bytes, so that each device is sent its own share and no more.
        moved = images.to(self.device)
        if len(images) % self.devices == 0:
            from torch_xla.distributed.spmd import mark_sharding

            mark_sharding(moved, self._mesh, ("data", None, None, None))
        return moved.permute(0, 3, 1, 2).to(torch.float32).div_(255)

    def tensor(self, values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)

    def seed(self, *key: int) -> None:
        super().seed(*key)
        import torch_xla

        torch_xla.manual_seed(torch.initial_seed())

    def figures(self, scalars: Sequence[torch.Tensor]) -> list[float]:
        joined = torch.stack([scalar.detach().float() for scalar in scalars])
        self.flush()
        return [float(value) for value in joined.cpu()]

    def flush(self) -> None:
        import torch_xla

        torch_xla.sync()
