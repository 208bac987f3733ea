"""Depthwise convolutions that a CPU computes faster in float32 than in bfloat16."""

from typing import Any

import torch
from torch import nn


def keep_depthwise_float32(model: nn.Module) -> nn.Module:
    """Let autocast leave the depthwise convolutions of `model` in float32, in place.

    That is those with a stride, or larger than 3x3: oneDNN computes their gradients in bfloat16
    by kernels for other convolutions, four times slower than in float32. Their results still come
    in autocast's type; names and values of the state stay as they are.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _is_slow(module):
            module.__class__ = _in_float32(type(module))
    return model


def _is_slow(module: nn.Conv2d) -> bool:
    depthwise = module.groups == module.in_channels > 1 and not isinstance(module, _InFloat32)
    return depthwise and (max(module.stride) > 1 or max(module.kernel_size) > 3)


def _in_float32(kind: type[nn.Conv2d]) -> Any:
    return type(f"{kind.__name__}InFloat32", (_InFloat32, kind), {})


class _InFloat32(nn.Conv2d):
    """Stands before a convolution's class."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            output = super().forward(input.float())
        return output.to(torch.get_autocast_dtype("cpu"))
