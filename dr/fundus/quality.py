"""Figures that tell a photograph that can be graded from one that hardly can."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dr.fundus.crop import NEARLY_BLACK
from dr.fundus.decode import Pixels

OVEREXPOSED = 200.0
"""Mean gray above which a field is mostly glare."""


@dataclass(frozen=True)
class Quality:
    """A photograph at its prepared size, before the filter.

    `brightness`: mean gray of the field, in [0, 255]. `sharpness`: variance of the Laplacian of
    gray inside the field, at least 0; it depends on the image size, so compare it within one
    preparation only. `field_share`: pixels of the field as a share of the square, in [0, 1].
    """

    brightness: float
    sharpness: float
    field_share: float


def measure_quality(image: Pixels, mask: Pixels) -> Quality:
    """Measure an RGB image, uint8 [S, S, 3], within `mask`, uint8 [S, S] of 0 and 1.

    An empty mask counts as the whole image. Sharpness by variance of the Laplacian:
    J. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.
    """
    field = mask > 0 if mask.any() else np.ones(mask.shape, dtype=bool)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    inner = _without_edge(field)
    laplacian = cv2.Laplacian(gray, cv2.CV_32F)[inner if inner.any() else field]
    return Quality(
        brightness=float(gray[field].mean()),
        sharpness=float(laplacian.var(dtype=np.float64)),
        field_share=float(mask.mean()),
    )


def _without_edge(field: NDArray[np.bool_]) -> NDArray[np.bool_]:
    margin = 2 * max(1, field.shape[0] // 64) + 1
    kernel = np.ones((margin, margin), np.uint8)
    inner = cv2.erode(field.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return inner > 0


def flags(quality: Quality) -> list[str]:
    """Names of what is wrong with a photograph: `nearly_black`, `overexposed`; empty if nothing."""
    found = []
    if quality.brightness < NEARLY_BLACK:
        found.append("nearly_black")
    if quality.brightness > OVEREXPOSED:
        found.append("overexposed")
    return found
