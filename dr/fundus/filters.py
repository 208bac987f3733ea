"""The filter that removes a photograph's own lighting before it is packed."""

import math

import cv2
import numpy as np
from cv2.typing import MatLike

from dr.config import PreparationConfig
from dr.fundus.decode import Pixels

REFERENCE_SIZE = 512
"""Image size in pixels at which a relative `filter_sigma` is meant."""

HALVED_SIGMA = 8.0
"""From this sigma in pixels on, the blur inside a field is computed at half the size."""

NEUTRAL = 128
"""Gray value of a filtered pixel that equals its neighbourhood."""


def filter_sigma(settings: PreparationConfig, *, image_size: int) -> float:
    """Sigma of the blur in pixels of an image with sides of `image_size`."""
    if not settings.filter_relative:
        return settings.filter_sigma
    return settings.filter_sigma * image_size / REFERENCE_SIZE


def unsharp(image: Pixels, *, sigma: float) -> Pixels:
    """`4 x - 4 blur(x) + 128`, saturating: uint8 [height, width, 3] in and out.

    B. Graham, "Kaggle Diabetic Retinopathy Detection Competition Report" (2015). At the field's
    edge the blur mixes in the black around it, which leaves a bright and a dark ring.
    """
    return _contrast(image, cv2.GaussianBlur(image, (0, 0), sigma))


def unsharp_inside(image: Pixels, mask: Pixels, *, sigma: float) -> Pixels:
    """`unsharp` whose blur sees only the field, and 128 outside it: no ring at the edge.

    `image` is uint8 [height, width, 3], `mask` uint8 [height, width] of 0 and 1.
    """
    sharp = _contrast(image, _mean_inside(image, mask, sigma))
    sharp[mask == 0] = NEUTRAL
    return sharp


def _contrast(image: Pixels, mean: MatLike) -> Pixels:
    return cv2.addWeighted(image, 4, mean, -4, NEUTRAL).astype(np.uint8, copy=False)


def _mean_inside(image: Pixels, mask: Pixels, sigma: float) -> MatLike:
    """Normalized convolution: H. Knutsson and C.-F. Westin, CVPR 1993.

    A wide blur is taken at half the size, where averaging and interpolation themselves blur by a
    variance of 1 pixel.
    """
    height, width = mask.shape
    masked: MatLike = cv2.bitwise_and(image, image, mask=mask)
    inside: MatLike = mask.astype(np.float32)
    if sigma >= HALVED_SIGMA:
        half = ((width + 1) // 2, (height + 1) // 2)
        masked = cv2.resize(masked, half, interpolation=cv2.INTER_AREA)
        inside = cv2.resize(inside, half, interpolation=cv2.INTER_AREA)
        sigma = math.sqrt(sigma**2 - 1) / 2
    window = (2 * max(1, round(3 * sigma)) + 1,) * 2
    weight = np.maximum(cv2.GaussianBlur(inside, window, sigma), 1e-3)
    mean = cv2.GaussianBlur(masked.astype(np.float32), window, sigma) / weight[..., None]
    return cv2.convertScaleAbs(cv2.resize(mean, (width, height), interpolation=cv2.INTER_LINEAR))
