"""Quality figures on pictures whose values are known, and flags on real photographs."""

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from dr.config import PreparationConfig
from dr.fundus.crop import NEARLY_BLACK
from dr.fundus.preparation import prepare_photograph
from dr.fundus.quality import (
    JUDGED_SIDE,
    OVEREXPOSED,
    Quality,
    flags,
    measure_quality,
)
from dr.fundus.synthetic import draw_photograph

DATA = Path(os.environ.get("DR_PHOTOGRAPHS", "photographs"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no photographs in {DATA}")
PLAIN = PreparationConfig(filter="none")
GOOD = Quality(100.0, 0.9, 0.7)


def half_mask(size: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[:, : size // 2] = 1
    return mask


def measured(image: np.ndarray, mask: np.ndarray | None = None) -> Quality:
    whole = np.ones(image.shape[:2], np.uint8)
    return measure_quality(image, whole if mask is None else mask, round_field=True)


def textured(size: int) -> np.ndarray:
    """Structures of all widths, the same at every size: RGB uint8 [size, size, 3]."""
    rng = np.random.default_rng(0)
    total = sum(
        side**-0.5
        * cv2.resize(rng.normal(0, 100, (side, side)), (size, size), interpolation=cv2.INTER_CUBIC)
        for side in (8, 16, 32, 64, 128, 256)
    )
    return np.dstack([np.clip(128 + np.asarray(total), 0, 255).astype(np.uint8)] * 3)


def test_brightness_and_share_are_those_of_the_field() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32] = 90
    quality = measured(image, half_mask(64))
    assert (quality.brightness, quality.field_share) == (90, 0.5)


def test_brightness_is_mean_gray() -> None:
    image = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    weights = np.array([0.299, 0.587, 0.114])
    quality = measured(image)
    assert quality.brightness == pytest.approx(float((image @ weights).mean()), abs=0.05)
    assert quality.field_share == 1


def test_sharpness_is_the_ratio_of_two_bands() -> None:
    image = textured(256)
    gray = image[..., 0].astype(float)
    one, two, four = (gaussian_filter(gray, sigma) for sigma in (1, 2, 4))
    inner = np.s_[13:-13, 13:-13]
    expected = (one - two)[inner].std() / (two - four)[inner].std()
    assert measured(image).sharpness == pytest.approx(expected, rel=0.02)


def test_an_even_picture_has_no_sharpness() -> None:
    assert measured(np.full((256, 256, 3), 90, np.uint8)).sharpness == 0


@pytest.mark.parametrize("size", [256, 400, 512, 1024])
def test_sharpness_hardly_depends_on_the_size_and_falls_with_blur(size: int) -> None:
    expected = measured(textured(256)).sharpness
    image = textured(size)
    soft = cv2.GaussianBlur(image, (0, 0), size / 100).astype(np.uint8)
    assert measured(image).sharpness == pytest.approx(expected, rel=0.1)
    assert measured(soft).sharpness < 0.6 * expected


def test_sharpness_does_not_see_the_fields_edge() -> None:
    image = textured(256)
    image[:, 128:] = 0
    expected = measured(image, half_mask(256)).sharpness
    image[:, 128:] = 255
    assert measured(image, half_mask(256)).sharpness == pytest.approx(expected, rel=1e-3)


def test_an_empty_mask_counts_as_the_whole_image() -> None:
    quality = measured(np.full((16, 16, 3), 50, np.uint8), np.zeros((16, 16), np.uint8))
    assert (quality.brightness, quality.field_share) == (50, 0)


@pytest.mark.parametrize(
    ("brightness", "expected"),
    [
        (0.0, ["nearly_black"]),
        (NEARLY_BLACK - 0.1, ["nearly_black"]),
        (NEARLY_BLACK, []),
        (OVEREXPOSED, []),
        (OVEREXPOSED + 0.1, ["overexposed"]),
    ],
)
def test_flags_by_brightness(brightness: float, expected: list[str]) -> None:
    assert flags(replace(GOOD, brightness=brightness)) == expected


def test_flags_name_every_doubt_but_say_no_more_of_the_dark() -> None:
    doubtful = Quality(230.0, 0.1, 1.0, focused=False, fundus=False)
    assert flags(doubtful) == ["overexposed", "blurred", "no_fundus"]
    assert flags(replace(doubtful, brightness=1.0)) == ["nearly_black"]


def test_small_pictures_are_not_called_blurred() -> None:
    even = np.full((JUDGED_SIDE, JUDGED_SIDE, 3), 90, np.uint8)
    assert not measured(even).focused
    assert measured(even[:-1, :-1]).focused


@pytest.mark.parametrize(
    ("colour", "fundus"),
    [
        ((150, 80, 40), True),
        ((90, 90, 90), True),
        ((80, 100, 60), True),
        ((40, 120, 60), False),
        ((60, 70, 150), False),
    ],
)
def test_no_fundus_is_green_or_blue(colour: tuple[int, int, int], fundus: bool) -> None:
    assert measured(np.full((64, 64, 3), colour, np.uint8)).fundus is fundus


def flagged(image: np.ndarray, *, image_size: int = 256, **settings: str) -> list[str]:
    data = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    config = replace(PLAIN, **settings)
    return flags(prepare_photograph(data, settings=config, image_size=image_size).quality)


def page() -> np.ndarray:
    image = np.full((500, 380, 3), 255, np.uint8)
    for row in range(40, 480, 20):
        cv2.putText(image, "a page of text, no eye", (20, row), 0, 0.6, (0, 0, 0), 1)
    return image


def no_fundus() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    black = np.zeros((300, 400, 3), np.uint8)
    return {
        "text": page(),
        "text on black": cv2.copyMakeBorder(page(), 90, 90, 90, 90, cv2.BORDER_CONSTANT),
        "white text": 255 - page(),
        "gray": np.full((300, 400, 3), 128, np.uint8),
        "white": np.full((300, 400, 3), 255, np.uint8),
        "noise": rng.integers(0, 256, (300, 400, 3), dtype=np.uint8),
        "scenery": cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (400, 300)),
        "blue disc": cv2.circle(black.copy(), (200, 150), 120, (40, 90, 220), -1),
        "square": cv2.rectangle(black.copy(), (90, 40), (310, 260), (200, 120, 60), -1),
        "triangle": cv2.fillConvexPoly(
            black.copy(), np.array([(200, 10), (390, 290), (10, 290)]), (200, 120, 60)
        ),
    }


@pytest.mark.parametrize("name", list(no_fundus()))
@pytest.mark.parametrize("crop", ["field", "gray", "none"])
def test_what_is_no_fundus_is_flagged(name: str, crop: str) -> None:
    for image_size in (64, 256):
        assert "no_fundus" in flagged(no_fundus()[name], image_size=image_size, crop=crop)


@pytest.mark.parametrize("patient", range(1, 5))
@pytest.mark.parametrize("image_size", [64, 224, 512])
def test_a_synthetic_fundus_is_not_flagged_and_is_when_defocused(
    patient: int, image_size: int
) -> None:
    image = draw_photograph(seed=5, patient=patient, side="left", grade=2)
    assert flagged(image, image_size=image_size) == []
    soft = cv2.GaussianBlur(image, (0, 0), image.shape[0] / 50).astype(np.uint8)
    expected = ["blurred"] if image_size >= JUDGED_SIDE else []
    assert flagged(soft, image_size=image_size) == expected


def real_flags(name: str, *, image_size: int, crop: str) -> list[str]:
    data = (DATA / "eyepacs1024" / "train" / f"{name}.jpeg").read_bytes()
    settings = PreparationConfig(crop=crop)
    return flags(prepare_photograph(data, settings=settings, image_size=image_size).quality)


@needs_data
@pytest.mark.parametrize("image_size", [64, 224])
@pytest.mark.parametrize("crop", ["field", "gray", "none"])
def test_nearly_black_photographs_are_flagged_and_dark_ones_are_not(
    crop: str, image_size: int
) -> None:
    for name in ("551_left", "669_left", "766_left"):
        assert real_flags(name, image_size=image_size, crop=crop) == ["nearly_black"]
    for name in ("940_left", "551_right", "211_left", "1000_left"):
        assert real_flags(name, image_size=image_size, crop=crop) == []


@needs_data
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("679_left", ["blurred"]),
        ("375_right", ["blurred"]),
        ("95_left", ["overexposed"]),
        ("492_right", ["no_fundus"]),
    ],
)
def test_real_photographs_are_flagged_for_what_ails_them(name: str, expected: list[str]) -> None:
    assert real_flags(name, image_size=512, crop="field") == expected


@needs_data
def test_real_defocus_is_flagged() -> None:
    for path in sorted((DATA / "eyepacs1024" / "train").glob("*_right.jpeg"))[::60]:
        image = np.asarray(cv2.imread(str(path)), np.uint8)[..., ::-1]
        assert "blurred" not in flagged(image)
        soft = cv2.GaussianBlur(image, (0, 0), 0.01 * image.shape[0]).astype(np.uint8)
        assert "blurred" in flagged(soft)
