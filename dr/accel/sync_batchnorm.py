"""BatchNorm over the pictures of all ranks, on any device that torch.distributed reaches.

`torch.nn.SyncBatchNorm` does the same, on GPUs only.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise(model: nn.Module) -> nn.Module:
    """Let every BatchNorm of `model` take its statistics from all ranks' pictures, in place.

    Covers torch's BatchNorm and timm's `BatchNormAct2d`, with their subclasses; the names and
    values of the state stay as they are. Only training talks to other ranks; every rank has to
    call the layers in the same order, with any number of pictures. Raises ValueError for a
    BatchNorm that computes in a way of its own.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm | _OverRanks):
            module.__class__ = _over_ranks(type(module), name)
    return model


def _over_ranks(kind: type[_BatchNorm], name: str) -> Any:
    from timm.layers import BatchNormAct2d  # type: ignore[attr-defined]

    if kind.forward not in (_BatchNorm.forward, BatchNormAct2d.forward):
        raise ValueError(
            f"accel.devices: layer {name} of the model is a {kind.__name__}, which cannot take its "
            "statistics from several devices; set accel.devices=1, or choose another model.name"
        )
    return type(f"{kind.__name__}OverRanks", (_OverRanks, kind), {})


class _OverRanks(_BatchNorm):
    """Stands before a BatchNorm's class, whose forward pass it takes over while training."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(pictures)
        self._check_input_dim(pictures)  # type: ignore[no-untyped-call]
        normalised: torch.Tensor = self._over_all(pictures)
        for name in ("drop", "act"):
            if hasattr(self, name):
                normalised = getattr(self, name)(normalised)
        return normalised

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _over_all(self, pictures: torch.Tensor) -> torch.Tensor:
        normalised: torch.Tensor
        normalised, mean, variance, count = _Normalise.apply(
            pictures, self.weight, self.bias, self.eps
        )
        if self.track_running_stats:
            self._remember(mean, variance, count)
        return normalised

    @torch.no_grad()
    def _remember(self, mean: torch.Tensor, variance: torch.Tensor, count: torch.Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / float(self.num_batches_tracked)
        unbiased = variance * (count / (count - 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


class _Normalise(torch.autograd.Function):
    """Pictures `[N, C, ...]` normalised by the mean and variance of all ranks' pictures.

    Each rank's mean and variance are taken in float32, whatever the precision of the pictures;
    count, sum and sum of squares are joined from them in float64, where the difference of large
    squares loses nothing that float32 holds. Returns, beside the pictures,
    mean, biased variance (float32 `[C]`) and count of all ranks.
    """

    @staticmethod
    def forward(
        ctx: Any,
        pictures: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        mean, variance, count = _statistics_of_all(pictures)
        normalised = pictures.clone()  # torch divides by the size of an empty batch
        if pictures.numel():
            normalised = nn.functional.batch_norm(pictures, mean, variance, weight, bias, eps=eps)
        ctx.save_for_backward(pictures, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        return normalised, mean, variance, count

    @staticmethod
    def backward(
        ctx: Any, gradient: torch.Tensor, *_: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, None]:
        pictures, weight, mean, variance, count = ctx.saved_tensors
        by_weight, by_bias = _own_sums(gradient, pictures, mean, variance, ctx.eps)
        joined = torch.stack([by_bias, by_weight]).double()
        dist.all_reduce(joined)
        shift, slope = joined / count
        scale = (variance.double() + ctx.eps).rsqrt()
        gain = scale if weight is None else scale * weight.double()
        slope = -gain * scale * slope
        shift = -gain * shift - slope * mean.double()
        shift, slope, gain = (_channels(part, pictures) for part in (shift, slope, gain))
        by_pictures = torch.addcmul(shift, pictures, slope).addcmul_(gradient, gain)
        if weight is None:
            return by_pictures.to(pictures.dtype), None, None, None
        return by_pictures.to(pictures.dtype), by_weight, by_bias, None


def _statistics_of_all(
    pictures: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and biased variance, float32 `[C]`, and count a channel, float64, of all ranks."""
    mean, variance = (part.double() for part in _own_statistics(pictures))
    count = pictures.numel() // max(1, pictures.shape[1])
    counts = torch.full_like(mean[:1], count)
    joined = torch.cat([counts, count * mean, count * (variance + mean.square())])
    dist.all_reduce(joined)
    counts, rest = joined[:1], joined[1:] / joined[:1]
    if float(counts) <= 1:
        raise ValueError("a batch of one value a channel has no variance; raise batch_size")
    mean, square = rest.chunk(2)
    variance = (square - mean.square()).clamp_(min=0)
    kind = torch.promote_types(pictures.dtype, torch.float32)
    return mean.to(kind), variance.to(kind), counts


def _own_statistics(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    kind = torch.promote_types(pictures.dtype, torch.float32)
    zeros = torch.zeros(pictures.shape[1], dtype=kind, device=pictures.device)
    if not pictures.numel():
        return zeros, zeros
    # running statistics, thrown away, make torch return float32 ones for pictures of bfloat16
    return torch.batch_norm_update_stats(pictures, zeros, zeros.clone(), 0.0)


def _own_sums(
    gradient: torch.Tensor,
    pictures: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums of `gradient` times the normalised pictures, and of `gradient`, float32 `[C]`."""
    if not pictures.numel():
        return torch.zeros_like(mean), torch.zeros_like(mean)
    ones = torch.ones_like(mean)
    _, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
        gradient, pictures, ones, mean, variance, None, None, False, eps, [False, True, True]
    )
    return by_weight, by_bias


def _channels(values: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    kind = torch.promote_types(pictures.dtype, torch.float32)
    return values.to(kind).reshape(1, -1, *[1] * (pictures.dim() - 2))
