"""The field of view: where it is found, how little moves it, and how it becomes a square."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dr.fundus.crop import (
    WHOLE_FIELD,
    Box,
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
from dr.fundus.decode import decode_photograph, read_header

DATA = Path(os.environ.get("DR_PHOTOGRAPHS", "photographs"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no photographs in {DATA}")


def disc(
    height: int,
    width: int,
    *,
    centre: tuple[float, float] = (0.5, 0.5),
    radius: float = 0.4,
    level: int = 150,
    noise: float = 0.0,
) -> np.ndarray:
    """A textured disc on black; `centre` (x, y) and `radius` in shares of width and height."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(columns + 0.5 - centre[0] * width, rows + 0.5 - centre[1] * height)
    texture = cv2.resize(rng.uniform(0.5, 1, (12, 16)), (width, height))
    gray = np.where(distance <= radius * height, level * texture, 0)
    colours = gray[..., None] * (1.0, 0.6, 0.3)
    if noise:
        colours = colours + rng.normal(0, noise, (height, width, 1))
    return colours.clip(0, 255).astype(np.uint8)


def shares(box: tuple[float, ...], height: int, width: int) -> np.ndarray:
    return np.array(box) / (width, height, width, height)


def true_box(height: int, width: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    wide = radius * height / width
    box = (centre[0] - wide, centre[1] - radius, centre[0] + wide, centre[1] + radius)
    return np.clip(box, 0, 1)


@settings(max_examples=60, deadline=None)
@given(image=arrays(np.uint8, (7, 9, 3)), threshold=st.integers(0, 254))
def test_gray_box_is_the_smallest_that_holds_every_pixel_above(
    image: np.ndarray, threshold: int
) -> None:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    above = [(x, y) for y in range(7) for x in range(9) if gray[y, x] > threshold]
    xs, ys = [x for x, _ in above] or [0, 8], [y for _, y in above] or [0, 6]
    assert gray_box(image, threshold=threshold) == (min(xs), min(ys), max(xs) + 1, max(ys) + 1)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(300, 700),
    aspect=st.floats(1.0, 1.5),
    x=st.floats(0.42, 0.58),
    y=st.floats(0.42, 0.58),
    radius=st.floats(0.3, 0.6),
    noise=st.sampled_from([0.0, 3.0, 6.0]),
    quality=st.sampled_from([75, 95]),
)
def test_a_noisy_disc_is_found_within_a_percent(
    height: int, aspect: float, x: float, y: float, radius: float, noise: float, quality: int
) -> None:
    width = int(height * aspect)
    image = disc(height, width, centre=(x, y), radius=radius, noise=noise)
    jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    field = find_field(decode_photograph(jpeg.tobytes(), read_header(jpeg.tobytes())))
    assert field.found
    np.testing.assert_allclose(field.box, true_box(height, width, (x, y), radius), atol=0.01)


@pytest.mark.parametrize("noise", [0.0, 5.0])
@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.47, 0.6)])
def test_the_decoded_size_moves_the_box_by_less_than_a_percent(
    centre: tuple[float, float], noise: float
) -> None:
    image = disc(1600, 2400, centre=centre, radius=0.45, noise=noise)
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    header = read_header(data)
    full, *reduced = (
        find_field(decode_photograph(data, header, divisor=divisor)).box for divisor in (1, 2, 4, 8)
    )
    for box in reduced:
        np.testing.assert_allclose(box, full, atol=0.01)


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_writing_a_photograph_again_moves_the_box_by_less_than_half_a_percent(quality: int) -> None:
    image = disc(800, 1100, radius=0.45, noise=4.0)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    lossy = cv2.imdecode(cv2.imencode(".jpg", image, options)[1], cv2.IMREAD_COLOR)
    assert isinstance(lossy, np.ndarray)
    box = find_field(lossy.astype(np.uint8)).box
    np.testing.assert_allclose(box, find_field(image).box, atol=0.005)


def test_specks_and_writing_outside_the_field_do_not_move_the_box() -> None:
    image = disc(600, 800)
    expected = find_field(image).box
    cv2.putText(image, "OD 2015", (5, 25), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 1)
    image[np.random.default_rng(3).integers(0, 600, 40), -3] = 255
    np.testing.assert_allclose(find_field(image).box, expected, atol=0.005)
    assert gray_box(image, threshold=7).left < 10


