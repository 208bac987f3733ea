"""The unsharp filters, against their formulas in double precision."""

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from dr.config import PreparationConfig
from dr.fundus.crop import Circle
from dr.fundus.filters import (
    NEUTRAL,
    equalized,
    filter_sigma,
    graham,
    unsharp,
    unsharp_inside,
)


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


def test_grahams_filter_is_his_code() -> None:
    """The steps of `preprocessImages.py` in the winner's published code, radius known."""
    image, _ = scene(200)
    radius, within = 90, np.zeros(image.shape)
    cv2.circle(within, (100, 100), int(radius * 0.9), (1, 1, 1), -1, 8, 0)
    mean = cv2.GaussianBlur(image, (0, 0), radius / 30)
    expected = cv2.addWeighted(image, 4, mean, -4, 128) * within + 128 * (1 - within)
    filtered = graham(
        image, Circle((100, 100), (radius, radius)), radius_share=0.9, sigma_share=1 / 30
    )
    same = (filtered == expected).all(axis=2)
    assert same.mean() > 0.98
    rows, columns = np.nonzero(~same)
    edge = np.hypot(rows - 99.5, columns - 99.5)
    assert edge.min() > 0.9 * radius - 2
    assert edge.max() < 0.9 * radius + 2


def test_grahams_blur_follows_the_radius_and_a_stretched_field() -> None:
    image, _ = scene(200)
    circle = Circle((100, 100), (90, 60))
    filtered = graham(image, circle, radius_share=0.9, sigma_share=0.1)
    mean = cv2.GaussianBlur(image, (0, 0), 9, sigmaY=6)
    expected = cv2.addWeighted(image, 4, mean, -4, 128)
    np.testing.assert_array_equal(filtered[60:140, 60:140], expected[60:140, 60:140])
    assert (filtered[:, 100] == NEUTRAL).all(axis=1).sum() == pytest.approx(200 - 108, abs=1)


def test_equalising_is_opencvs_clahe_of_the_lightness() -> None:
    image, mask = scene(96)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(3.0, (4, 4)).apply(np.ascontiguousarray(lab[..., 0]))
    expected = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) * mask[..., None]
    np.testing.assert_array_equal(equalized(image, mask, clip=3.0, tiles=4), expected)


def test_equalising_raises_local_contrast_more_with_a_higher_limit() -> None:
    image, mask = scene(96)
    dull = (image // 8 + 100).astype(np.uint8)
    contrast = [
        cv2.cvtColor(equalized(dull, mask, clip=clip, tiles=8), cv2.COLOR_RGB2GRAY)[mask > 0].std()
        for clip in (1.0, 3.0, 9.0)
    ]
    assert contrast == sorted(contrast)
    assert contrast[-1] > 1.5 * dull[mask > 0].std()


@pytest.mark.parametrize("size", [1, 2, 8, 28, 33])
@pytest.mark.parametrize("tiles", [1, 8, 64])
def test_equalising_takes_any_size(size: int, tiles: int) -> None:
    image = np.full((size, size, 3), 77, np.uint8)
    mask = np.ones((size, size), np.uint8)
    assert equalized(image, mask, clip=2.0, tiles=tiles).shape == image.shape
