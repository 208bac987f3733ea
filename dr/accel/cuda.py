"""One NVIDIA GPU."""

import torch
from torch import nn

from dr.accel.base import Accelerator, clip_gradients
from dr.config import AccelConfig


class CUDA(Accelerator):
    """One process on the first visible CUDA device; float16 runs with a gradient scaler."""

    name = "cuda"

    def __init__(self, config: AccelConfig) -> None:
        """Raises ValueError without a device, for more devices than one, or for `threads`."""
        if not torch.cuda.is_available():
            raise ValueError(
                "accel=cuda: torch sees no CUDA device here; use accel=cpu, or install a driver "
                "and a CUDA build of torch"
            )
        if config.devices > 1:
            raise ValueError(
                f"accel.devices={config.devices}: several CUDA devices are not supported yet; "
                "set accel.devices=1"
            )
        if config.threads is not None:
            raise ValueError(f"accel.threads={config.threads}: has an effect on accel=cpu only")
        precision = _automatic_precision() if config.precision == "auto" else config.precision
        layout = precision != "float32" if config.channels_last is None else config.channels_last
        super().__init__(device=torch.device("cuda"), precision=precision, channels_last=layout)
        self._scaler = self._new_scaler()

    def prepare_model(self, model: nn.Module) -> nn.Module:
        self._scaler = self._new_scaler()
        return super().prepare_model(model)

    def _new_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cuda", enabled=self.precision == "float16")

    def describe(self) -> str:
        return f"cuda ({torch.cuda.get_device_name()})"

    def backward_and_step(
        self,
        loss: torch.Tensor,
        optimizer: torch.optim.Optimizer,
        *,
        clip_norm: float | None = None,
    ) -> None:
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if clip_norm is not None:
            self._scaler.unscale_(optimizer)
            clip_gradients(optimizer, clip_norm)
        self._scaler.step(optimizer)
        self._scaler.update()
        optimizer.zero_grad(set_to_none=True)


def _automatic_precision() -> str:
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if native else "float32"
