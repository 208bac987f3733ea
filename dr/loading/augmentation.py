"""Augmentation of single records by albumentations, each draw fixed by (seed, epoch, record).

albumentations' own `Compose` hands every transform the same random stream, so that two flips at
p=0.5 fall together or not at all; here every transform of every record has a stream of its own.
"""

import copy
import difflib
import importlib
import inspect
import os
import random
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dr.config import AugmentConfig

Image = NDArray[np.uint8]


class Augmentation:
    """The transforms of `augment.transforms`, in order.

    A call depends on its arguments alone: not on the thread, the process, or earlier calls. An
    instance may be shared by threads (each builds transforms of its own) and pickled.
    """

    def __init__(self, config: AugmentConfig) -> None:
        """Check and build the transforms.

        Raises:
            ValueError: a name is no albumentations transform of a single image, or an argument
                is unknown to it or out of range.
        """
        self._settings: list[dict[str, Any]] = copy.deepcopy(list(config.transforms))
        self._own = threading.local()
        self._transforms()

    def __call__(self, image: Image, *, seed: int, epoch: int, record: int) -> Image:
        """Augment uint8 `[H, W, 3]`; the result has the same shape and type.

        `image` itself is never written to; without transforms it is returned as it is. `seed`,
        `epoch` and `record` are integers of at least 0.

        Raises:
            ValueError: a transform fails, or changes the shape or type.
        """
        transforms = self._transforms()
        if not transforms:
            return image
        streams = np.random.SeedSequence((seed, epoch, record)).generate_state(
            2 * len(transforms), np.uint64
        )
        augmented = image
        for number, transform in enumerate(transforms):
            first, second = streams[2 * number : 2 * number + 2].tolist()
            transform.set_random_state(np.random.default_rng(first), random.Random(second))
            augmented = self._applied(number, augmented)
        return augmented

    def check(self, image_size: int) -> None:
        """Try every transform, whatever its probability, on a black image of that side.

        Raises:
            ValueError: a transform fails, or changes the shape or type.
        """
        image = np.zeros((image_size, image_size, 3), np.uint8)
        for number, transform in enumerate(self._transforms()):
            transform.set_random_state(np.random.default_rng(0), random.Random(0))
            self._applied(number, image, force_apply=True)

    def __getstate__(self) -> dict[str, Any]:
        """The settings alone: transforms are built anew where it is unpickled."""
        return {"_settings": self._settings}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """As after construction; the transforms are built at first use."""
        self._settings = state["_settings"]
        self._own = threading.local()

    def _transforms(self) -> Sequence[Any]:
        if not hasattr(self._own, "transforms"):
            self._own.transforms = [
                _build(number, settings) for number, settings in enumerate(self._settings)
            ]
        transforms: Sequence[Any] = self._own.transforms
        return transforms

    def _applied(self, number: int, image: Image, *, force_apply: bool = False) -> Image:
        key = f"augment.transforms[{number}].name={self._settings[number]['name']!r}"
        transform = self._own.transforms[number]
        try:
            result = transform(image=image, force_apply=force_apply)["image"]
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{key}: fails on a {image.shape} image ({reason})") from error
        if getattr(result, "shape", None) != image.shape or result.dtype != np.uint8:
            found = f"{getattr(result, 'dtype', type(result))} {getattr(result, 'shape', '')}"
            fix = "take one that keeps size and type"
            raise ValueError(f"{key}: makes {found} of uint8 {image.shape}; {fix}")
        return result  # type: ignore[no-any-return]


def _build(number: int, settings: Mapping[str, Any]) -> Any:
    key, arguments = f"augment.transforms[{number}]", dict(settings)
    kind = _class(arguments.pop("name"), key)
    try:
        transform = kind(**arguments, strict=True)
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{key}.name={kind.__name__!r}: {reason}") from error
    if transform.targets_as_params:
        needs = ", ".join(transform.targets_as_params)
        raise ValueError(f"{key}.name={kind.__name__!r}: needs {needs} beside the image; drop it")
    return transform


def _class(name: str, key: str) -> Any:
    albumentations = _albumentations()
    bases = (albumentations.DualTransform, albumentations.ImageOnlyTransform)
    found = {
        known: kind
        for known, kind in inspect.getmembers(albumentations, inspect.isclass)
        if issubclass(kind, bases)
        and not issubclass(kind, albumentations.Transform3D)
        and kind not in bases
    }
    if name not in found:
        close = difflib.get_close_matches(name, found, n=3) or ["HorizontalFlip", "Affine"]
        hint = f"albumentations has no such transform of an image; it has {', '.join(close)}"
        raise ValueError(f"{key}.name={name!r}: {hint}")
    return found[name]


def _albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    return importlib.import_module("albumentations")
