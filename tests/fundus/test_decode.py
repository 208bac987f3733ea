"""Decoding, against OpenCV's and Pillow's own paths, and what is refused."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dr.fundus.decode import (
    MAX_PIXELS,
    UnreadablePhotograph,
    decode_photograph,
    read_header,
)


def picture(height: int = 90, width: int = 134) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(image: Image.Image | np.ndarray, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(file, kind, **options)
    return file.getvalue()


def by_opencv(data: bytes, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), flags))


def decoded(data: bytes, divisor: int = 1) -> np.ndarray:
    return decode_photograph(data, read_header(data), divisor=divisor)


@pytest.mark.parametrize(
    "options",
    [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}],
)
def test_jpeg_decodes_to_the_bit_as_opencv_does(options: dict[str, Any]) -> None:
    data = encoded(picture(), **options)
    np.testing.assert_array_equal(decoded(data), by_opencv(data)[..., ::-1])


def test_gray_jpeg_becomes_rgb() -> None:
    data = encoded(Image.fromarray(picture()).convert("L"))
    gray = by_opencv(data, cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(decoded(data), np.dstack([gray] * 3))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_lossless_kinds_give_back_the_pixels(kind: str) -> None:
    np.testing.assert_array_equal(decoded(encoded(picture(), kind)), picture())


def test_lossless_webp_gives_back_the_pixels() -> None:
    np.testing.assert_array_equal(decoded(encoded(picture(), "WEBP", lossless=True)), picture())


def test_palette_and_one_bit_images_become_rgb() -> None:
    palette = Image.fromarray(picture()).convert("P")
    np.testing.assert_array_equal(decoded(encoded(palette, "PNG")), palette.convert("RGB"))
    bits = Image.fromarray(picture()).convert("1")
    assert set(np.unique(decoded(encoded(bits, "PNG")))) == {0, 255}


def test_cmyk_jpeg_agrees_with_libjpeg_turbos_inks() -> None:
    data = encoded(Image.fromarray(picture()).convert("CMYK"), quality=95)
    inks = simplejpeg.decode_jpeg(data, colorspace="CMYK").astype(float)
    expected = inks[..., :3] * inks[..., 3:] / 255
    assert np.abs(decoded(data) - expected).max() <= 2


@pytest.mark.parametrize("kind", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_of_every_kind_keep_their_upper_byte(kind: str, channels: int) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (40, 50, channels), dtype=np.uint16)
    data = cv2.imencode(kind, deep)[1].tobytes()
    upper = (deep >> 8).astype(np.uint8)[..., ::-1]
    np.testing.assert_array_equal(decoded(data), np.broadcast_to(upper, (40, 50, 3)))


def test_a_big_endian_tiff_keeps_its_upper_byte() -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (40, 50), dtype=np.uint16)
    data = encoded(Image.frombytes("I;16B", (50, 40), deep.astype(">u2").tobytes()), "TIFF")
    assert data[:2] == b"MM"
    np.testing.assert_array_equal(decoded(data)[..., 0], deep >> 8)


def test_the_first_page_of_a_tiff_is_taken() -> None:
    second = np.full((30, 20, 3), 9, np.uint8)
    pages = {"save_all": True, "append_images": [Image.fromarray(second)]}
    np.testing.assert_array_equal(decoded(encoded(picture(), "TIFF", **pages)), picture())


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiffs_give_back_the_pixels(compression: str) -> None:
    data = encoded(picture(), "TIFF", compression=compression)
    np.testing.assert_array_equal(decoded(data), picture())


def test_a_gray_photograph_with_transparency_is_shown_over_black() -> None:
    gray = Image.fromarray(picture()).convert("LA")
    gray.putalpha(0)
    assert decoded(encoded(gray, "PNG")).max() == 0


def test_transparent_pixels_are_shown_over_black() -> None:
    alpha = np.linspace(0, 255, 90 * 134).astype(np.uint8).reshape(90, 134)
    data = encoded(Image.fromarray(np.dstack([picture(), alpha])), "PNG")
    expected = picture() * (alpha[..., None] / 255)
    assert np.abs(decoded(data) - expected).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(), kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decoded(data), np.asarray(upright))


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_means_nothing_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(
        decoded(encoded(picture(), exif=exif)), decoded(encoded(picture()))
    )


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(16, 300), width=st.integers(16, 300), divisor=st.sampled_from([1, 2, 4, 8])
)
def test_a_reduced_jpeg_has_the_size_promised_and_the_same_picture(
    height: int, width: int, divisor: int
) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = 200
    reduced = decoded(encoded(image), divisor)
    assert reduced.shape == (-(-height // divisor), -(-width // divisor), 3)
    margin = ((0, -height % divisor), (0, -width % divisor), (0, 0))
    expected = cv2.resize(
        np.pad(image, margin, mode="edge"), reduced.shape[1::-1], interpolation=cv2.INTER_AREA
    )
    assert np.abs(reduced.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("before", [0, 70_000])
def test_the_orientation_is_found_behind_other_segments(before: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(), exif=exif)
    comment = b"\xff\xfe" + struct.pack(">H", 35_002) + b"\xff\xda" * 17_500
    segments = comment * (before // 35_000)
    data = data[:2] + segments + b"\xff" * 3 + data[2:]
    assert decoded(data).shape == (134, 90, 3)


def test_what_only_looks_like_exif_in_the_pixels_is_not_read() -> None:
    plain = encoded(picture())
    turned = Image.Exif()
    turned[0x0112] = 6
    exif = encoded(picture(16, 16), exif=turned)
    np.testing.assert_array_equal(decoded(plain + exif), decoded(plain))


def test_a_reduced_jpeg_is_turned_as_the_full_one() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(96, 160), exif=exif)
    assert decoded(data, 4).shape == (40, 24, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.95])
def test_a_truncated_photograph_is_refused(kind: str, share: float) -> None:
    data = encoded(picture(), kind)
    with pytest.raises(UnreadablePhotograph):
        decoded(data[: int(share * len(data))])


@pytest.mark.parametrize("divisor", [1, 2, 8])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_last_bytes_is_refused(progressive: bool, divisor: int) -> None:
    data = encoded(picture(), progressive=progressive)
    for lost in (2, 20, 200):
        with pytest.raises(UnreadablePhotograph, match="damaged"):
            decoded(data[:-lost], divisor)


def test_a_corrupt_jpeg_is_refused() -> None:
    data = bytearray(encoded(picture()))
    data[len(data) // 2 : len(data) // 2 + 40] = b"\xff\x00" * 10 + b"\xff\xd9" * 10
    with pytest.raises(UnreadablePhotograph, match="damaged"):
        decoded(bytes(data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"a text file that is called photograph.jpeg\n", "no photograph"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "no photograph"),
        (b"\xff\xd8\xff", "damaged"),
        (b"\x89PNG\r\n\x1a\n", "photograph"),
    ],
)
def test_what_is_no_photograph_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(UnreadablePhotograph, match=message):
        decoded(data)


def test_unreadable_is_a_value_error() -> None:
    assert issubclass(UnreadablePhotograph, ValueError)


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(UnreadablePhotograph, match="mode F"):
        decoded(encoded(np.ones((20, 20), np.float32), "TIFF"))


def huge_png(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n\0\0\0\r" + chunk + struct.pack(">I", zlib.crc32(chunk)) + end


def huge_jpeg(width: int, height: int) -> bytes:
    data = encoded(picture())
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


@pytest.mark.parametrize("make", [huge_png, huge_jpeg])
@pytest.mark.parametrize(
    ("width", "height"), [(60_000, 60_000), (20_000, MAX_PIXELS // 20_000 + 1)]
)
def test_a_bomb_is_refused_from_its_header(
    make: Callable[[int, int], bytes], width: int, height: int
) -> None:
    with pytest.raises(UnreadablePhotograph, match="pixels"):
        read_header(make(width, height))


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "BMP", "WEBP"]),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
)
def test_changed_bytes_give_a_picture_or_the_one_error(
    kind: str, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(encoded(picture(24, 32), kind))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        image = decoded(bytes(data))
    except UnreadablePhotograph:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