def test_a_gray_background_is_told_from_the_field() -> None:
    image = np.maximum(disc(600, 800), 20)
    np.testing.assert_allclose(
        find_field(image).box, true_box(600, 800, (0.5, 0.5), 0.4), atol=0.01
    )


def test_darkness_inside_the_field_belongs_to_it() -> None:
    image = disc(600, 800)
    cv2.circle(image, (400, 300), 150, (0, 0, 0), -1)
    field = find_field(image)
    square, placement = fit_square(image, field_box(image, field), size=200, fit="pad")
    mask = field_mask(field, image, placement, size=200)
    assert square[100, 100].max() == 0
    assert mask[100, 100] == 1
    assert abs(mask.mean() - np.pi / 4) < 0.02


@pytest.mark.parametrize("level", [40, 120, 255])
def test_a_filled_photograph_is_kept_whole(level: int) -> None:
    image = np.random.default_rng(0).integers(level - 30, level + 1, (300, 400, 3)).astype(np.uint8)
    assert find_field(image).box == (0, 0, 1, 1)


def test_black_and_nearly_black_photographs_are_kept_whole() -> None:
    assert find_field(np.zeros((300, 400, 3), np.uint8)) is WHOLE_FIELD
    assert find_field(disc(300, 400, level=30)) is WHOLE_FIELD
    noise = np.random.default_rng(0).integers(0, 8, (300, 400, 3)).astype(np.uint8)
    assert find_field(noise) is WHOLE_FIELD
    streak = np.zeros((300, 400, 3), np.uint8)
    streak[:80, 250:260] = 220
    assert find_field(streak) is WHOLE_FIELD


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 3), (2, 3000)])
def test_tiny_and_thin_photographs_have_a_box(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 200, np.uint8)
    assert field_box(image, find_field(image)) == whole_box(image)


@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    start=st.floats(0, 0.98),
    length=st.floats(0.001, 1),
)
def test_a_field_covers_at_least_a_pixel_inside_the_image(
    height: int, width: int, start: float, length: float
) -> None:
    end = min(1.0, start + length)
    field = Field((start, start, end, end), WHOLE_FIELD.outline, found=True)
    box = field_box(np.broadcast_to(np.uint8(0), (height, width, 3)), field)
    assert 0 <= box.left < box.right <= width
    assert 0 <= box.top < box.bottom <= height


def test_padding_keeps_the_aspect_and_centres_the_field() -> None:
    image = disc(400, 900, centre=(0.3, 0.5), radius=0.6)
    square, placement = fit_square(image, field_box(image, find_field(image)), size=240, fit="pad")
    rows, columns = np.nonzero(square.max(axis=2) > 20)
    assert rows.min() + rows.max() == pytest.approx(239, abs=2)
    assert columns.min() + columns.max() == pytest.approx(239, abs=2)
    assert np.ptp(columns) + 1 == pytest.approx(240, abs=2)
    assert np.ptp(rows) + 1 == pytest.approx(240 * 400 / 480, abs=3)
    assert placement.scale[0] == pytest.approx(placement.scale[1], rel=0.5 / 200)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_the_mask_lies_on_the_field_in_the_square(fit: str) -> None:
    image = disc(420, 800, centre=(0.55, 0.45), radius=0.5)
    field = find_field(image)
    square, placement = fit_square(image, field_box(image, field), size=224, fit=fit)
    mask = field_mask(field, image, placement, size=224) > 0
    seen = square.max(axis=2) > 20
    assert (mask & seen).sum() / (mask | seen).sum() > 0.97


def test_the_mask_of_a_whole_photograph_leaves_out_the_bars() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    _, placement = fit_square(image, whole_box(image), size=64, fit="pad")
    mask = field_mask(WHOLE_FIELD, image, placement, size=64)
    assert mask[:15].sum() == mask[49:].sum() == 0
    assert mask[17:47].all()


