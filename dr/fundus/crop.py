"""Where the retina lies in a photograph, and how that part becomes a square."""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dr.fundus.decode import Pixels

REDUCED_SIDE = 512
"""The field is looked for on a copy with at most this long a side, in pixels."""

NEARLY_BLACK = 20.0
"""A field whose mean gray lies below this is not trusted: the photograph is kept whole."""

_MAX_BACKGROUND = 30.0
_MIN_CONTRAST = 4.0
_CONTRAST_SHARE = 0.1
_MIN_FIELD_SHARE = 0.04
_MIN_PART_SHARE = 0.1
_MIN_CHORD_SHARE = 0.05
_WHOLE = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], dtype=np.float64)


class Box(NamedTuple):
    """A rectangle in pixels; `right` and `bottom` lie just outside it."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.bottom - self.top


@dataclass(frozen=True)
class Field:
    """The field of view of a photograph, in shares of its width and height.

    `box` is left, top, right, bottom in [0, 1]; `outline` a convex polygon, float64 [N, 2] of
    x, y. `found` is false where the photograph is kept whole.
    """

    box: tuple[float, float, float, float]
    outline: NDArray[np.float64]
    found: bool


WHOLE_FIELD = Field((0.0, 0.0, 1.0, 1.0), _WHOLE, found=False)


@dataclass(frozen=True)
class Placement:
    """How a photograph lies in its square.

    x, y in pixels of the photograph times `scale`, plus `shift`, gives pixels of the square.
    """

    scale: tuple[float, float]
    shift: tuple[float, float]


def whole_box(image: Pixels) -> Box:
    """The box of the whole image, uint8 [height, width, 3]."""
    return Box(0, 0, image.shape[1], image.shape[0])


def gray_box(image: Pixels, *, threshold: int) -> Box:
    """Box of the pixels whose gray value exceeds `threshold` (0 to 254), as the seed cropped.

    `image` is RGB uint8 [height, width, 3]. One bright pixel moves the box. The whole image
    where no pixel is above.
    """
    mask = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) > threshold
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return whole_box(image)
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def field_box(image: Pixels, field: Field) -> Box:
    """Box of `field` in pixels of `image`, uint8 [height, width, 3]; at least one pixel."""
    height, width = image.shape[:2]
    left, top = int(field.box[0] * width), int(field.box[1] * height)
    right, bottom = int(np.ceil(field.box[2] * width)), int(np.ceil(field.box[3] * height))
    return Box(left, top, min(right, width), min(bottom, height))


def find_field(image: Pixels) -> Field:
    """Find the field of view of an RGB photograph, uint8 [height, width, 3].

    The brightest channel of a reduced copy is compared with the background, the darkest of the
    four corners: what exceeds it by a tenth of the photograph's contrast, in coherent parts, is
    field. So neither JPEG noise nor the decoded size moves the box by more than a percent.
    `WHOLE_FIELD` for photographs that are nearly black and where there is no background.
    """
    small = _reduced(image)
    mask = _bright_parts(small)
    if mask.mean() < _MIN_FIELD_SHARE:
        return WHOLE_FIELD
    outline = _hull(mask)
    hull = fill_outline(outline, shape=mask.shape)
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    if gray[hull > 0].mean() < NEARLY_BLACK:
        return WHOLE_FIELD
    height, width = mask.shape
    left, right = _extent(mask.sum(axis=0, dtype=np.int64))
    top, bottom = _extent(mask.sum(axis=1, dtype=np.int64))
    box = (left / width, top / height, right / width, bottom / height)
    return Field(box, outline / (width, height), found=True)


def _reduced(image: Pixels) -> Pixels:
    height, width = image.shape[:2]
    factor = REDUCED_SIDE / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _bright_parts(small: Pixels) -> Pixels:
    red, green, blue = cv2.split(small)
    brightest = cv2.medianBlur(cv2.max(cv2.max(red, green), blue), 3).astype(np.uint8, copy=False)
    background = _background(brightest)
    contrast = float(np.percentile(brightest, 95)) - background
    threshold = background + max(_MIN_CONTRAST, _CONTRAST_SHARE * contrast)
    bright = (brightest > threshold).astype(np.uint8)
    _, parts, statistics, _ = cv2.connectedComponentsWithStats(bright, connectivity=4)
    areas = statistics[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    kept: Pixels = (areas > _MIN_PART_SHARE * areas.max()).astype(np.uint8)[parts]
    return kept


def _background(brightest: Pixels) -> float:
    side = max(1, min(brightest.shape) // 16)
    edges = (slice(None, side), slice(-side, None))
    darkest = min(float(np.median(brightest[rows, columns])) for rows in edges for columns in edges)
    return darkest if darkest <= _MAX_BACKGROUND else 0.0


def _hull(mask: Pixels) -> NDArray[np.float64]:
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    hull = cv2.convexHull(np.concatenate(contours))
    return hull.reshape(-1, 2).astype(np.float64) + 0.5


def _extent(counts: NDArray[np.int64]) -> tuple[int, int]:
    inside = np.flatnonzero(counts >= _MIN_CHORD_SHARE * counts.max())
    return int(inside[0]), int(inside[-1]) + 1


def fill_outline(outline: NDArray[np.float64], *, shape: tuple[int, ...]) -> Pixels:
    """Draw a convex `outline`, float64 [N, 2] of x, y in pixels: 1 inside, uint8 `shape`."""
    mask = np.zeros(shape[:2], np.uint8)
    corners = np.floor(outline).astype(np.int32)
    cv2.fillConvexPoly(mask, corners, 1)
    return mask


def fit_square(image: Pixels, box: Box, *, size: int, fit: str) -> tuple[Pixels, Placement]:
    """Cut `box` out of RGB uint8 [height, width, 3] and make it uint8 [size, size, 3].

    `fit` is `stretch` (each side scaled by itself, always by area, as the seed did) or `pad`
    (black bars make it a square, its centre in the middle; then by area, or bicubic where it
    grows).
    """
    crop = image[box.top : box.bottom, box.left : box.right]
    if fit == "stretch":
        square = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
        scale = (size / box.width, size / box.height)
        return square.astype(np.uint8, copy=False), _placement(box, scale, (0, 0))
    side = max(box.width, box.height)
    bars = ((side - box.width) // 2, (side - box.height) // 2)
    padded = _padded(crop, side=side, left=bars[0], top=bars[1])
    interpolation = cv2.INTER_AREA if side >= size else cv2.INTER_CUBIC
    square = cv2.resize(padded, (size, size), interpolation=interpolation)
    scale = (size / side, size / side)
    return square.astype(np.uint8, copy=False), _placement(box, scale, bars)


def _padded(crop: Pixels, *, side: int, left: int, top: int) -> Pixels:
    if crop.shape[:2] == (side, side):
        return crop
    padded = np.zeros((side, side, 3), np.uint8)
    padded[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return padded


def _placement(box: Box, scale: tuple[float, float], bars: tuple[int, int]) -> Placement:
    shift = (scale[0] * (bars[0] - box.left), scale[1] * (bars[1] - box.top))
    return Placement(scale, shift)


def field_mask(field: Field, image: Pixels, placement: Placement, *, size: int) -> Pixels:
    """The field's pixels in the square that `image` was fitted to: uint8 [size, size], 0 or 1.

    A pixel that the outline cuts is none of them, unless no other is left.
    """
    height, width = image.shape[:2]
    outline = field.outline * (width, height) * placement.scale + placement.shift
    mask = fill_outline(outline, shape=(size, size))
    inner = cv2.erode(mask, np.ones((3, 3), np.uint8)).astype(np.uint8, copy=False)
    return inner if inner.any() else mask
