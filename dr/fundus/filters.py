"""The filters that remove a photograph's own lighting before it is packed."""

import math

import cv2
import numpy as np
from cv2.typing import MatLike

from dr.config import PreparationConfig
from dr.fundus.crop import Circle
from dr.fundus.decode import Pixels

REFERENCE_SIZE = 512
"""Image size in pixels at which a relative `filter_sigma` is meant."""

REDUCED_SIGMA = 4.0
"""From this sigma in pixels on, the blur inside a field is computed at half the size, from its
double at a quarter."""

NEUTRAL = 128
"""Gray value of a filtered pixel that equals its neighbourhood."""

_MIN_WEIGHT = 1e-3


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
    return _neutral_outside(_contrast(image, _mean_inside(image, mask, sigma)), mask)


def graham(image: Pixels, circle: Circle, *, radius_share: float, sigma_share: float) -> Pixels:
    """`unsharp` with a sigma that follows the field's radius, and 128 outside a smaller circle.

    `image` is uint8 [height, width, 3]; `circle` the field in its pixels. `sigma_share` and
    `radius_share`, the sigma and what is kept, are shares of the radius; Graham (2015) took 1/30
    and 0.9, where the circle cuts off the ring that the blur leaves at the field's edge.
    """
    sigmas = [max(sigma_share * radius, 1e-3) for radius in circle.radii]
    sharp = _contrast(image, cv2.GaussianBlur(image, (0, 0), sigmas[0], sigmaY=sigmas[1]))
    return _neutral_outside(sharp, circle.mask(image.shape[:2], share=radius_share))


def equalized(image: Pixels, mask: Pixels, *, clip: float, tiles: int) -> Pixels:
    """Contrast-limited adaptive histogram equalisation of CIE L*; a* and b* stay.

    `image` is uint8 [height, width, 3]; what `mask`, uint8 [height, width] of 0 and 1, leaves out
    becomes black. `clip` limits a bin to that many times the mean bin; `tiles` a side. K.
    Zuiderveld, "Contrast Limited Adaptive Histogram Equalization", Graphics Gems IV (1994).
    """
    lightness, green, blue = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2LAB))
    lightness = cv2.createCLAHE(clipLimit=clip, tileGridSize=(tiles, tiles)).apply(lightness)
    equal = cv2.cvtColor(cv2.merge([lightness, green, blue]), cv2.COLOR_LAB2RGB)
    return cv2.bitwise_and(equal, equal, mask=mask).astype(np.uint8, copy=False)


def _contrast(image: Pixels, mean: MatLike) -> Pixels:
    return cv2.addWeighted(image, 4, mean, -4, NEUTRAL).astype(np.uint8, copy=False)


def _neutral_outside(image: Pixels, mask: Pixels) -> Pixels:
    neutral = np.full_like(image, NEUTRAL)
    cv2.copyTo(image, mask, neutral)
    return neutral


def _mean_inside(image: Pixels, mask: Pixels, sigma: float) -> MatLike:
    """Normalized convolution: H. Knutsson and C.-F. Westin, CVPR 1993."""
    height, width = mask.shape
    masked: MatLike = cv2.bitwise_and(image, image, mask=mask)
    inside: MatLike = mask * np.uint8(255)
    by = _reduction(sigma)
    if by > 1:
        size = (-(-width // by), -(-height // by))
        masked = cv2.resize(masked, size, interpolation=cv2.INTER_AREA)
        inside = cv2.resize(inside, size, interpolation=cv2.INTER_AREA)
        # Averaging over `by` pixels and interpolating between them add this variance themselves.
        sigma = math.sqrt(sigma**2 - (by**2 - 1) / 4) / by
    window = (2 * max(1, round(3 * sigma)) + 1,) * 2
    colours = cv2.GaussianBlur(masked.astype(np.float32), window, sigma)
    weight = cv2.GaussianBlur(inside.astype(np.float32), window, sigma) / 255
    mean = cv2.convertScaleAbs(colours / np.maximum(weight, _MIN_WEIGHT)[..., None])
    return cv2.resize(mean, (width, height), interpolation=cv2.INTER_LINEAR)


def _reduction(sigma: float) -> int:
    if sigma < REDUCED_SIGMA:
        return 1
    return 2 if sigma < 2 * REDUCED_SIGMA else 4
