"""Preparation: the seed's steps to the bit, and what the default promises."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dr.config import PreparationConfig
from dr.fundus import preparation
from dr.fundus.decode import Header, UnreadablePhotograph, decode_photograph
from dr.fundus.preparation import encode_jpeg, prepare_image, prepare_photograph
from dr.fundus.synthetic import draw_photograph

DATA = Path(os.environ.get("DR_PHOTOGRAPHS", "photographs"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no photographs in {DATA}")

SEED = PreparationConfig(
    decode="full",
    crop="gray",
    crop_threshold=7,
    fit="stretch",
    filter="unsharp",
    filter_sigma=10,
    filter_relative=False,
    jpeg_quality=94,
    jpeg_chroma="420",
)
PLAIN = PreparationConfig(filter="none")


def photograph(height: int, width: int, *, radius: float = 0.45) -> np.ndarray:
    """A textured disc on faint noise, RGB uint8 [height, width, 3]; `radius` of the height."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    inside = np.hypot(rows - height / 2, columns - width / 2) < radius * height
    texture = cv2.resize(rng.uniform(40, 220, (30, 40, 3)), (width, height))
    noise = rng.integers(0, 4, (height, width, 3))
    return np.asarray(np.clip(texture * inside[..., None] + noise, 0, 255), np.uint8)


def jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", image[..., ::-1], options)[1].tobytes()


def seed_steps(data: bytes, size: int) -> tuple[np.ndarray, bytes]:
    image = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    mask = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) > 7
    if mask.any():
        ys, xs = np.nonzero(mask)
        image = image[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    image = cv2.addWeighted(image, 4, cv2.GaussianBlur(image, (0, 0), 10), -4, 128)
    written = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 94])[1].tobytes()
    return image[..., ::-1], written


@pytest.mark.parametrize(
    ("height", "width", "size"), [(300, 450, 128), (233, 200, 256), (600, 900, 512)]
)
def test_the_seeds_preparation_to_the_bit(height: int, width: int, size: int) -> None:
    data = jpeg(photograph(height, width))
    image, written = seed_steps(data, size)
    np.testing.assert_array_equal(prepare_image(data, SEED, size), image)
    assert prepare_photograph(data, settings=SEED, image_size=size).jpeg == written


def test_the_seed_keeps_a_black_photograph_uncropped() -> None:
    data = jpeg(np.zeros((100, 150, 3), np.uint8))
    image, written = seed_steps(data, 96)
    np.testing.assert_array_equal(prepare_image(data, SEED, 96), image)
    assert prepare_photograph(data, settings=SEED, image_size=96).jpeg == written


@needs_data
@pytest.mark.parametrize("name", ["1000_left", "766_left"])
def test_the_seeds_preparation_of_real_photographs_to_the_bit(name: str) -> None:
    data = (DATA / "eyepacs1024" / "train" / f"{name}.jpeg").read_bytes()
    image, written = seed_steps(data, 512)
    np.testing.assert_array_equal(prepare_image(data, SEED, 512), image)
    assert prepare_photograph(data, settings=SEED, image_size=512).jpeg == written


@pytest.mark.parametrize("image_size", [32, 224])
def test_the_jpeg_is_the_prepared_image(image_size: int) -> None:
    data = jpeg(photograph(300, 400))
    prepared = prepare_photograph(data, settings=PLAIN, image_size=image_size)
    image = prepare_image(data, PLAIN, image_size)
    assert image.shape == (image_size, image_size, 3)
    assert prepared.jpeg == encode_jpeg(image, quality=94)
    error = simplejpeg.decode_jpeg(prepared.jpeg).astype(float) - image
    assert np.sqrt(np.square(error).mean()) < 5


@pytest.mark.parametrize(("size", "expected"), [(28, "444"), (64, "444"), (65, "420")])
def test_tiny_images_keep_their_colours_at_full_resolution(size: int, expected: str) -> None:
    image = photograph(size, size)
    assert simplejpeg.decode_jpeg_header(encode_jpeg(image, quality=94))[3] == expected


@pytest.mark.parametrize("chroma", ["420", "444"])
def test_chroma_is_what_was_asked_for(chroma: str) -> None:
    settings = replace(PLAIN, jpeg_chroma=chroma)
    for size in (32, 128):
        prepared = prepare_photograph(jpeg(photograph(90, 90)), settings=settings, image_size=size)
        assert simplejpeg.decode_jpeg_header(prepared.jpeg)[3] == chroma


