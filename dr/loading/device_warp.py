"""Augmentation of a whole batch on its device, from what each record has drawn on the host."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import grid_sample

from dr.loading.augmentation import Augmentation
from dr.loading.warps import Sampling

_PADDING = {
    cv2.BORDER_CONSTANT: ("zeros", False),
    cv2.BORDER_REPLICATE: ("border", False),
    cv2.BORDER_REFLECT: ("reflection", False),
    cv2.BORDER_REFLECT_101: ("reflection", True),
}
"""For OpenCV's border modes, grid_sample's `padding_mode` and `align_corners`."""


def augment_batch(
    pictures: torch.Tensor,
    augmentation: Augmentation,
    *,
    records: NDArray[np.int64],
    seed: int,
    epoch: int,
) -> torch.Tensor:
    """Float32 `[B, 3, S, S]` in 0 to 1 -> the same, augmented as `augmentation` would on the host.

    The draws are the host's; gray values are not rounded in between, as they are there.
    """
    size = pictures.shape[-1]
    drawn = [
        augmentation.draw(size, seed=seed, epoch=epoch, record=record)
        for record in records.tolist()
    ]
    for stage, sampling in enumerate(augmentation.samplings):
        values = torch.from_numpy(np.stack([arrays[stage] for arrays in drawn]))
        if sampling is None:
            pictures = _tone(pictures, values)
        else:
            pictures = warp_batch(pictures, values, sampling)
    return pictures


def _tone(pictures: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    alpha, beta = values.float().to(pictures.device)[:, :, None, None, None].unbind(1)
    return (pictures * alpha + beta / 255).clamp_(0, 1)


def warp_batch(pictures: torch.Tensor, matrices: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Warp float32 `[B, C, H, W]` in 0 to 1 by a map `[B, 3, 3]` each (`dr.loading.warps`).

    Keeps the layout in memory. `sampling` must be one whose `on_device` holds.
    """
    padding, corners = _PADDING[sampling.border_mode]
    height, width = pictures.shape[-2:]
    places = _sources(matrices, height=height, width=width, device=pictures.device)
    span = torch.tensor([width - corners, height - corners], device=pictures.device)
    grid = (2 * places + (not corners)) / span - 1
    fill = torch.tensor(sampling.fill, device=pictures.device).reshape(1, -1, 1, 1) / 255
    warped = grid_sample(
        pictures - fill, grid, mode="bilinear", padding_mode=padding, align_corners=corners
    )
    warped += fill
    last = pictures.is_contiguous(memory_format=torch.channels_last)
    return warped.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _sources(
    matrices: torch.Tensor, *, height: int, width: int, device: torch.device
) -> torch.Tensor:
    """Float32 `[B, H, W, 2]`: the (x, y) that each pixel of the result is read from.

    Without matrix products, which a device may compute in TF32, too coarse for places of pixels.
    """
    inverse = torch.linalg.inv(matrices.double()).float().to(device)[:, :, :, None, None]
    x = torch.arange(width, dtype=torch.float32, device=device)
    y = torch.arange(height, dtype=torch.float32, device=device)[:, None]
    rows = inverse[:, :, 0] * x + inverse[:, :, 1] * y + inverse[:, :, 2]
    return torch.stack((rows[:, 0] / rows[:, 2], rows[:, 1] / rows[:, 2]), dim=-1)
