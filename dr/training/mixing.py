"""mixup and cutmix: pairs of a batch's pictures mixed, and their losses with them.

Record 2i of a micro-batch is mixed with record 2i + 1 and the other way round, which a shuffled
order makes a random pair; the last record of an odd number stays itself. All pairs of a step are
mixed alike, whatever the number of ranks and micro-batches, so that a step's result depends on
neither while their parts are even. Losses are mixed, not labels, which every objective allows: for
cross-entropy and squared errors the gradient is the same.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dr.config import AugmentConfig
from dr.modeling.objectives import Objective

_SALT = 0x317
Mix = NDArray[np.float32]
"""How a step's pairs are mixed, float32 `[7]`: a record's own share of its loss; its own share of
each pixel inside a box, and outside of it; the box's first and last row and column, of which the
last is outside.

An array, moved to the device as one: numbers in it are no constants that a compiler would compile
anew for.
"""


def draw_mix(config: AugmentConfig, *, size: int, key: Sequence[int]) -> Mix | None:
    """How to mix the step that `key`, whole numbers of at least 0, tells; None: not at all.

    mixup (Zhang et al. 2018, arXiv 1710.09412) adds pictures, with a share from
    Beta(`mixup`, `mixup`); cutmix (Yun et al. 2019, arXiv 1905.04899) pastes a box, whose area of
    the `size` x `size` pixels is 1 less such a share before the border cuts it. With both, either
    is as likely.
    """
    random = np.random.default_rng((*key, _SALT))
    chance = 0.5 if config.mixup else 1.0
    cuts = config.cutmix > 0 and random.random() < chance
    alpha = config.cutmix if cuts else config.mixup
    if not alpha:
        return None
    share = float(random.beta(alpha, alpha))
    if cuts:
        return _cut(share, size, random)
    return np.array([share, share, share, 0, 0, 0, 0], np.float32)


def _cut(share: float, size: int, random: np.random.Generator) -> Mix:
    side = int(size * np.sqrt(1 - share))
    first = random.integers(0, size, 2) - side // 2
    (top, left), (bottom, right) = np.clip([first, first + side], 0, size)
    own = 1 - (bottom - top) * (right - left) / size**2
    return np.array([own, 0, 1, top, bottom, left, right], np.float32)


def mixed_pictures(pictures: torch.Tensor, mix: torch.Tensor | None) -> torch.Tensor:
    """Mix `[B, C, H, W]`, in whatever layout, by a `Mix` on the same device; None leaves them."""
    if mix is None:
        return pictures
    _, inside, outside, top, bottom, left, right = mix.unbind()
    row = torch.arange(pictures.shape[2], device=mix.device)[:, None]
    column = torch.arange(pictures.shape[3], device=mix.device)
    boxed = (row >= top) & (row < bottom) & (column >= left) & (column < right)
    own = torch.where(boxed, inside, outside)
    return pictures * own + swapped(pictures) * (1 - own)


def mixed_sum(
    objective: Objective, logits: torch.Tensor, labels: torch.Tensor, mix: torch.Tensor | None
) -> torch.Tensor:
    """The sum of the weighted training losses, a scalar, of `B` pictures mixed by `mix`.

    `logits` `[B, outputs]`, `labels` int64 `[B]`. A label brings its own class weight; their sum
    is that of the unmixed records.
    """
    own, _ = objective.training_sums(logits, labels)
    if mix is None:
        return own
    other, _ = objective.training_sums(logits, swapped(labels))
    return mix[0] * own + (1 - mix[0]) * other


def swapped(records: torch.Tensor) -> torch.Tensor:
    """`[B, ...]` with the two of each pair in each other's place.

    Without an index, by which XLA would gather a batch over all its devices.
    """
    pairs = len(records) // 2
    paired = records[: 2 * pairs].reshape(pairs, 2, *records.shape[1:]).flip(1)
    paired = paired.reshape(2 * pairs, *records.shape[1:])
    return paired if 2 * pairs == len(records) else torch.cat((paired, records[2 * pairs :]))
