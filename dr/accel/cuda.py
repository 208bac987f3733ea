"""NVIDIA GPUs, each with a process of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dr.accel.device_locks import Device, HeldDevices, hold_devices, visible_devices
from dr.accel.launching import Place, cores_of_rank
from dr.accel.ranks import Ranked
from dr.config import AccelConfig

BACKENDS = "cpu:gloo,cuda:nccl"
"""What ranks talk through: figures of the host need not pass through the device."""


class CUDA(Ranked):
    """A process on one CUDA device; float16 runs with a gradient scaler."""

    name = "cuda"
    own_memory = True
    _held: HeldDevices | None = None

    def __init__(
        self,
        config: AccelConfig,
        place: Place | None = None,
        devices: Sequence[Device] | None = None,
    ) -> None:
        """`place` makes it one of several ranks, on `devices[place.local_rank]`.

        Without `devices` it takes them, `config.devices` or one a local rank; see `hold_devices`.
        Raises ValueError without enough devices, or for `threads`.
        """
        if config.threads is not None:
            raise ValueError(f"accel.threads={config.threads}: has an effect on accel=cpu only")
        self.chosen = tuple(devices or self._choose(config, place))
        device = self.chosen[0 if place is None else place.local_rank]
        torch.cuda.set_device(device.index)
        precision = _automatic_precision() if config.precision == "auto" else config.precision
        layout = precision != "float32" if config.channels_last is None else config.channels_last
        super().__init__(
            device=torch.device("cuda", device.index), precision=precision, channels_last=layout
        )
        self.compiled = config.compile
        self._scaler = self._new_scaler()
        if place is not None:
            torch.set_num_threads(cores_of_rank(place.local_world_size))
            self.join(place, BACKENDS)

    def _choose(self, config: AccelConfig, place: Place | None) -> tuple[Device, ...]:
        """The devices of this process; of torchrun's, the first on a machine takes all of them."""
        visible = _devices_or_refuse()
        count = config.devices if place is None else place.local_world_size
        if count > len(visible):
            raise ValueError(
                f"accel.devices={count}: torch sees {len(visible)} CUDA device(s) here; set at "
                "most that many, or make more visible in CUDA_VISIBLE_DEVICES"
            )
        if place is None:
            self._held = hold_devices(visible, count, exclusive=config.exclusive)
            return self._held.devices
        # These processes cannot talk yet: all of them have to know the devices and their order.
        own = tuple(visible[:count])
        if place.local_rank == 0:
            self._held = hold_devices(own, count, exclusive=config.exclusive)
        return own

    def close(self) -> None:
        super().close()
        if self._held is not None:
            self._held.release()

    def synchronised(self, model: nn.Module) -> nn.Module:
        # torch's own kernels compute BatchNorm over ranks here.
        from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]

        converted: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted

    def prepare_model(self, model: nn.Module) -> nn.Module:
        self._scaler = self._new_scaler()
        return super().prepare_model(model)

    def _new_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cuda", enabled=self.precision == "float16")

    def describe(self) -> str:
        one = f"cuda ({torch.cuda.get_device_name(self.device)})"
        return one if self.devices == 1 else f"{self.devices} x {one}"

    def backward(self, loss: torch.Tensor) -> None:
        super().backward(self._scaler.scale(loss))

    def gradient_norm(self, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        self._scaler.unscale_(optimizer)
        return super().gradient_norm(optimizer)

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        self._scaler.step(optimizer)
        self._scaler.update()

    def drop_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        super().drop_gradients(optimizer)
        self._scaler.update()

    def state(self) -> dict[str, Any]:
        return {"scaler": self._scaler.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """A scaler's state; one of a training that had none leaves this one as new."""
        if self._scaler.is_enabled() and state.get("scaler"):
            self._scaler.load_state_dict(state["scaler"])


def _devices_or_refuse() -> list[Device]:
    if not torch.cuda.is_available():
        raise ValueError(
            "accel=cuda: torch sees no CUDA device here; use accel=cpu, or install a driver and a "
            "CUDA build of torch"
        )
    return visible_devices()


def _automatic_precision() -> str:
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if native else "float32"
