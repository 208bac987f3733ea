"""From a photograph's bytes to the square JPEG that a record holds."""

import math
from dataclasses import dataclass

import cv2

from dr.config import PreparationConfig
from dr.fundus.crop import (
    Box,
    Field,
    field_box,
    field_mask,
    find_field,
    fit_square,
    gray_box,
    whole_box,
)
from dr.fundus.decode import JPEG_DIVISORS, Header, Pixels, decode_photograph, read_header
from dr.fundus.filters import filter_sigma, unsharp, unsharp_inside
from dr.fundus.quality import Quality, measure_quality

FULL_CHROMA_SIZE = 64
"""Up to this image size in pixels a JPEG keeps its colours at full resolution (4:4:4)."""


@dataclass(frozen=True)
class PreparedPhotograph:
    """A prepared photograph: the bytes of a square RGB JPEG, and what was measured on the way."""

    jpeg: bytes
    quality: Quality


def prepare_photograph(
    data: bytes, *, settings: PreparationConfig, image_size: int
) -> PreparedPhotograph:
    """Decode, crop, fit, filter and encode a photograph: a JPEG of `image_size` pixels a side.

    The same bytes give the same JPEG, whatever the number of threads. Raises
    `UnreadablePhotograph` for bytes that are no whole photograph.
    """
    image, quality = _prepare(data, settings, image_size)
    return PreparedPhotograph(encode_jpeg(image, quality=settings.jpeg_quality), quality)


def prepare_image(data: bytes, settings: PreparationConfig, image_size: int) -> Pixels:
    """As `prepare_photograph`, before the JPEG is made: RGB uint8 [image_size, image_size, 3]."""
    return _prepare(data, settings, image_size)[0]


def encode_jpeg(image: Pixels, *, quality: int) -> bytes:
    """Encode RGB uint8 [S, S, 3] with the exact integer DCT, as OpenCV and Pillow do.

    `quality` is 1 to 100; chroma is 4:2:0, or 4:4:4 up to `FULL_CHROMA_SIZE`.
    """
    full = max(image.shape[:2]) <= FULL_CHROMA_SIZE
    sampling = (
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if full else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    )
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    encoded, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert encoded
    return jpeg.tobytes()


def _prepare(data: bytes, settings: PreparationConfig, image_size: int) -> tuple[Pixels, Quality]:
    image, field, box = _decode(data, settings, image_size)
    square, placement = fit_square(image, box, size=image_size, fit=settings.fit)
    mask = field_mask(field, image, placement, size=image_size)
    quality = measure_quality(square, mask)
    if settings.filter == "none":
        return square, quality
    sigma = filter_sigma(settings, image_size=image_size)
    if settings.crop == "field":
        return unsharp_inside(square, mask, sigma=sigma), quality
    return unsharp(square, sigma=sigma), quality


def _decode(data: bytes, settings: PreparationConfig, image_size: int) -> tuple[Pixels, Field, Box]:
    header = read_header(data)
    divisor = _first_divisor(header, image_size) if settings.decode == "scaled" else 1
    while True:
        image = decode_photograph(data, header, divisor=divisor)
        field = find_field(image)
        box = _crop_box(image, field, settings)
        side = _fitted_side(box, settings.fit)
        if divisor == 1 or side >= image_size:
            return image, field, box
        divisor = _largest_divisor(side * divisor, image_size, below=divisor)


def _first_divisor(header: Header, image_size: int) -> int:
    if not header.turbo:
        return 1
    return _largest_divisor(min(header.height, header.width), image_size, below=math.inf)


def _largest_divisor(side: int, image_size: int, *, below: float) -> int:
    """The greatest reduction that leaves `side` at least `image_size` pixels, else none: 1."""
    return next((by for by in JPEG_DIVISORS if by < below and side >= by * image_size), 1)


def _crop_box(image: Pixels, field: Field, settings: PreparationConfig) -> Box:
    if settings.crop == "gray":
        return gray_box(image, threshold=settings.crop_threshold)
    return field_box(image, field) if settings.crop == "field" else whole_box(image)


def _fitted_side(box: Box, fit: str) -> int:
    return min(box.width, box.height) if fit == "stretch" else max(box.width, box.height)
