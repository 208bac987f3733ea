import cv2
import numpy as np
import pytest
import torch

from dr.compose import compose
from dr.config import AugmentConfig, TrainConfig
from dr.loading.augmentation import Augmentation
from dr.loading.device_warp import augment_batch, warp_batch
from dr.loading.warps import DEVICE_BORDERS, Sampling, symmetry

SIZE, COUNT = 48, 24


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Blurred noise, uint8 [24, 48, 48, 3], over the whole range of gray."""
    random = np.random.default_rng(0)
    rough = random.normal(0, 1, (COUNT, SIZE, SIZE, 3))
    blurred = np.stack([cv2.GaussianBlur(one, (0, 0), 3) for one in rough])
    return np.clip(128 + 700 * blurred, 0, 255).astype(np.uint8)


def steepest(images: np.ndarray) -> int:
    """Gray levels from one pixel to the next, at most."""
    return max(int(np.abs(np.diff(images.astype(int), axis=axis)).max()) for axis in (1, 2))


def on_host(augmentation: Augmentation, images: np.ndarray) -> np.ndarray:
    return np.stack(
        [augmentation(one, seed=1, epoch=2, record=7 * n) for n, one in enumerate(images)]
    )


def on_device(augmentation: Augmentation, images: np.ndarray) -> np.ndarray:
    """Gray values, float32 like `images`."""
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    found = augment_batch(
        pictures, augmentation, records=7 * np.arange(len(images)), seed=1, epoch=2
    )
    return (found * 255).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("choice", ["flips", "seed", "fundus"])
def test_the_device_agrees_with_the_workers(choice: str, images: np.ndarray) -> None:
    """The workers round after the warp, and cut the fraction off after brightness and contrast;
    OpenCV before 5 also reads at steps of 1/32 pixel, so up to 1/64 off in each direction.
    """
    config = compose("train", TrainConfig, [f"augment={choice}", "augment.where=device"])
    augmentation = Augmentation(config.augment)
    assert augmentation.on_device
    off = np.abs(on_device(augmentation, images) - on_host(augmentation, images))
    rounding = {"flips": 0.001, "seed": 0.501, "fundus": 0.5 * 1.1 + 1.001}[choice]
    steps = 0 if choice == "flips" else steepest(images) * 2 / 64
    assert off.max() <= rounding + steps
    assert off.mean() <= 0.5


@pytest.mark.parametrize("border", DEVICE_BORDERS)
def test_every_border_is_opencvs(border: int, images: np.ndarray) -> None:
    """Far outside too: the pictures are made four times smaller and moved."""
    random = np.random.default_rng(border)
    sampling = Sampling(cv2.INTER_LINEAR, border, (10.0, 128.0, 250.0))
    matrices = np.tile(np.eye(3), (COUNT, 1, 1))
    matrices[:, :2, :2] += random.uniform(-0.75, 0.25, (COUNT, 2, 2))
    matrices[:, :2, 2] = random.uniform(-5, 40, (COUNT, 2))
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    found = warp_batch(pictures, torch.from_numpy(matrices), sampling).permute(0, 2, 3, 1) * 255
    expected = np.stack(
        [
            cv2.warpAffine(
                one,
                matrix[:2],
                (SIZE, SIZE),
                flags=cv2.INTER_LINEAR,
                borderMode=border,
                borderValue=sampling.fill,
            )
            for one, matrix in zip(images, matrices, strict=True)
        ]
    )
    step = 255 if border == cv2.BORDER_CONSTANT else steepest(images)
    assert np.abs(found.numpy() - expected).max() <= 0.51 + step * 2 / 64


def test_a_perspective_and_the_order_of_stages_are_kept(images: np.ndarray) -> None:
    transforms = [
        {"name": "RandomBrightnessContrast", "brightness_limit": [0.3, 0.3], "p": 0.7},
        {"name": "Perspective", "scale": [0.1, 0.1], "fill": 128, "p": 0.7},
        {"name": "RandomRotate90"},
        {"name": "RandomBrightnessContrast", "contrast_limit": [-0.5, -0.5], "p": 0.7},
    ]
    augmentation = Augmentation(AugmentConfig(transforms=transforms, where="device"))
    found, expected = on_device(augmentation, images), on_host(augmentation, images)
    assert np.abs(found - expected).max() <= 1.2 + 0.51 + 1 + steepest(images) * 1.2 * 2 / 64
    assert np.abs(found - images).mean() > 20


@pytest.mark.parametrize("element", ["e", "h", "t", "r90"])
@pytest.mark.parametrize("border", DEVICE_BORDERS)
def test_flips_and_turns_are_exact_whatever_the_border(
    element: str, border: int, images: np.ndarray
) -> None:
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    matrix = torch.from_numpy(symmetry(element, height=SIZE, width=SIZE))
    sampling = Sampling(cv2.INTER_LINEAR, border, (0.0, 0.0, 0.0))
    found = warp_batch(pictures, matrix.repeat(COUNT, 1, 1), sampling)
    moved = {
        "e": pictures,
        "h": pictures.flip(3),
        "t": pictures.transpose(2, 3),
        "r90": pictures.rot90(1, (2, 3)),
    }[element]
    torch.testing.assert_close(found, moved, atol=0.002 / 255, rtol=0)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_layout_in_memory_and_the_input_are_kept(
    layout: torch.memory_format, images: np.ndarray
) -> None:
    augmentation = Augmentation(
        AugmentConfig(transforms=[{"name": "Rotate", "p": 1}], where="device")
    )
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)
    pictures = pictures.contiguous(memory_format=layout)
    before = pictures.clone()
    found = augment_batch(pictures, augmentation, records=np.arange(COUNT), seed=0, epoch=0)
    assert found.is_contiguous(memory_format=layout)
    assert found.dtype == torch.float32
    assert torch.equal(pictures, before)
