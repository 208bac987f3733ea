"""Where the retina lies in a photograph, and how that part becomes a square."""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from dr.fundus.decode import Pixels

REDUCED_SIDE = 320
"""The field is looked for on a copy with at most this long a side, in pixels."""

NEARLY_BLACK = 20.0
"""A field whose mean gray lies below this is not trusted: the photograph is kept whole."""

_MAX_BACKGROUND = 30.0
_MIN_CONTRAST = 4.0
_CONTRAST_SHARE = 0.1
_MIN_FIELD_SHARE = 0.04
_MIN_PART_SHARE = 0.1
_MIN_CHORD_SHARE = 0.05
_MIN_ROUNDNESS = 0.85
_MAX_BOX_SHARE = 0.93
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
    if cv2.countNonZero(mask) < _MIN_FIELD_SHARE * mask.size:
        return WHOLE_FIELD
    outline = _hull(mask)
    hull = fill_outline(outline, shape=mask.shape)
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    if cv2.mean(gray, mask=hull)[0] < NEARLY_BLACK:
        return WHOLE_FIELD
    height, width = mask.shape
    left, right = _extent(cv2.reduce(mask, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S))
    top, bottom = _extent(cv2.reduce(mask, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S))
    box = (left / width, top / height, right / width, bottom / height)
    return Field(box, outline / (width, height), found=True)


def _reduced(image: Pixels) -> Pixels:
    """Halve by area, then less than another half bilinearly: the same steps at every scale."""
    small: MatLike = image
    while max(small.shape) >= 2 * REDUCED_SIDE and min(small.shape[:2]) > 1:
        height, width = small.shape[0] // 2, small.shape[1] // 2
        even = small[: 2 * height, : 2 * width]
        small = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)
    factor = REDUCED_SIDE / max(small.shape)
    if factor < 1:
        size = (max(1, round(small.shape[1] * factor)), max(1, round(small.shape[0] * factor)))
        small = cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)
    return small.astype(np.uint8, copy=False)