@pytest.fixture
def divisors(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records the reduced sizes that are decoded."""
    seen: list[int] = []

    def record(data: bytes, header: Header, *, divisor: int = 1) -> np.ndarray:
        seen.append(divisor)
        return decode_photograph(data, header, divisor=divisor)

    monkeypatch.setattr(preparation, "decode_photograph", record)
    return seen


@pytest.mark.parametrize(
    ("radius", "image_size", "fit", "expected"),
    [
        (0.45, 64, "pad", [4]),
        (0.45, 200, "pad", [4, 2]),
        (0.45, 128, "pad", [4]),
        (0.20, 190, "pad", [4, 1]),
        (0.15, 125, "pad", [4, 1]),
        (0.45, 300, "pad", [2]),
        (0.45, 500, "pad", [1]),
        (0.45, 900, "pad", [1]),
        (0.60, 190, "stretch", [4]),
    ],
)
def test_the_smallest_decoded_size_that_needs_no_enlarging(
    divisors: list[int], radius: float, image_size: int, fit: str, expected: list[int]
) -> None:
    data = jpeg(photograph(800, 1200, radius=radius))
    prepare_image(data, replace(PLAIN, fit=fit), image_size)
    assert divisors == expected


@pytest.mark.parametrize(("width", "expected"), [(2200, 8), (2000, 4), (600, 2), (300, 1)])
def test_a_reduced_photograph_is_large_enough_to_find_its_field(
    divisors: list[int], width: int, expected: int
) -> None:
    prepare_image(jpeg(photograph(width * 3 // 4, width)), PLAIN, 16)
    assert divisors == [expected]


def test_full_decoding_and_other_kinds_are_never_reduced(divisors: list[int]) -> None:
    image = photograph(400, 600)
    prepare_image(jpeg(image), replace(PLAIN, decode="full"), 32)
    prepare_image(cv2.imencode(".png", image[..., ::-1])[1].tobytes(), PLAIN, 32)
    assert divisors == [1, 1]


def large_synthetic(patient: int) -> bytes:
    """A synthetic photograph, three times as large, as a JPEG."""
    drawn = draw_photograph(seed=5, patient=patient, side="left", grade=2)
    large = cv2.resize(drawn, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    return jpeg(large.astype(np.uint8), quality=92)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(one.astype(float) - other).mean()))


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_scaled_decoding_gives_the_picture_of_full_decoding(divisors: list[int], fit: str) -> None:
    scaled, full = replace(PLAIN, fit=fit), replace(PLAIN, fit=fit, decode="full")
    sources = [large_synthetic(patient) for patient in range(1, 8)]
    ratios = [psnr(prepare_image(s, scaled, 256), prepare_image(s, full, 256)) for s in sources]
    assert set(divisors) == {1, 4}
    assert np.median(ratios) >= 40
    assert min(ratios) >= 30


def test_the_default_leaves_neutral_gray_around_the_field() -> None:
    image = prepare_image(jpeg(photograph(400, 700, radius=0.6)), PreparationConfig(), 224)
    bar = (480 - 400) // 2 * 224 // 480
    np.testing.assert_array_equal(image[: bar + 1], 128)
    np.testing.assert_array_equal(image[-bar - 1 :], 128)
    np.testing.assert_array_equal(image[:40, :10], 128)
    assert image[100:124, 100:124].std() > 10


def test_without_a_filter_the_colours_stay() -> None:
    source = np.zeros((200, 300, 3), np.uint8)
    cv2.circle(source, (150, 100), 80, (200, 100, 50), -1)
    image = prepare_image(cv2.imencode(".png", source[..., ::-1])[1].tobytes(), PLAIN, 96)
    np.testing.assert_array_equal(image[48, 48], (200, 100, 50))
    np.testing.assert_array_equal(image[1, 1], 0)


def test_crop_none_keeps_the_whole_photograph() -> None:
    source = photograph(300, 300, radius=0.3)
    data = cv2.imencode(".png", source[..., ::-1])[1].tobytes()
    image = prepare_image(data, replace(PLAIN, crop="none"), 100)
    expected = cv2.resize(source, (100, 100), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(image, expected)


def test_a_turned_photograph_is_prepared_upright() -> None:
    source = Image.fromarray(photograph(300, 400))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, upright = io.BytesIO(), io.BytesIO()
    source.save(turned, "PNG", exif=exif)
    source.transpose(Image.Transpose.ROTATE_270).save(upright, "PNG")
    np.testing.assert_array_equal(
        prepare_image(turned.getvalue(), PLAIN, 64), prepare_image(upright.getvalue(), PLAIN, 64)
    )


def test_bytes_depend_neither_on_opencvs_threads_nor_on_ours() -> None:
    sources = [jpeg(photograph(500, 700, radius=radius)) for radius in (0.3, 0.4, 0.5, 0.6)]

    def prepare(data: bytes) -> tuple[bytes, object]:
        prepared = prepare_photograph(data, settings=PreparationConfig(), image_size=224)
        return prepared.jpeg, prepared.quality

    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        alone = [prepare(data) for data in sources]
        cv2.setNumThreads(4)
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(prepare, sources))
    finally:
        cv2.setNumThreads(before)
    assert together == alone


@pytest.mark.parametrize("data", [b"", b"text", jpeg(photograph(60, 60))[:-50]])
@pytest.mark.parametrize("config", [SEED, PreparationConfig()])
def test_what_is_no_photograph_is_refused(data: bytes, config: PreparationConfig) -> None:
    with pytest.raises(UnreadablePhotograph):
        prepare_photograph(data, settings=config, image_size=64)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    image_size=st.integers(8, 80),
    level=st.sampled_from([0, 10, 90, 255]),
    config=st.builds(
        PreparationConfig,
        decode=st.sampled_from(["full", "scaled"]),
        crop=st.sampled_from(["gray", "field", "none"]),
        fit=st.sampled_from(["stretch", "pad"]),
        filter=st.sampled_from(["unsharp", "graham", "clahe", "none"]),
        jpeg_chroma=st.sampled_from(["auto", "420", "444"]),
    ),
)
def test_every_setting_takes_every_photograph(
    height: int, width: int, image_size: int, level: int, config: PreparationConfig
) -> None:
    data = jpeg(np.minimum(photograph(height, width), level))
    prepared = prepare_photograph(data, settings=config, image_size=image_size)
    assert simplejpeg.decode_jpeg(prepared.jpeg).shape == (image_size, image_size, 3)
    assert 0 <= prepared.quality.brightness <= 255
    assert 0 < prepared.quality.field_share <= 1


@pytest.mark.parametrize("filter", ["unsharp", "graham", "clahe"])
def test_large_sizes_work(filter: str) -> None:
    settings = PreparationConfig(filter=filter)
    image = prepare_image(jpeg(photograph(120, 161)), settings, 2048)
    assert image.shape == (2048, 2048, 3)


@pytest.mark.parametrize("crop", ["field", "gray", "none"])
def test_grahams_filter_keeps_a_circle_of_nine_tenths(crop: str) -> None:
    settings = PreparationConfig(crop=crop, filter="graham")
    image = prepare_image(jpeg(photograph(400, 560)), settings, 300).astype(int)
    changed = np.abs(image - 128).max(axis=2) > 0
    side = {"field": 360, "gray": 400, "none": 560}[crop]
    expected = np.pi * (0.9 * 180 / side) ** 2
    if crop != "gray":
        assert changed.mean() == pytest.approx(expected, rel=0.04)
    rows, columns = np.nonzero(changed)
    assert (rows.mean(), columns.mean()) == pytest.approx((149.5, 149.5), abs=2)


def test_clahe_leaves_what_lies_outside_the_field_black() -> None:
    settings = PreparationConfig(filter="clahe")
    image = prepare_image(jpeg(photograph(400, 560)), settings, 300)
    assert image[:20, :20].max() == image[-20:, -20:].max() == 0
    assert image[140:160, 140:160].min() > 0


def test_what_opencv_refuses_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        cv2.resize(np.zeros((0, 0), np.uint8), (1, 1))

    monkeypatch.setattr(preparation, "find_field", refuse)
    with pytest.raises(UnreadablePhotograph, match="OpenCV"):
        prepare_photograph(jpeg(photograph(60, 60)), settings=PLAIN, image_size=32)


SMALL = jpeg(photograph(40, 56), quality=80)


def assert_prepared_or_refused(data: bytes) -> None:
    """Preparing either works or raises `UnreadablePhotograph`; a test fails at anything else."""
    try:
        prepared = prepare_photograph(data, settings=PreparationConfig(), image_size=32)
    except UnreadablePhotograph as error:
        assert str(error)
    else:
        assert simplejpeg.decode_jpeg(prepared.jpeg).shape == (32, 32, 3)


@settings(max_examples=150, deadline=None)
@given(length=st.integers(0, len(SMALL) - 1))
def test_a_truncated_jpeg_is_prepared_or_refused(length: int) -> None:
    assert_prepared_or_refused(SMALL[:length])


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, len(SMALL) - 1), change=st.integers(1, 255))
def test_a_jpeg_with_a_flipped_byte_is_prepared_or_refused(place: int, change: int) -> None:
    data = bytearray(SMALL)
    data[place] ^= change
    assert_prepared_or_refused(bytes(data))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_truncation_and_every_flipped_bit_is_prepared_or_refused() -> None:
    for place in range(len(SMALL)):
        assert_prepared_or_refused(SMALL[:place])
        for bit in range(8):
            data = bytearray(SMALL)
            data[place] ^= 1 << bit
            assert_prepared_or_refused(bytes(data))
