"""albumentations transforms: built by name, and drawn from without touching pixels."""

import difflib
import importlib
import inspect
import os
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def build_transform(settings: Mapping[str, Any], *, key: str) -> Any:
    """The albumentations transform `settings["name"]` with the other settings as its arguments.

    Raises:
        ValueError: naming `key`: no such transform of a single image, or an argument is unknown
            to it or out of range.
    """
    arguments = dict(settings)
    kind = _class(arguments.pop("name"), key)
    try:
        transform = _strictly(kind, arguments)
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{key}.name={kind.__name__!r}: {reason}") from error
    if transform.targets_as_params:
        needs = ", ".join(transform.targets_as_params)
        raise ValueError(f"{key}.name={kind.__name__!r}: needs {needs} beside the image; drop it")
    return transform


def _strictly(kind: Any, arguments: Mapping[str, Any]) -> Any:
    try:
        return kind(**arguments, strict=True)
    except TypeError as error:
        if "'strict'" not in str(error):
            raise
    return kind(**arguments)  # RandomRotate90, MedianBlur and ToSepia: Python itself is strict


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


def set_streams(transforms: Sequence[Any], key: Sequence[int]) -> None:
    """Give each transform random streams of its own for its next draw, derived from `key`."""
    if not transforms:
        return
    seeds = np.random.SeedSequence(key).generate_state(2 * len(transforms), np.uint64).tolist()
    for transform, first, second in zip(transforms, seeds[::2], seeds[1::2], strict=True):
        transform.set_random_state(np.random.default_rng(first), random.Random(second))


def draw(transform: Any, shape: tuple[int, ...]) -> dict[str, Any] | None:
    """What albumentations draws for a uint8 picture of `shape`; None where it leaves it alone.

    The same calls in the same order as when it is applied. Only for transforms whose parameters
    depend on the picture's shape and type alone.
    """
    if not transform.should_apply():
        return None
    data = {"image": np.broadcast_to(np.uint8(0), shape)}
    params = transform.update_transform_params(params=transform.get_params(), data=data)
    params |= transform.get_params_dependent_on_data(params=params, data=data)
    drawn: dict[str, Any] = params
    return drawn
