"""Signatures: copies of a photograph are alike, other eyes are not."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from dr.config import PreparationConfig
from dr.fundus.preparation import prepare_photograph
from dr.fundus.signature import ALIKE, LENGTH, NORM, SIGNATURE, picture_signature
from dr.fundus.synthetic import draw_photographs

PATIENTS = 6


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Both eyes of some made-up patients."""
    folder = tmp_path_factory.mktemp("synthetic") / "drawn"
    draw_photographs(
        folder,
        patients=PATIENTS,
        seed=1,
        grade_shares=[0.5, 0.1, 0.2, 0.1, 0.1],
        label_noise=0.0,
        workers=1,
    )
    return [path.read_bytes() for path in sorted((folder / "train").iterdir())]


def signed(data: bytes, *, image_size: int = 224, **settings: object) -> np.void:
    preparation = PreparationConfig(**settings)
    prepared = prepare_photograph(data, settings=preparation, image_size=image_size)
    return np.frombuffer(prepared.signature, SIGNATURE)[0]


def likeness(one: np.void, other: np.void) -> float:
    return float(one["picture"].astype(float) @ other["picture"].astype(float)) / NORM**2


def pixels(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def jpeg(image: np.ndarray, quality: int = 92) -> bytes:
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def smaller(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)


def brighter(image: np.ndarray) -> np.ndarray:
    return np.clip(image * 1.2 + 4, 0, 255).astype(np.uint8)


COPIES: dict[str, Callable[[np.ndarray], bytes]] = {
    "quality 50": lambda image: jpeg(image, 50),
    "png": lambda image: bytes(cv2.imencode(".png", image)[1]),
    "smaller": lambda image: jpeg(smaller(image)),
    "brighter": lambda image: jpeg(brighter(image)),
    "wider border": lambda image: jpeg(cv2.copyMakeBorder(image, 9, 9, 40, 40, 0)),
}


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_is_alike_and_of_other_bytes(photographs: list[bytes], change: str) -> None:
    for data in photographs:
        one, copy = signed(data), signed(COPIES[change](pixels(data)))
        assert likeness(one, copy) >= ALIKE
        assert not np.array_equal(one["photograph"], copy["photograph"])


def test_other_eyes_are_not_alike(photographs: list[bytes]) -> None:
    pictures = np.stack([signed(data)["picture"] for data in photographs]).astype(float)
    products = pictures @ pictures.T / NORM**2
    assert products[np.triu_indices(len(pictures), 1)].max() < ALIKE - 0.1
    assert np.allclose(np.diag(products), 1, atol=0.02)


def test_the_filter_and_the_size_of_the_prepared_picture_matter_little(
    photographs: list[bytes],
) -> None:
    for data in photographs[:4]:
        assert np.array_equal(signed(data), signed(data, filter="none"))
        assert likeness(signed(data), signed(data, image_size=320)) >= ALIKE


@pytest.mark.parametrize("size", [8, 28, 48, 100])
def test_where_nothing_is_to_be_seen_the_signature_is_zero(size: int) -> None:
    image = np.full((size, size, 3), 90, np.uint8)
    mask = np.ones((size, size), np.uint8)
    noise = np.random.default_rng(0).integers(0, 255, image.shape, dtype=np.uint8)
    assert not picture_signature(image, mask).any()
    assert not picture_signature(noise, np.zeros_like(mask)).any()
    assert picture_signature(noise, mask).any()


def test_what_lies_outside_the_field_counts_nothing() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 255, (96, 96, 3), dtype=np.uint8)
    mask = np.zeros((96, 96), np.uint8)
    mask[:, :60] = 1
    other = image.copy()
    other[:, 74:] = 0
    found = picture_signature(image, mask)
    assert found.shape == (LENGTH,)
    assert np.array_equal(found, picture_signature(other, mask))
