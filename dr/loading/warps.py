"""Geometric transforms as matrices, so that several of them resample a picture once.

A matrix `[3, 3]` takes the place (x, y, 1) of a pixel to where it goes, up to a common factor.
Pixel centres lie at whole numbers, as in OpenCV: a horizontal flip takes x to width - 1 - x.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Matrix = NDArray[np.float64]

DEVICE_BORDERS = (
    cv2.BORDER_CONSTANT,
    cv2.BORDER_REPLICATE,
    cv2.BORDER_REFLECT,
    cv2.BORDER_REFLECT_101,
)
_STILL = 1e-3
"""Pixels. A map that lies closer than this to a flip or quarter turn is taken for one."""


@dataclass(frozen=True)
class Sampling:
    """How a warp reads between and beyond pixels, in OpenCV's numbers.

    `fill` is a gray value a channel, for what lies outside where the border is constant.
    """

    interpolation: int = cv2.INTER_LINEAR
    border_mode: int = cv2.BORDER_CONSTANT
    fill: tuple[float, ...] = (0.0, 0.0, 0.0)

    @property
    def on_device(self) -> bool:
        """Whether a batch on a device can be sampled so."""
        return self.interpolation == cv2.INTER_LINEAR and self.border_mode in DEVICE_BORDERS


@dataclass(frozen=True)
class Fold:
    """Neighbouring transforms, by number, that make one map.

    `sampling` is None where all of them only flip and turn.
    """

    numbers: tuple[int, ...]
    sampling: Sampling | None


@dataclass(frozen=True)
class Single:
    """A transform that albumentations applies itself."""

    number: int


def stages_of(transforms: Sequence[Any]) -> list[Fold | Single]:
    """Albumentations transforms, grouped: neighbours that resample alike become one `Fold`."""
    found: list[Fold | Single] = []
    for number, transform in enumerate(transforms):
        if not is_geometric(transform):
            found.append(Single(number))
            continue
        fold = Fold((number,), sampling_of(transform))
        joined = _joined(found[-1], fold) if found else None
        found[-1:] = [joined] if joined else [*found[-1:], fold]
    return found


def _joined(first: Fold | Single, second: Fold) -> Fold | None:
    if isinstance(first, Single):
        return None
    samplings = {fold.sampling for fold in (first, second)} - {None}
    if len(samplings) > 1:
        return None
    return Fold(first.numbers + second.numbers, next(iter(samplings), None))


_ELEMENTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "HorizontalFlip": lambda drawn: "h",
    "VerticalFlip": lambda drawn: "v",
    "Transpose": lambda drawn: "t",
    "RandomRotate90": lambda drawn: ("e", "r90", "r180", "r270")[drawn["factor"]],
    "D4": lambda drawn: str(drawn["group_element"]),
    "SquareSymmetry": lambda drawn: str(drawn["group_element"]),
}
_CHANGES_SIZE: dict[str, Callable[[Any], bool]] = {
    "Rotate": lambda transform: bool(transform.crop_border),
    "SafeRotate": lambda transform: False,
    "Affine": lambda transform: bool(transform.fit_output),
    "ShiftScaleRotate": lambda transform: False,
    "Perspective": lambda transform: not transform.keep_size,
}


def is_geometric(transform: Any) -> bool:
    """Whether an albumentations transform is a flip, a turn, or a warp by a matrix of its own."""
    name = type(transform).__name__
    if name in _ELEMENTS:
        return True
    return name in _CHANGES_SIZE and not _CHANGES_SIZE[name](transform)


def sampling_of(transform: Any) -> Sampling | None:
    """How a geometric transform samples; None for one that only flips or turns."""
    if type(transform).__name__ in _ELEMENTS:
        return None
    fill = transform.fill if transform.border_mode == cv2.BORDER_CONSTANT else 0.0
    channels = tuple(fill) if isinstance(fill, Sequence) else (float(fill),) * 3
    return Sampling(transform.interpolation, transform.border_mode, (*channels, 0.0, 0.0)[:3])


def matrix_of(transform: Any, drawn: Mapping[str, Any]) -> Matrix:
    """The map that a geometric transform makes with the parameters it has drawn.

    Raises ValueError for a quarter turn or transposition of a picture that is not square.
    """
    height, width = drawn["shape"][:2]
    element = _ELEMENTS.get(type(transform).__name__)
    if element is not None:
        return symmetry(element(drawn), height=height, width=width)
    matrix: Matrix = np.asarray(drawn["matrix"], np.float64)
    if type(transform).__name__ == "Perspective":
        scale = (width / drawn["max_width"], height / drawn["max_height"], 1.0)
        return np.diag(scale) @ matrix
    return matrix


_TURNS = {
    "e": ((1, 0), (0, 1)),
    "h": ((-1, 0), (0, 1)),
    "v": ((1, 0), (0, -1)),
    "r180": ((-1, 0), (0, -1)),
    "t": ((0, 1), (1, 0)),
    "r90": ((0, 1), (-1, 0)),
    "r270": ((0, -1), (1, 0)),
    "hvt": ((0, -1), (-1, 0)),
}
_NAMES = {turn: name for name, turn in _TURNS.items()}
_EXACT: dict[str, Callable[[Image], Any]] = {
    "e": lambda image: image,
    "h": lambda image: cv2.flip(image, 1),
    "v": lambda image: cv2.flip(image, 0),
    "r180": lambda image: cv2.flip(image, -1),
    "t": cv2.transpose,
    "r90": lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
    "r270": lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    "hvt": lambda image: cv2.flip(cv2.transpose(image), -1),
}


def symmetry(element: str, *, height: int, width: int) -> Matrix:
    """The map of an element of the square's symmetry group, in albumentations' names for them.

    Raises ValueError for one that swaps the sides of a picture that is not square.
    """
    (a, b), (c, d) = _TURNS[element]
    if a == 0 and height != width:
        raise ValueError(f"swaps the sides of a picture of {width} x {height}")
    x, y = (width - 1) * (a + b < 0), (height - 1) * (c + d < 0)
    return np.array([[a, b, x], [c, d, y], [0, 0, 1]], np.float64)


def as_symmetry(matrix: Matrix, *, height: int, width: int) -> str | None:
    """The flip or turn that `matrix` is, to within a thousandth of a pixel; None for others."""
    (a, b, _), (c, d, _), _ = matrix.tolist()
    element = _NAMES.get(((round(a), round(b)), (round(c), round(d))))
    if element is None or (round(a) == 0 and height != width):
        return None
    off = np.abs(matrix - symmetry(element, height=height, width=width))
    return element if (off @ (width, height, 1)).max() < _STILL else None


class Warper:
    """Applies matrices to pictures; holds buffers, so each thread needs one of its own."""

    def __init__(self) -> None:
        self._wide: Image = np.empty((0, 0, 4), np.uint8)
        self._warped: Image = np.empty((0, 0, 4), np.uint8)

    def __call__(
        self, image: Image, matrix: Matrix, sampling: Sampling | None, out: Image | None = None
    ) -> Image:
        """Warp uint8 `[H, W, 3]`, into `out` (which may be `image`) where it is given.

        Flips and quarter turns are exact; where nothing moves, `image` itself is the result.
        """
        height, width = image.shape[:2]
        element = as_symmetry(matrix, height=height, width=width)
        if element is not None:
            return _into(out, _EXACT[element](image))
        assert sampling is not None, "flips and turns make flips and turns"
        if sampling.interpolation != cv2.INTER_LINEAR:
            return _into(out, _resample(image, matrix, sampling, None))
        return self._linear(image, matrix, sampling, out)

    def _linear(self, image: Image, matrix: Matrix, sampling: Sampling, out: Image | None) -> Image:
        """Through four channels: OpenCV interpolates these at about twice the speed of three."""
        if self._wide.shape[:2] != image.shape[:2]:
            self._wide = np.empty((*image.shape[:2], 4), np.uint8)
            self._warped = np.empty_like(self._wide)
        cv2.cvtColor(image, cv2.COLOR_RGB2RGBA, dst=self._wide)
        _resample(self._wide, matrix, sampling, self._warped)
        target = np.empty_like(image) if out is None else out
        return _into(out, cv2.cvtColor(self._warped, cv2.COLOR_RGBA2RGB, dst=target))


def _resample(image: Image, matrix: Matrix, sampling: Sampling, out: Image | None) -> Any:
    height, width = image.shape[:2]
    flat = not matrix[2, :2].any()
    warp: Any = cv2.warpAffine if flat else cv2.warpPerspective
    return warp(
        image,
        matrix[:2] / matrix[2, 2] if flat else matrix,
        (width, height),
        dst=out,
        flags=sampling.interpolation,
        borderMode=sampling.border_mode,
        borderValue=sampling.fill,
    )


def _into(out: Image | None, result: Any) -> Image:
    if out is None or result is out:
        return result  # type: ignore[no-any-return]
    np.copyto(out, result)
    return out
