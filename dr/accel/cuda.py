"""One NVIDIA GPU."""

from typing import Any

import torch
from torch import nn

from dr.accel.base import Accelerator, parameters
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

    def backward(self, loss: torch.Tensor) -> None:
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def gradient_norm(self, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        self._scaler.unscale_(optimizer)
        return super().gradient_norm(optimizer)

    def update(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        norm: torch.Tensor,
        clip_norm: float | None = None,
    ) -> None:
        if clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters(optimizer), clip_norm, norm)
        self._scaler.step(optimizer)
        self._scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def drop_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        super().drop_gradients(optimizer)
        self._scaler.update()

    def state(self) -> dict[str, Any]:
        return {"scaler": self._scaler.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self._scaler.load_state_dict(state["scaler"])


def _automatic_precision() -> str:
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if native else "float32"
