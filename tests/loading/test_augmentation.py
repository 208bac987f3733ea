import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr.config import AugmentConfig
from dr.loading.augmentation import Augmentation

FLIPS = [{"name": "HorizontalFlip", "p": 0.5}, {"name": "VerticalFlip", "p": 0.5}]
FUNDUS = [
    {"name": "HorizontalFlip", "p": 0.5},
    {
        "name": "Affine",
        "rotate": [-180, 180],
        "scale": [0.9, 1.1],
        "keep_ratio": True,
        "fill": 128,
        "p": 1.0,
    },
    {"name": "RandomBrightnessContrast", "brightness_limit": [-0.1, 0.1], "p": 0.5},
    {"name": "GaussNoise", "p": 0.5},
]


def build(transforms: list[Any]) -> Augmentation:
    return Augmentation(AugmentConfig(transforms=transforms))


@pytest.fixture(scope="module")
def fundus() -> Augmentation:
    return build(FUNDUS)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)


def test_two_flips_fall_independently() -> None:
    flips = build(FLIPS)
    corner = np.zeros((4, 4, 3), np.uint8)
    corner[0, 0] = 255
    seen = {(row, column): 0 for row in (0, 3) for column in (0, 3)}
    for record in range(400):
        found = flips(corner, seed=0, epoch=0, record=record)
        seen[tuple(np.argwhere(found[..., 0])[0].tolist())] += 1
    chi_square = sum((count - 100) ** 2 / 100 for count in seen.values())
    assert chi_square < 16.27  # p = 0.001 at three degrees of freedom


def test_the_same_transform_twice_is_drawn_twice() -> None:
    turn = {"name": "Rotate", "limit": [-180, 180], "p": 1.0}
    turns = build([turn, {"name": "RandomBrightnessContrast"}, turn])
    cosines = []
    for record in range(50):
        first, _, second = turns.draw(8, seed=0, epoch=0, record=record)
        cosines.append((first[0, 0], second[0, 0]))
    assert abs(np.corrcoef(np.array(cosines).T)[0, 1]) < 0.5
    assert len(np.unique(cosines)) == 100


def test_a_draw_depends_on_its_key_alone(fundus: Augmentation, image: np.ndarray) -> None:
    keys = [(seed, epoch, record) for seed in (0, 1) for epoch in (0, 1) for record in range(20)]

    def augment(key: tuple[int, int, int]) -> bytes:
        seed, epoch, record = key
        return fundus(image, seed=seed, epoch=epoch, record=record).tobytes()

    forward = {key: augment(key) for key in keys}
    backward = {key: augment(key) for key in reversed(keys)}
    with ThreadPoolExecutor(4) as pool:
        threaded = dict(zip(keys, pool.map(augment, keys), strict=True))
    assert forward == backward == threaded
    assert len(set(forward.values())) == len(keys)


def test_threads_share_no_transforms(fundus: Augmentation) -> None:
    other: list[Any] = []
    thread = threading.Thread(target=lambda: other.extend(fundus._workshop().transforms))
    thread.start()
    thread.join()
    assert len(other) == len(FUNDUS)
    assert not {id(one) for one in other} & {id(one) for one in fundus._workshop().transforms}


def test_draws_are_the_same_with_pixels_and_without() -> None:
    """`draw` then albumentations' own arithmetic, beside a call."""
    transforms = [{**FUNDUS[1], "p": 0.5}, {"name": "RandomBrightnessContrast", "p": 0.5}]
    augmentation = build(transforms)
    picture = np.full((16, 16, 3), 200, np.uint8)
    seen = set()
    for record in range(40):
        matrix, (alpha, beta) = augmentation.draw(16, seed=4, epoch=1, record=record)
        found = augmentation(picture, seed=4, epoch=1, record=record)
        assert found[8, 8, 0] == int(np.clip(np.float32(200) * alpha + beta, 0, 255))
        assert (found[0, 0, 0] == found[8, 8, 0]) == np.array_equal(matrix, np.eye(3))
        seen.add((np.array_equal(matrix, np.eye(3)), alpha == 1 and beta == 0))
    assert len(seen) == 4


def test_a_pickled_copy_draws_the_same(fundus: Augmentation, image: np.ndarray) -> None:
    copied = pickle.loads(pickle.dumps(fundus))
    for record in range(5):
        np.testing.assert_array_equal(
            copied(image, seed=3, epoch=2, record=record),
            fundus(image, seed=3, epoch=2, record=record),
        )


@given(height=st.integers(8, 40), width=st.integers(8, 40), record=st.integers(0, 2**40))
def test_shape_and_type_are_kept_and_the_input_is_not_written(
    fundus: Augmentation, height: int, width: int, record: int
) -> None:
    image = np.random.default_rng(record).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image.setflags(write=False)
    before = image.copy()
    found = fundus(image, seed=0, epoch=0, record=record)
    assert (found.shape, found.dtype) == (image.shape, np.uint8)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(image, before)