def test_stretching_is_the_seeds_area_interpolation() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 150, 3), dtype=np.uint8)
    for size in (64, 128):
        square, _ = fit_square(image, Box(10, 5, 130, 85), size=size, fit="stretch")
        expected = cv2.resize(image[5:85, 10:130], (size, size), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(square, expected)


@pytest.mark.parametrize(("size", "interpolation"), [(50, cv2.INTER_AREA), (200, cv2.INTER_CUBIC)])
def test_padding_shrinks_by_area_and_grows_bicubic(size: int, interpolation: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    square, placement = fit_square(image, whole_box(image), size=size, fit="pad")
    height, bar = 6 * size // 10, size // 5
    expected = cv2.resize(image, (size, height), interpolation=interpolation)
    np.testing.assert_array_equal(square[bar:-bar], expected)
    assert square[:bar].max() == square[-bar:].max() == 0
    assert placement.shift == (0, bar)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (7, 3)])
@pytest.mark.parametrize("size", [8, 33, 512])
def test_any_box_becomes_a_square(shape: tuple[int, int], size: int, fit: str) -> None:
    image = np.full((*shape, 3), 200, np.uint8)
    square, _ = fit_square(image, whole_box(image), size=size, fit=fit)
    assert square.shape == (size, size, 3)
    assert square.max() == 200


def outline_of(shape: str) -> Field:
    """Fields of a photograph 300 px high and 400 wide."""
    angles = np.linspace(0, 2 * np.pi, 90)
    circle = np.stack([0.5 + 0.3 * np.cos(angles), 0.5 + 0.4 * np.sin(angles)], axis=1)
    outlines = {
        "circle": circle,
        "cut": np.clip(circle, (0, 0.2), (1, 0.8)),
        "ellipse": (circle - 0.5) * (1.3, 0.7) + 0.5,
        "rectangle": np.array([(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8)]),
        "triangle": np.array([(0.5, 0.1), (0.8, 0.9), (0.2, 0.9)]),
    }
    outline = outlines[shape]
    (left, top), (right, bottom) = outline.min(axis=0), outline.max(axis=0)
    return Field((left, top, right, bottom), outline, found=True)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("circle", True),
        ("cut", True),
        ("ellipse", False),
        ("rectangle", False),
        ("triangle", False),
    ],
)
def test_only_circles_are_round_even_when_cut_off(shape: str, expected: bool) -> None:
    assert is_round(outline_of(shape), height=300, width=400) is expected


def test_what_was_not_found_is_not_round() -> None:
    assert not is_round(WHOLE_FIELD, height=300, width=300)


def test_the_circle_of_a_cut_field_is_as_wide_as_the_field() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    box = field_box(image, outline_of("cut"))
    _, placement = fit_square(image, box, size=120, fit="pad")
    circle = field_circle(box, placement)
    assert circle.radii == (60, 60)
    assert circle.centre == pytest.approx((60, 60), abs=0.5)
    whole = circle.mask((120, 120), share=1.0).mean()
    assert whole == pytest.approx(np.pi / 4, abs=0.01)
    assert circle.mask((120, 120), share=0.5).mean() == pytest.approx(whole / 4, abs=0.01)


@needs_data
@pytest.mark.parametrize("number", range(0, 32, 5))
def test_real_boxes_hold_still_between_decoded_sizes(number: int) -> None:
    path = sorted((DATA / "eyepacs_original" / "train").glob("*.jpeg"))[number]
    data = path.read_bytes()
    header = read_header(data)
    boxes = [
        find_field(decode_photograph(data, header, divisor=divisor)).box for divisor in (1, 4, 8)
    ]
    np.testing.assert_allclose(boxes[1], boxes[0], atol=0.01)
    np.testing.assert_allclose(boxes[2], boxes[0], atol=0.01)


@needs_data
@pytest.mark.parametrize("name", ["551_left", "669_left", "766_left"])
def test_the_nearly_black_photographs_are_kept_whole(name: str) -> None:
    data = (DATA / "eyepacs1024" / "train" / f"{name}.jpeg").read_bytes()
    image = decode_photograph(data, read_header(data))
    assert field_box(image, find_field(image)) == whole_box(image)
