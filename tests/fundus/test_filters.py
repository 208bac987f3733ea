"""The unsharp filters, against their formulas in double precision."""

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from dr.config import PreparationConfig
from dr.fundus.filters import NEUTRAL, filter_sigma, unsharp, unsharp_inside


def scene(size: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """A textured disc on black, uint8 [size, size, 3], and its mask."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    mask = (np.hypot(rows, columns) < 0.45 * size).astype(np.uint8)
    texture = cv2.resize(rng.uniform(60, 200, (10, 10, 3)), (size, size))
    return (texture * mask[..., None]).astype(np.uint8), mask


def blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    mean = gaussian_filter(values.astype(float), sigma, mode="mirror", axes=(0, 1), truncate=3)
    return np.asarray(mean)


@pytest.mark.parametrize("sigma", [0.6, 3.0, 10.0])
def test_unsharp_is_the_seeds_formula(sigma: float) -> None:
    image, _ = scene()
    mean = cv2.GaussianBlur(image, (0, 0), sigma)
    expected = cv2.addWeighted(image, 4, mean, -4, 128)
    np.testing.assert_array_equal(unsharp(image, sigma=sigma), expected)


@pytest.mark.parametrize("sigma", [3.0, 10.0])
def test_unsharp_agrees_with_double_precision(sigma: float) -> None:
    image, _ = scene()
    expected = np.clip(4.0 * image - 4 * blurred(image, sigma) + 128, 0, 255)
    assert np.abs(unsharp(image, sigma=sigma) - expected).max() <= 4


@pytest.mark.parametrize("sigma", [2.0, 4.4, 8.0, 10.0, 15.0])
def test_the_masked_blur_is_a_normalized_convolution(sigma: float) -> None:
    image, mask = scene()
    weight = np.maximum(blurred(mask, sigma), 1e-6)[..., None]
    mean = blurred(image * mask[..., None], sigma) / weight
    expected = np.clip(4 * (image - mean) + 128, 0, 255)
    difference = np.abs(unsharp_inside(image, mask, sigma=sigma) - expected)[mask > 0]
    assert difference.mean() < 1.6
    assert np.percentile(difference, 99) <= 6


@pytest.mark.parametrize("sigma", [1.0, 4.0, 10.0])
def test_an_even_field_comes_out_neutral_up_to_its_edge(sigma: float) -> None:
    _, mask = scene()
    image = np.dstack([mask * 180, mask * 90, mask * 40])
    assert np.abs(unsharp_inside(image, mask, sigma=sigma).astype(int) - NEUTRAL).max() <= 4
    assert np.abs(unsharp(image, sigma=sigma).astype(int) - NEUTRAL).max() > 100


def test_what_lies_outside_the_field_has_no_effect() -> None:
    image, mask = scene()
    noisy = image.copy()
    noisy[mask == 0] = np.random.default_rng(1).integers(0, 256, (int((mask == 0).sum()), 3))
    filtered = unsharp_inside(noisy, mask, sigma=10)
    np.testing.assert_array_equal(filtered, unsharp_inside(image, mask, sigma=10))
    assert (filtered[mask == 0] == NEUTRAL).all()


@pytest.mark.parametrize("size", [1, 2, 8, 28, 33])
def test_any_size_keeps_its_shape(size: int) -> None:
    image = np.full((size, size, 3), 77, np.uint8)
    mask = np.ones((size, size), np.uint8)
    for sigma in (0.2, 12.0):
        assert (unsharp_inside(image, mask, sigma=sigma) == NEUTRAL).all()


@pytest.mark.parametrize(
    ("relative", "size", "expected"),
    [(True, 512, 10.0), (True, 256, 5.0), (True, 28, 0.546875), (False, 256, 10.0)],
)
def test_a_relative_sigma_follows_the_image_size(
    relative: bool, size: int, expected: float
) -> None:
    settings = PreparationConfig(filter_sigma=10, filter_relative=relative)
    assert filter_sigma(settings, image_size=size) == expected