def test_without_transforms_the_image_itself_comes_back(image: np.ndarray) -> None:
    assert build([])(image, seed=0, epoch=0, record=0) is image


def test_later_changes_of_the_config_do_not_matter(image: np.ndarray) -> None:
    config = AugmentConfig(transforms=[{"name": "HorizontalFlip", "p": 1.0}])
    flip = Augmentation(config)
    config.transforms[0]["p"] = 0.0
    copied = pickle.loads(pickle.dumps(flip))
    np.testing.assert_array_equal(copied(image, seed=0, epoch=0, record=0), image[:, ::-1])


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        ({"name": "HorizontalFlop"}, "HorizontalFlop.*HorizontalFlip"),
        ({"name": "Compose"}, "Compose"),
        ({"name": "os"}, "'os'"),
        ({"name": "DualTransform"}, "DualTransform"),
        ({"name": "CenterCrop3D", "size": [1, 1, 1]}, "CenterCrop3D"),
        ({"name": "Rotate", "limt": 3}, "Rotate.*'limt'"),
        ({"name": "HorizontalFlip", "prob": 3}, "HorizontalFlip.*'prob'"),
        ({"name": "Rotate", "border_mode": "reflect"}, "Rotate.*border_mode"),
        ({"name": "Rotate", "p": 3}, "Rotate.*less than or equal to 1"),
        ({"name": "RandomRotate90", "p": 3}, "RandomRotate90.*less than or equal to 1"),
        ({"name": "RandomRotate90", "limit": 3}, "RandomRotate90.*'limit'"),
        ({"name": "RandomCrop"}, "RandomCrop.*height"),
        ({"name": "MaskDropout"}, "MaskDropout.*needs mask"),
    ],
)
def test_settings_that_cannot_be_built_are_named(transform: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=rf"augment\.transforms\[1\]\.name=.*{words}"):
        build([FLIPS[0], transform])


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        ({"name": "CenterCrop", "height": 8, "width": 8, "p": 0.3}, "'CenterCrop'.*(8, 8, 3)"),
        ({"name": "ToFloat", "p": 0.3}, "'ToFloat'.*float32"),
        ({"name": "BBoxSafeRandomCrop", "p": 0.3}, "'BBoxSafeRandomCrop'.*bboxes"),
    ],
)
def test_transforms_that_change_size_or_type_are_refused(
    image: np.ndarray, transform: dict[str, Any], words: str
) -> None:
    augmentation = build([transform])
    with pytest.raises(ValueError, match=words):
        augmentation.check(24)
    with pytest.raises(ValueError, match=words):
        for record in range(100):
            augmentation(image, seed=0, epoch=0, record=record)


def test_a_check_of_sound_transforms_passes_and_leaves_the_draws(
    fundus: Augmentation, image: np.ndarray
) -> None:
    before = fundus(image, seed=0, epoch=0, record=1)
    fundus.check(24)
    np.testing.assert_array_equal(fundus(image, seed=0, epoch=0, record=1), before)


def test_transforms_without_a_strict_mode_can_be_built(image: np.ndarray) -> None:
    turned = build([{"name": "RandomRotate90"}, {"name": "MedianBlur", "p": 0}])
    found = {turned(image, seed=0, epoch=0, record=record).tobytes() for record in range(40)}
    assert found == {np.rot90(image, turns).tobytes() for turns in range(4)}


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        ({"name": "GaussNoise"}, "GaussNoise.*flips, turns, warps"),
        ({"name": "Rotate", "interpolation": 2}, "Rotate.*interpolation 1"),
        ({"name": "Affine", "border_mode": 3}, "Affine.*border_mode 0, 1, 2 or 4"),
        ({"name": "Affine", "fit_output": True}, "Affine.*flips, turns, warps"),
        (
            {"name": "RandomBrightnessContrast", "brightness_by_max": False},
            "RandomBrightnessContrast.*brightness_by_max",
        ),
    ],
)
def test_what_cannot_run_on_the_device_is_named(transform: dict[str, Any], words: str) -> None:
    settings = AugmentConfig(transforms=[FLIPS[0], transform], where="device")
    with pytest.raises(ValueError, match=rf"transforms\[1\].*{words}.*augment.where=workers"):
        Augmentation(settings)
    assert not build([FLIPS[0], transform]).on_device


def test_a_pickled_copy_runs_where_the_original_does() -> None:
    augmentation = Augmentation(AugmentConfig(transforms=FLIPS, where="device"))
    assert pickle.loads(pickle.dumps(augmentation)).on_device
