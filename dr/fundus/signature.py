"""A short vector by which two copies of one photograph are found among many of other eyes.

Fundus photographs are alike in brightness, in where the disc and the macula lie, and in the shape
of the field, so a hash of their coarse look confuses them. What tells an eye are its vessels: the
signature is the detail inside the field, each place by the contrast around it.
"""

import hashlib

import cv2
import numpy as np
from numpy.typing import NDArray

from dr.fundus.decode import Pixels

SIDE = 48
"""The photograph is reduced to this many pixels a side."""

NORM = 750
"""Length of a signature, up to rounding: the product of two of the same picture is its square."""

ALIKE = 0.9
"""From this correlation on, two signatures are taken for copies of one photograph."""

_DETAIL, _AROUND = 7, 13
_FLAT = 0.5
_CLIP = 2.0
_STEPS = 64
_RADIUS = 0.8


def _inner_disc() -> NDArray[np.bool_]:
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    return np.asarray(x * x + y * y <= (_RADIUS * SIDE / 2) ** 2)


_DISC = _inner_disc()
LENGTH = int(_DISC.sum())
"""Number of values of a signature."""


SIGNATURE = np.dtype([("photograph", np.uint8, (16,)), ("picture", np.int8, (LENGTH,))])
"""What two photographs are compared by: the start of their bytes' SHA-256, and how they look."""


def sign_photograph(data: bytes, image: Pixels, mask: Pixels) -> bytes:
    """One `SIGNATURE` of the photograph in `data`; `image` and `mask` as in `picture_signature`."""
    return hashlib.sha256(data).digest()[:16] + picture_signature(image, mask).tobytes()


def picture_signature(image: Pixels, mask: Pixels) -> NDArray[np.int8]:
    """The signature of a prepared square before its filter, int8 [LENGTH].

    `image` is RGB uint8 [S, S, 3], `mask` its field, uint8 [S, S] of 0 and 1; what lies outside
    the field, or outside a disc of 0.8 of the square, counts nothing. All zero where nothing is
    to be seen. It is computed in whole numbers, so that every machine finds the same.
    """
    small = _reduced(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False))
    field = _reduced(mask * np.uint8(255)) == 255
    detail = (_DETAIL**2 * small.astype(np.int64) - _box_sum(small, _DETAIL)) * field
    around = _box_sum(detail**2, _AROUND) / np.maximum(1, _box_sum(field, _AROUND))
    contrast = detail / (np.sqrt(around) + _FLAT * _DETAIL**2)
    steps = np.rint(_STEPS * np.clip(contrast, -_CLIP, _CLIP)).astype(np.int64)
    return _normalised(steps[_DISC], field[_DISC])


def _reduced(plane: Pixels) -> Pixels:
    return cv2.resize(plane, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8)


def _box_sum(values: NDArray[np.generic], width: int) -> NDArray[np.float64]:
    """Sums over a square around each pixel; exact, because they are whole numbers below 2**53."""
    total = cv2.boxFilter(
        values.astype(np.float64),
        cv2.CV_64F,
        (width, width),
        normalize=False,
        borderType=cv2.BORDER_REPLICATE,
    )
    return np.asarray(total, dtype=np.float64)


def _normalised(values: NDArray[np.int64], field: NDArray[np.bool_]) -> NDArray[np.int8]:
    centred = (values * field.sum() - values.sum()) * field
    square = int((centred**2).sum())
    if not square:
        return np.zeros(LENGTH, np.int8)
    scaled = np.rint(NORM * centred / np.sqrt(np.float64(square)))
    return np.asarray(np.clip(scaled, -127, 127), dtype=np.int8)
