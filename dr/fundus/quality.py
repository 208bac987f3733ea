"""Figures that tell a photograph that can be graded from one that hardly can."""

from dataclasses import dataclass

import cv2
import numpy as np
from cv2.typing import MatLike

from dr.fundus.crop import NEARLY_BLACK
from dr.fundus.decode import Pixels

OVEREXPOSED = 200.0
"""Mean gray above which a field is mostly glare."""

BLURRED = 0.6
"""Sharpness below which a photograph is out of focus, or hazy."""

JUDGED_SIDE = 192
"""Smaller prepared photographs are not called blurred: they show too little."""

SHARPNESS_SIDE = 256
"""Side in pixels of the copy that sharpness is measured on, where the image has as many."""

_MIN_RED_SHARE = 0.75
_MIN_CONTRAST = 0.05


@dataclass(frozen=True)
class Quality:
    """A photograph at its prepared size, before the filter.

    `brightness`: mean gray of the field, in [0, 255]. `sharpness`: contrast of fine
    structures (about 1/128 of the square, from 256 px on) over that of structures twice as wide,
    at least 0: about 0.9 in focus, 0.4 after a Gaussian blur of 1% of the field's diameter.
    `field_share`: pixels of the field as a share of the square, in [0, 1]. `focused`: not
    `BLURRED`. `fundus`: shape and colour are those of a retina seen through a round aperture.
    """

    brightness: float
    sharpness: float
    field_share: float
    focused: bool = True
    fundus: bool = True


def measure_quality(image: Pixels, mask: Pixels, *, round_field: bool) -> Quality:
    """Measure an RGB image, uint8 [S, S, 3], within `mask`, uint8 [S, S] of 0 and 1.

    An empty mask counts as the whole image. `round_field` is what `is_round` said of its field.
    """
    field = mask if cv2.countNonZero(mask) else np.ones_like(mask)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    red, green, blue, _ = cv2.mean(image, mask=field)
    sharpness = _sharpness(gray, field)
    return Quality(
        brightness=cv2.mean(gray, mask=field)[0],
        sharpness=sharpness,
        field_share=cv2.countNonZero(mask) / mask.size,
        focused=sharpness >= BLURRED or image.shape[0] < JUDGED_SIDE,
        fundus=round_field and red >= _MIN_RED_SHARE * max(green, blue),
    )


def _sharpness(gray: MatLike, field: Pixels) -> float:
    """Ratio of the deviations of two bands: Gaussians of 1 less 2 pixels, and of 2 less 4.

    P. Burt and E. Adelson, "The Laplacian Pyramid as a Compact Image Code", 1983.
    """
    side = min(SHARPNESS_SIDE, gray.shape[0])
    small = cv2.resize(gray, (side, side), interpolation=cv2.INTER_AREA)
    inner = _without_edge(cv2.resize(field, (side, side), interpolation=cv2.INTER_NEAREST))
    one = _blurred(small.astype(np.float32), 1)
    two = _blurred(one, 3**0.5)
    four = _blurred(two, 12**0.5)
    coarse = _deviation(two - four, inner)
    return _deviation(one - two, inner) / coarse if coarse > _MIN_CONTRAST else 0.0


def _blurred(image: MatLike, sigma: float) -> MatLike:
    return cv2.GaussianBlur(image, (2 * round(3 * sigma) + 1,) * 2, sigma)


def _deviation(band: MatLike, mask: MatLike) -> float:
    return float(cv2.meanStdDev(band, mask=mask)[1][0, 0])


def _without_edge(field: MatLike) -> MatLike:
    margin = 2 * (1 + field.shape[0] // 24) + 1
    kernel = np.ones((margin, margin), np.uint8)
    inner = cv2.erode(field, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return inner if cv2.countNonZero(inner) else field


def flags(quality: Quality) -> list[str]:
    """Names of what is wrong with a photograph; empty if nothing.

    `nearly_black`, of which no more can be said; `overexposed`, `blurred`, `no_fundus`.
    """
    if quality.brightness < NEARLY_BLACK:
        return ["nearly_black"]
    doubts = {
        "overexposed": quality.brightness > OVEREXPOSED,
        "blurred": not quality.focused,
        "no_fundus": not quality.fundus,
    }
    return [name for name, doubtful in doubts.items() if doubtful]
