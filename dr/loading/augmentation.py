"""Augmentation of single records by albumentations, each draw fixed by (seed, epoch, record).

albumentations' own `Compose` hands every transform the same random stream, so that two flips at
p=0.5 fall together or not at all; here every transform of every record has a stream of its own.
Each draws its parameters by its own code; neighbours that flip, turn or warp are then applied as
one warp, so that a picture is resampled once.
"""

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dr.config import AugmentConfig
from dr.loading.transforms import build_transform, draw, set_streams
from dr.loading.warps import (
    Fold,
    Image,
    Matrix,
    Sampling,
    Single,
    Warper,
    is_geometric,
    matrix_of,
    sampling_of,
    stages_of,
)

T = TypeVar("T")


class Augmentation:
    """The transforms of `augment.transforms`, in order.

    A call depends on its arguments alone: not on the thread, the process, or earlier calls. An
    instance may be shared by threads (each builds transforms of its own) and pickled.
    `on_device` says that `draw` is meant to be used, and the pictures warped in batches.
    """

    def __init__(self, config: AugmentConfig) -> None:
        """Check and build the transforms.

        Raises:
            ValueError: a name is no albumentations transform of a single image, an argument is
                unknown to it or out of range, or it cannot run where `augment.where` says.
        """
        self._settings: list[dict[str, Any]] = copy.deepcopy(list(config.transforms))
        self._own = threading.local()
        self.on_device = config.where == "device"
        for number, transform in enumerate(self._workshop().transforms):
            reason = _bound_to_workers(transform) if self.on_device else None
            if reason is not None:
                fix = f"cannot run on the device ({reason}); set augment.where=workers"
                raise ValueError(f"{self._key(number)}: {fix}")

    def __call__(
        self, image: Image, *, seed: int, epoch: int, record: int, out: Image | None = None
    ) -> Image:
        """Augment uint8 `[H, W, 3]`; the result has the same shape and type.

        The result lies in `out` where it is given, which may be `image`; otherwise `image` is
        never written to, and returned itself where nothing changes it. `seed`, `epoch` and
        `record` are integers of at least 0.

        Raises:
            ValueError: a transform fails, or changes the shape or type.
        """
        own = self._workshop()
        set_streams(own.transforms, (seed, epoch, record))
        augmented = image
        for stage in own.stages:
            if isinstance(stage, Single):
                augmented = self._applied(own, stage.number, augmented)
            else:
                matrix = self._matrix(own, stage, image.shape)
                augmented = own.warper(augmented, matrix, stage.sampling, out)
        if out is None or augmented is out:
            return augmented
        np.copyto(out, augmented)
        return out

    def draw(self, size: int, *, seed: int, epoch: int, record: int) -> list[NDArray[np.float64]]:
        """What a call would do to a picture of `size` x `size` pixels, an array a stage.

        A warp's map `[3, 3]` (see `dr.loading.warps`), or alpha and beta `[2]` of brightness and
        contrast, which make alpha x + beta of the gray value x. Only for transforms that
        `augment.where=device` accepts.
        """
        own = self._workshop()
        set_streams(own.transforms, (seed, epoch, record))
        shape = (size, size, 3)
        return [
            self._tone(own, stage, shape)
            if isinstance(stage, Single)
            else self._matrix(own, stage, shape)
            for stage in own.stages
        ]

    @property
    def samplings(self) -> list[Sampling | None]:
        """For each array of `draw`, how its warp samples; None for brightness and contrast."""
        return [
            None if isinstance(stage, Single) else stage.sampling or Sampling()
            for stage in self._workshop().stages
        ]

    def check(self, image_size: int) -> None:
        """Try every transform, whatever its probability, on a black image of that side.

        Raises:
            ValueError: a transform fails, or changes the shape or type.
        """
        image = np.zeros((image_size, image_size, 3), np.uint8)
        own = self._workshop()
        set_streams(own.transforms, (0, 0, 0))
        for number in range(len(own.transforms)):
            self._applied(own, number, image, force_apply=True)

    def __getstate__(self) -> dict[str, Any]:
        """The settings alone: transforms are built anew where it is unpickled."""
        return {"_settings": self._settings, "on_device": self.on_device}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """As after construction; the transforms are built at first use."""
        self.__dict__.update(state)
        self._own = threading.local()

    def _workshop(self) -> "_Workshop":
        if not hasattr(self._own, "workshop"):
            transforms = [
                build_transform(settings, key=f"augment.transforms[{number}]")
                for number, settings in enumerate(self._settings)
            ]
            self._own.workshop = _Workshop(transforms, stages_of(transforms), Warper())
        workshop: _Workshop = self._own.workshop
        return workshop

    def _key(self, number: int) -> str:
        return f"augment.transforms[{number}].name={self._settings[number]['name']!r}"

    def _matrix(self, own: "_Workshop", fold: Fold, shape: tuple[int, ...]) -> Matrix:
        matrix: Matrix = np.eye(3)
        for number in fold.numbers:
            step = self._named(number, shape, _map_drawn, own.transforms[number], shape)
            matrix = matrix if step is None else step @ matrix
        return matrix

    def _tone(
        self, own: "_Workshop", single: Single, shape: tuple[int, ...]
    ) -> NDArray[np.float64]:
        drawn = self._named(single.number, shape, draw, own.transforms[single.number], shape)
        return np.array([1.0, 0.0] if drawn is None else [drawn["alpha"], drawn["beta"]])

    def _applied(
        self, own: "_Workshop", number: int, image: Image, *, force_apply: bool = False
    ) -> Image:
        def apply() -> Any:
            return own.transforms[number](image=image, force_apply=force_apply)["image"]

        result = self._named(number, image.shape, apply)
        if getattr(result, "shape", None) != image.shape or result.dtype != np.uint8:
            found = f"{getattr(result, 'dtype', type(result))} {getattr(result, 'shape', '')}"
            fix = "take one that keeps size and type"
            raise ValueError(f"{self._key(number)}: makes {found} of uint8 {image.shape}; {fix}")
        return result  # type: ignore[no-any-return]

    def _named(
        self, number: int, shape: tuple[int, ...], step: Callable[..., T], *arguments: Any
    ) -> T:
        """`step(*arguments)`, its errors naming the transform."""
        try:
            return step(*arguments)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{self._key(number)}: fails on a {shape} image ({reason})") from error


@dataclass(frozen=True)
class _Workshop:
    """What a thread augments with."""

    transforms: Sequence[Any]
    stages: Sequence[Fold | Single]
    warper: Warper


def _map_drawn(transform: Any, shape: tuple[int, ...]) -> Matrix | None:
    drawn = draw(transform, shape)
    return None if drawn is None else matrix_of(transform, drawn)


def _bound_to_workers(transform: Any) -> str | None:
    """Why a transform cannot run on the device; None where it can."""
    if is_geometric(transform):
        sampling = sampling_of(transform)
        if sampling is None or sampling.on_device:
            return None
        return "it warps with interpolation 1 and border_mode 0, 1, 2 or 4 only"
    if type(transform).__name__ != "RandomBrightnessContrast":
        return "which flips, turns, warps and changes brightness and contrast only"
    return None if transform.brightness_by_max else "which needs brightness_by_max=true"
