"""Canvases in the field's own coordinates, and the random shapes painted on them.

A field point (x, y) has the radius of the round field as its unit: x grows to the right, y down.
A canvas is square and shows the field with a margin, from -EXTENT to EXTENT both ways.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

EXTENT = 1.06
SHIFT = 4


def random_stream(seed: int, patient: int, *path: int) -> np.random.Generator:
    """The generator of one thing of one patient; different paths are independent streams."""
    return np.random.default_rng([seed, patient, *path])


def floats(values: Any) -> Floats:
    """`values` as float32."""
    return np.asarray(values, dtype=np.float32)


def to_pixels(points: Floats, side: int) -> NDArray[np.int32]:
    """Field points as OpenCV's fixed-point pixels of a canvas of `side` pixels."""
    pixels = (points + EXTENT) * (side / (2 * EXTENT)) - 0.5
    return np.asarray(np.round(pixels * (1 << SHIFT)), dtype=np.int32)


def mesh(side: int) -> tuple[Floats, Floats]:
    """X of shape (1, side) and y of shape (side, 1): the field points of a canvas's pixels."""
    axis = floats((np.arange(side) + 0.5) * (2 * EXTENT / side) - EXTENT)
    return axis[None, :], axis[:, None]


def distance(side: int, centre: Floats) -> Floats:
    """The distance of every pixel to `centre`, in field units: (side, side) float32."""
    x, y = mesh(side)
    return floats(np.hypot(x - centre[0], y - centre[1]))


def smooth_noise(rng: np.random.Generator, side: int, cells: int) -> Floats:
    """Noise of about unit deviation whose lumps are 1/`cells` of the side: (side, side)."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    return floats(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))


def blur(image: Floats, sigma: float) -> Floats:
    """A Gaussian blur with `sigma` in pixels; nothing below a third of a pixel."""
    if sigma < 0.3:
        return image
    return floats(cv2.GaussianBlur(image, (0, 0), sigma))


def resize(image: Floats, side: int) -> Floats:
    """A square image at another side: averaged when smaller, bilinear when larger."""
    method = cv2.INTER_AREA if side < image.shape[0] else cv2.INTER_LINEAR
    return floats(cv2.resize(image, (side, side), interpolation=method))


def fill(canvas: Bytes, polygons: Floats, levels: Floats) -> None:
    """Paint polygons of shape (n, corners, 2) one after another, the faintest first.

    `levels` in 0..1 are what each leaves on the canvas, over what was there.
    """
    corners = to_pixels(polygons, canvas.shape[0])
    for index in np.argsort(levels, kind="stable"):
        level = round(255 * float(levels[index]))
        cv2.fillPoly(canvas, [corners[index]], level, cv2.LINE_AA, SHIFT)


def coverage(side: int, polygons: Floats, levels: Floats, oversampling: int = 2) -> Floats:
    """How far polygons cover each pixel, 0..1: (side, side) float32."""
    canvas = np.zeros((side * oversampling,) * 2, dtype=np.uint8)
    fill(canvas, polygons, levels)
    if oversampling > 1:
        canvas = np.asarray(cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA))
    return floats(canvas) * np.float32(1 / 255)


def blobs(
    rng: np.random.Generator,
    centres: Floats,
    radii: Floats,
    *,
    aspect: Floats | float = 1.0,
    angles: Floats | float = 0.0,
    roughness: float = 0.15,
    corners: int = 20,
) -> Floats:
    """Irregular ellipses, as polygons of shape (n, corners, 2).

    `radii` are the shorter half axes; `aspect` times as long is the one along `angles`.
    """
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    waves = np.arange(2, 6)
    sizes = rng.normal(0, roughness, (len(radii), 4)) / np.sqrt(waves)
    phases = rng.uniform(0, 2 * np.pi, (len(radii), 4, 1))
    ripple = np.einsum("nw,nwk->nk", sizes, np.cos(waves[:, None] * turn + phases))
    reach = radii[:, None] * np.clip(1 + ripple, 0.3, 2)
    along = reach * np.cos(turn) * np.reshape(aspect, (-1, 1))
    across = reach * np.sin(turn)
    cos, sin = np.reshape(np.cos(angles), (-1, 1)), np.reshape(np.sin(angles), (-1, 1))
    offsets = np.stack([along * cos - across * sin, along * sin + across * cos], axis=-1)
    return floats(centres[:, None] + offsets)


def ribbons(points: Floats, widths: Floats) -> Floats:
    """The outlines of paths (n, steps, 2) with `widths` (n, steps): (n, 2 * steps, 2)."""
    along = np.gradient(points, axis=1)
    normals = np.stack([-along[..., 1], along[..., 0]], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-9
    half = normals * widths[..., None] / 2
    return floats(np.concatenate([points + half, (points - half)[:, ::-1]], axis=1))
