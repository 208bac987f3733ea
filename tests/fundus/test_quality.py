"""Quality figures on pictures whose values are known, and flags on real photographs."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from dr.config import PreparationConfig
from dr.fundus.crop import NEARLY_BLACK
from dr.fundus.preparation import prepare_photograph
from dr.fundus.quality import OVEREXPOSED, Quality, flags, measure_quality

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no photographs in {DATA}")


def half_mask(size: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[:, : size // 2] = 1
    return mask


def test_brightness_and_share_are_those_of_the_field() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32] = 90
    quality = measure_quality(image, half_mask(64))
    assert quality == Quality(brightness=90.0, sharpness=0.0, field_share=0.5)


def test_brightness_is_mean_gray() -> None:
    image = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    weights = np.array([0.299, 0.587, 0.114])
    quality = measure_quality(image, np.ones((80, 80), np.uint8))
    assert quality.brightness == pytest.approx(float((image @ weights).mean()), abs=0.05)
    assert quality.field_share == 1


def test_sharpness_is_the_variance_of_the_laplacian_inside_the_field() -> None:
    rng = np.random.default_rng(0)
    gray = rng.integers(100, 120, (64, 64)).astype(np.uint8)
    around = np.pad(gray.astype(int), 1)
    laplacian = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
    laplacian = laplacian - 4 * gray.astype(int)
    mask = np.zeros((64, 64), np.uint8)
    mask[10:50, 10:50] = 1
    quality = measure_quality(np.dstack([gray] * 3), mask)
    assert quality.sharpness == pytest.approx(laplacian[11:49, 11:49].var(), rel=1e-5)


def test_a_blurred_photograph_is_less_sharp_and_the_fields_edge_does_not_count() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(80, 140, (128, 128, 3)).astype(np.uint8)
    image[:, 64:] = 0
    soft = cv2.GaussianBlur(image, (0, 0), 2).astype(np.uint8)
    soft[:, 64:] = 0
    sharp = measure_quality(image, half_mask(128)).sharpness
    assert measure_quality(soft, half_mask(128)).sharpness < sharp / 20


def test_an_empty_mask_counts_as_the_whole_image() -> None:
    image = np.full((16, 16, 3), 50, np.uint8)
    quality = measure_quality(image, np.zeros((16, 16), np.uint8))
    assert quality == Quality(brightness=50.0, sharpness=0.0, field_share=0.0)


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
    assert flags(Quality(brightness, 10.0, 0.7)) == expected


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
    for name in ("940_left", "551_right", "1051_left", "622_left", "211_left", "1000_left"):
        assert real_flags(name, image_size=image_size, crop=crop) == []