def _bright_parts(small: Pixels) -> Pixels:
    red, green, blue = cv2.split(small)
    brightest = cv2.medianBlur(cv2.max(cv2.max(red, green), blue), 3).astype(np.uint8, copy=False)
    background = _background(brightest)
    contrast = _percentile(brightest, 0.95) - background
    threshold = background + max(_MIN_CONTRAST, _CONTRAST_SHARE * contrast)
    bright = (brightest > threshold).astype(np.uint8)
    _, parts, statistics, _ = cv2.connectedComponentsWithStats(bright, connectivity=4)
    areas = statistics[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    large = areas > _MIN_PART_SHARE * areas.max()
    if large.sum() == len(areas) - 1:
        return bright
    kept: Pixels = large.astype(np.uint8)[parts]
    return kept


def _percentile(values: Pixels, share: float) -> float:
    counts = cv2.calcHist([values], [0], None, [256], [0, 256]).ravel()
    return float(np.searchsorted(np.cumsum(counts), share * values.size))


def _background(brightest: Pixels) -> float:
    side = max(1, min(brightest.shape) // 16)
    edges = (slice(None, side), slice(-side, None))
    darkest = min(float(np.median(brightest[rows, columns])) for rows in edges for columns in edges)
    return darkest if darkest <= _MAX_BACKGROUND else 0.0


def _hull(mask: Pixels) -> NDArray[np.float64]:
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    hull = cv2.convexHull(np.concatenate(contours))
    return hull.reshape(-1, 2).astype(np.float64) + 0.5


def _extent(counts: MatLike) -> tuple[float, float]:
    """Where the field's width along a side, in pixels, crosses its least share, between pixels."""
    widths = counts.ravel() / (_MIN_CHORD_SHARE * counts.max())
    return _crossing(widths), len(widths) - _crossing(widths[::-1])


def _crossing(widths: NDArray[np.float64]) -> float:
    first = int(np.argmax(widths >= 1))
    if first == 0:
        return 0.0
    return first - 0.5 + float((1 - widths[first - 1]) / (widths[first] - widths[first - 1]))


def fill_outline(outline: NDArray[np.float64], *, shape: tuple[int, ...]) -> Pixels:
    """Draw a convex `outline`, float64 [N, 2] of x, y in pixels: 1 inside, uint8 `shape`."""
    mask = np.zeros(shape[:2], np.uint8)
    corners = np.floor(outline).astype(np.int32)
    cv2.fillConvexPoly(mask, corners, 1)
    return mask


def fit_square(image: Pixels, box: Box, *, size: int, fit: str) -> tuple[Pixels, Placement]:
    """Cut `box` out of RGB uint8 [height, width, 3] and make it uint8 [size, size, 3].

    `fit` is `stretch` (each side scaled by itself, always by area, as the seed did) or `pad`
    (aspect kept to half a pixel, by area, or bicubic where it grows; then black bars make it a
    square, the box in the middle).
    """
    crop = image[box.top : box.bottom, box.left : box.right]
    width, height = _fitted_size(box, size=size, fit=fit)
    shrinks = fit == "stretch" or max(box.width, box.height) >= size
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    fitted = cv2.resize(crop, (width, height), interpolation=interpolation)
    left, top = (size - width) // 2, (size - height) // 2
    scale = (width / box.width, height / box.height)
    shift = (left - box.left * scale[0], top - box.top * scale[1])
    return _framed(fitted, size=size, left=left, top=top), Placement(scale, shift)


def _fitted_size(box: Box, *, size: int, fit: str) -> tuple[int, int]:
    if fit == "stretch":
        return size, size
    scale = size / max(box.width, box.height)
    return max(1, round(box.width * scale)), max(1, round(box.height * scale))


def _framed(fitted: MatLike, *, size: int, left: int, top: int) -> Pixels:
    height, width = fitted.shape[:2]
    if (height, width) == (size, size):
        return fitted.astype(np.uint8, copy=False)
    square = np.zeros((size, size, 3), np.uint8)
    square[top : top + height, left : left + width] = fitted
    return square


def field_mask(field: Field, image: Pixels, placement: Placement, *, size: int) -> Pixels:
    """The field's pixels in the square that `image` was fitted to: uint8 [size, size], 0 or 1.

    A pixel that the outline cuts is none of them, unless no other is left.
    """
    height, width = image.shape[:2]
    outline = field.outline * (width, height) * placement.scale + placement.shift
    mask = fill_outline(outline, shape=(size, size))
    inner = cv2.erode(mask, np.ones((3, 3), np.uint8)).astype(np.uint8, copy=False)
    return inner if inner.any() else mask


@dataclass(frozen=True)
class Circle:
    """The field as a circle, in pixels of a square; an ellipse where the square was stretched.

    `centre` and `radii` are x, y.
    """

    centre: tuple[float, float]
    radii: tuple[float, float]

    def mask(self, shape: tuple[int, ...], *, share: float) -> Pixels:
        """1 within `share` of the radii, else 0: uint8 [height, width]."""
        x = (np.arange(shape[1]) + 0.5 - self.centre[0]) / self.radii[0]
        y = (np.arange(shape[0]) + 0.5 - self.centre[1]) / self.radii[1]
        within: Pixels = (np.add.outer(y**2, x**2) <= share**2).astype(np.uint8)
        return within


def field_circle(box: Box, placement: Placement) -> Circle:
    """The circle around `box`'s centre whose radius is half its longer side, in the square.

    A field whose top and bottom the camera cut off keeps its radius.
    """
    radius = max(box.width, box.height) / 2
    middle = ((box.left + box.right) / 2, (box.top + box.bottom) / 2)
    (across, down), (right, low) = placement.scale, placement.shift
    centre = (middle[0] * across + right, middle[1] * down + low)
    return Circle(centre, (radius * across, radius * down))


def is_round(field: Field, *, height: int, width: int) -> bool:
    """Whether a field is a circle, which the camera may have cut off at its sides.

    Its outline shares at least `_MIN_ROUNDNESS` of their union with the circle around its box,
    and leaves the box's corners empty. False where no field was found.
    """
    if not field.found:
        return False
    size = np.array((width, height))
    outline = (field.outline * size).astype(np.float32)
    left, top, right, bottom = np.array(field.box) * (*size, *size)
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    circle = corners.mean(axis=0) + max(right - left, bottom - top) / 2 * directions
    _, seen = cv2.intersectConvexConvex(circle.astype(np.float32), corners)
    area = cv2.contourArea(outline)
    shared, _ = cv2.intersectConvexConvex(outline, seen)
    roundness = shared / max(area + cv2.contourArea(seen) - shared, 1e-6)
    corner_share = area / max((right - left) * (bottom - top), 1e-6)
    return bool(roundness >= _MIN_ROUNDNESS and corner_share <= _MAX_BOX_SHARE)
