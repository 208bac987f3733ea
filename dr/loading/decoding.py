"""From a prepared JPEG to the square of pixels that trains."""

import threading
from collections.abc import Callable

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from dr.shards.records import CorruptRecord

Pixels = NDArray[np.uint8]
Jpeg = bytes | bytearray | memoryview
RECIPE = 1
"""Rises when `decode_into` gives other pixels than before."""

_own = threading.local()


def decode_at(jpeg: Jpeg, *, size: int, fast_dct: bool = False) -> Pixels:
    """Decode a prepared JPEG to uint8 `[size, size, 3]`, RGB.

    libjpeg-turbo halves as often as it can, up to three times, without falling below `size` or
    cutting through a pixel; the rest is resized, by area downwards and linearly upwards.
    `fast_dct` takes the faster of its transforms, the less exact one. Raises ValueError for bytes
    that are no JPEG.
    """
    image: Pixels = np.empty((size, size, 3), np.uint8)
    decode_into(jpeg, image, fast_dct=fast_dct)
    return image


def decode_into(jpeg: Jpeg, out: Pixels, *, fast_dct: bool = False) -> None:
    """Decode as `decode_at` does, to contiguous uint8 `[size, size, 3]`.

    Raises ValueError for bytes that are no JPEG; `out` then holds anything.
    """
    height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
    size = len(out)
    whole = [d for d in (8, 4, 2) if not height % d and not width % d]
    divisor = next((d for d in whole if min(height, width) // d >= size), 1)
    shape = (height // divisor, width // divisor, 3)
    image: Pixels = simplejpeg.decode_jpeg(
        jpeg,
        colorspace="RGB",
        fastdct=fast_dct,
        min_height=shape[0],
        min_factor=divisor,
        buffer=out if shape == out.shape else _scratch(shape),
    )
    if shape != out.shape:
        method = cv2.INTER_AREA if min(shape[:2]) > size else cv2.INTER_LINEAR
        cv2.resize(image, (size, size), dst=out, interpolation=method)


def _scratch(shape: tuple[int, int, int]) -> Pixels:
    """Memory of this thread that it decodes to before resizing: fresh pages cost as much again."""
    length = shape[0] * shape[1] * shape[2]
    if getattr(_own, "scratch", np.empty(0)).size < length:
        _own.scratch = np.empty(length, np.uint8)
    scratch: Pixels = _own.scratch[:length].reshape(shape)
    return scratch


class JpegPictures:
    """Pictures by record number, decoded from the JPEGs that `read_jpeg` gives.

    `read_jpeg` is called from many threads; what it returns may change with the thread's next
    call. `spell` says where a record lies.
    """

    def __init__(
        self,
        read_jpeg: Callable[[int], Jpeg],
        spell: Callable[[int], str] = "record {}".format,
        *,
        fast_dct: bool = False,
    ) -> None:
        self._read_jpeg = read_jpeg
        self._spell = spell
        self.fast_dct = fast_dct

    def __call__(self, record: int, out: Pixels) -> Pixels:
        """Decode a record to `out`, contiguous uint8 `[size, size, 3]`, and return it.

        Raises CorruptRecord where its JPEG cannot be decoded, and what `read_jpeg` raises.
        """
        jpeg = self._read_jpeg(record)
        try:
            decode_into(jpeg, out, fast_dct=self.fast_dct)
        except ValueError as error:
            reason = f"its JPEG cannot be decoded ({error})"
            raise CorruptRecord(f"{self._spell(record)}: {reason}") from error
        return out
