"""Decoding of photographs: JPEG through libjpeg-turbo, everything else through Pillow."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

Pixels = NDArray[np.uint8]

MAX_PIXELS = 200_000_000
"""Larger photographs are refused from their header; outside JPEG Pillow stops at 179 million."""

JPEG_DIVISORS = (8, 4, 2, 1)
"""Reduced sizes that libjpeg-turbo decodes faster than the full one."""

_FORMATS = ("PNG", "TIFF", "BMP", "WEBP", "JPEG")
_EXIF_ORIENTATION = 0x0112
_PILLOW_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    struct.error,
    zlib.error,
)
_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: image[::-1].transpose(1, 0, 2),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: image.transpose(1, 0, 2)[::-1],
}


class UnreadablePhotograph(ValueError):
    """Bytes that are no whole photograph: empty, truncated, corrupt, too large, something else."""


@dataclass(frozen=True)
class Header:
    """What is known of a photograph before it is decoded.

    `height` and `width` are in pixels, before an EXIF orientation is applied; `turbo` says that
    libjpeg-turbo decodes it, at a reduced size if wanted.
    """

    height: int
    width: int
    turbo: bool


def read_header(data: bytes) -> Header:
    """Read the size of a JPEG, PNG, TIFF, BMP or WebP without decoding its pixels.

    Raises `UnreadablePhotograph` for anything else, and above `MAX_PIXELS`.
    """
    if not data:
        raise UnreadablePhotograph("the file is empty")
    header = _read_jpeg_header(data) if data[:3] == b"\xff\xd8\xff" else _read_pillow_header(data)
    if header.height * header.width > MAX_PIXELS:
        size = f"{header.width} x {header.height}"
        raise UnreadablePhotograph(f"{size} pixels, over the limit of {MAX_PIXELS:,}")
    return header


def decode_photograph(data: bytes, header: Header, *, divisor: int = 1) -> Pixels:
    """Decode to upright RGB, uint8 [ceil(height / divisor), ceil(width / divisor), 3].

    Transparent pixels are shown over black, 16-bit values keep their upper byte. `divisor`, one
    of `JPEG_DIVISORS`, has an effect where `header.turbo`. Raises `UnreadablePhotograph` for
    pixels that are not all there.
    """
    if not header.turbo:
        return _decode_pillow(data)
    image = _decode_jpeg(data, height=-(-header.height // divisor), divisor=divisor)
    turn = _UPRIGHT.get(_jpeg_orientation(data))
    return image if turn is None else np.ascontiguousarray(turn(image))


def _read_jpeg_header(data: bytes) -> Header:
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise UnreadablePhotograph(f"the JPEG is damaged: {error}") from error
    return Header(height, width, turbo=colorspace in ("RGB", "YCbCr", "Gray"))


def _jpeg_orientation(data: bytes) -> int:
    if b"Exif\0\0" not in data[: _start_of_scan(data)]:
        return 1
    try:
        exif = JpegImagePlugin.JpegImageFile(io.BytesIO(data)).getexif()
        return int(exif.get(_EXIF_ORIENTATION, 1))
    except _PILLOW_ERRORS:
        return 1


def _start_of_scan(data: bytes) -> int:
    """Where a JPEG's segments end and its pixels begin, or what is not understood."""
    place = 2
    while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] != b"\xda":
        if data[place + 1 : place + 2] == b"\xff":
            place += 1
        else:
            place += 2 + max(2, int.from_bytes(data[place + 2 : place + 4], "big"))
    return place


def _decode_jpeg(data: bytes, *, height: int, divisor: int) -> Pixels:
    try:
        image: Pixels = simplejpeg.decode_jpeg(
            data, colorspace="RGB", min_height=height, min_factor=divisor
        )
    except ValueError as error:
        raise UnreadablePhotograph(f"the JPEG is damaged: {error}") from error
    assert image.shape[0] == height
    return image


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            yield picture
    except UnreadablePhotograph:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadablePhotograph(f"over the limit of pixels: {error}") from error
    except UnidentifiedImageError as error:
        kinds = ", ".join(_FORMATS)
        raise UnreadablePhotograph(f"no photograph of a known kind ({kinds})") from error
    except _PILLOW_ERRORS as error:
        raise UnreadablePhotograph(f"the photograph is damaged: {error}") from error


def _read_pillow_header(data: bytes) -> Header:
    with _opened(data) as picture:
        width, height = picture.size
        return Header(height, width, turbo=False)


def _decode_pillow(data: bytes) -> Pixels:
    with _opened(data) as picture:
        return np.asarray(_rgb(ImageOps.exif_transpose(picture)))


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        upper = np.asarray(picture) >> 8
        return Image.fromarray(upper.astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        problem = f"pixels of Pillow's mode {picture.mode}: save it with 8 or 16 bits a channel"
        raise UnreadablePhotograph(problem)
    if picture.has_transparency_data:
        colours = picture.convert("RGBA")
        black = Image.new("RGBA", colours.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, colours).convert("RGB")
    return picture.convert("RGB")
