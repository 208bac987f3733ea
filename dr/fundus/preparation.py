"""From a photograph's bytes to the square JPEG that a record holds."""

import math
from dataclasses import dataclass

import cv2

from dr.config import PreparationConfig
from dr.fundus.crop import (
    Box,
    Circle,
    Field,
    field_box,
    field_circle,
    field_mask,
    find_field,
    fit_square,
    gray_box,
    is_round,
    whole_box,
)
from dr.fundus.decode import (
    JPEG_DIVISORS,
    Header,
    Pixels,
    UnreadablePhotograph,
    decode_photograph,
    read_header,
)
from dr.fundus.filters import equalized, filter_sigma, graham, unsharp, unsharp_inside
from dr.fundus.quality import Quality, measure_quality
from dr.fundus.signature import sign_photograph

FULL_CHROMA_SIZE = 64
"""Up to this image size in pixels a JPEG keeps its colours at full resolution (4:4:4)."""

MIN_FIELD_SIDE = 256
"""Longer side in pixels that a reduced photograph keeps, so that its field is found as exactly."""

_SAMPLING = {
    "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}


@dataclass(frozen=True)
class PreparedPhotograph:
    """A prepared photograph: the bytes of a square RGB JPEG, and what was measured on the way.

    `signature` is one `dr.fundus.signature.SIGNATURE`, by which copies of a photograph are found.
    """

    jpeg: bytes
    quality: Quality
    signature: bytes


def prepare_photograph(
    data: bytes, *, settings: PreparationConfig, image_size: int
) -> PreparedPhotograph:
    """Decode, crop, fit, filter and encode a photograph: a JPEG of `image_size` pixels a side.

    The same bytes give the same JPEG, whatever the number of threads. Raises
    `UnreadablePhotograph` for bytes that are no whole photograph.
    """
    image, quality, signature = _prepare(data, settings, image_size)
    jpeg = encode_jpeg(image, quality=settings.jpeg_quality, chroma=settings.jpeg_chroma)
    return PreparedPhotograph(jpeg, quality, signature)


def prepare_image(data: bytes, settings: PreparationConfig, image_size: int) -> Pixels:
    """As `prepare_photograph`, before the JPEG is made: RGB uint8 [image_size, image_size, 3]."""
    return _prepare(data, settings, image_size)[0]


def encode_jpeg(image: Pixels, *, quality: int, chroma: str = "auto") -> bytes:
    """Encode RGB uint8 [S, S, 3] with the exact integer DCT, as OpenCV and Pillow do.

    `quality` is 1 to 100; `chroma` is `420`, `444`, or `auto`: `444` up to `FULL_CHROMA_SIZE`.
    """
    if chroma == "auto":
        chroma = "444" if max(image.shape[:2]) <= FULL_CHROMA_SIZE else "420"
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SAMPLING[chroma]]
    encoded, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert encoded
    return jpeg.tobytes()


def _prepare(
    data: bytes, settings: PreparationConfig, image_size: int
) -> tuple[Pixels, Quality, bytes]:
    try:
        image, field, box = _decode(data, settings, image_size)
        square, placement = fit_square(image, box, size=image_size, fit=settings.fit)
        mask = field_mask(field, image, placement, size=image_size)
        round_field = is_round(field, height=image.shape[0], width=image.shape[1])
        quality = measure_quality(square, mask, round_field=round_field)
        circle = field_circle(field_box(image, field), placement)
        signature = sign_photograph(data, square, mask)
        return _filtered(square, mask, circle, settings), quality, signature
    except cv2.error as error:
        raise UnreadablePhotograph(f"OpenCV cannot prepare it: {error}") from error


def _filtered(square: Pixels, mask: Pixels, circle: Circle, settings: PreparationConfig) -> Pixels:
    if settings.filter == "none":
        return square
    if settings.filter == "clahe":
        return equalized(square, mask, clip=settings.clahe_clip, tiles=settings.clahe_tiles)
    if settings.filter == "graham":
        shares = {"radius_share": settings.graham_radius, "sigma_share": settings.graham_sigma}
        return graham(square, circle, **shares)
    sigma = filter_sigma(settings, image_size=square.shape[0])
    if settings.crop == "field":
        return unsharp_inside(square, mask, sigma=sigma)
    return unsharp(square, sigma=sigma)


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
    longer, shorter = max(header.height, header.width), min(header.height, header.width)
    trusted = _largest_divisor(longer, MIN_FIELD_SIDE, below=math.inf)
    return min(trusted, _largest_divisor(shorter, image_size, below=math.inf))


def _largest_divisor(side: int, image_size: int, *, below: float) -> int:
    """The greatest reduction that leaves `side` at least `image_size` pixels, else none: 1."""
    return next((by for by in JPEG_DIVISORS if by < below and side >= by * image_size), 1)


def _crop_box(image: Pixels, field: Field, settings: PreparationConfig) -> Box:
    if settings.crop == "gray":
        return gray_box(image, threshold=settings.crop_threshold)
    return field_box(image, field) if settings.crop == "field" else whole_box(image)


def _fitted_side(box: Box, fit: str) -> int:
    return min(box.width, box.height) if fit == "stretch" else max(box.width, box.height)
