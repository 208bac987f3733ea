from typing import Any

import cv2
import numpy as np
import pytest
from albumentations.augmentations.geometric import functional
from hypothesis import given, settings
from hypothesis import strategies as st

from dr.config import AugmentConfig
from dr.loading.augmentation import Augmentation
from dr.loading.transforms import build_transform, set_streams
from dr.loading.warps import Fold, Sampling, Single, Warper, as_symmetry, stages_of, symmetry

ELEMENTS = ("e", "h", "v", "t", "r90", "r180", "r270", "hvt")
EXACT: list[dict[str, Any]] = [
    {"name": "HorizontalFlip", "p": 0.5},
    {"name": "VerticalFlip", "p": 0.5},
    {"name": "Transpose", "p": 0.5},
    {"name": "RandomRotate90", "p": 0.8},
    {"name": "D4", "p": 0.8},
    {"name": "SquareSymmetry", "p": 0.8},
]
WARPS: list[dict[str, Any]] = [
    {"name": "Rotate", "limit": [-144, 144], "border_mode": 2, "p": 0.9},
    {"name": "Rotate", "limit": [-180, 180], "fill": [9, 128, 200], "p": 0.9},
    {"name": "Rotate", "interpolation": 0, "border_mode": 1, "p": 0.9},
    {"name": "SafeRotate", "limit": 60, "border_mode": 3, "p": 0.9},
    {"name": "Affine", "rotate": [-180, 180], "scale": [0.9, 1.1], "fill": 128, "p": 0.9},
    {"name": "Affine", "shear": 20, "translate_percent": 0.2, "interpolation": 2, "p": 0.9},
    {"name": "Affine", "rotate": [0, 0], "p": 0.9},
    {"name": "ShiftScaleRotate", "border_mode": 4, "p": 0.9},
    {"name": "Perspective", "scale": 0.2, "border_mode": 4, "p": 0.9},
    {"name": "Perspective", "fill": [7, 8, 9], "p": 0.9},
]
ids = {"ids": lambda one: "-".join(map(str, one.values()))}


def built(transforms: list[dict[str, Any]]) -> list[Any]:
    return [build_transform(one, key=str(number)) for number, one in enumerate(transforms)]


def one_by_one(transforms: list[Any], image: np.ndarray, record: int) -> np.ndarray:
    """The same draws, each transform applied by albumentations itself."""
    set_streams(transforms, (0, 0, record))
    for transform in transforms:
        image = transform(image=image)["image"]
    return image


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(size: int, seed: int = 0) -> np.ndarray:
    """Waves at least 16 pixels long, over the whole range of gray."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    turns = random.uniform(0, 2 * np.pi, (2, 3))
    waves = [
        np.sin(2 * np.pi * (x * np.cos(a) + y * np.sin(a)) / 16 + b)
        for a, b in zip(*turns, strict=True)
    ]
    return np.rint(127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.mark.filterwarnings("ignore:ShiftScaleRotate")
@pytest.mark.parametrize("transform", EXACT + WARPS, **ids)
def test_each_transform_alone_is_albumentations_to_the_bit(transform: dict[str, Any]) -> None:
    ours = Augmentation(AugmentConfig(transforms=[transform]))
    theirs = built([transform])
    square = noise(37, 37)
    changed = 0
    for record in range(25):
        found = ours(square, seed=0, epoch=0, record=record)
        np.testing.assert_array_equal(found, one_by_one(theirs, square, record))
        changed += not np.array_equal(found, square)
    assert changed > 3 or transform.get("rotate") == [0, 0]


@pytest.mark.parametrize("transform", EXACT[:2] + WARPS[:7], **ids)
def test_a_picture_need_not_be_square(transform: dict[str, Any]) -> None:
    ours, theirs = Augmentation(AugmentConfig(transforms=[transform])), built([transform])
    image = noise(31, 44)
    for record in range(10):
        found = ours(image, seed=0, epoch=0, record=record)
        np.testing.assert_array_equal(found, one_by_one(theirs, image, record))


def test_swapped_sides_of_a_picture_that_is_not_square_are_refused() -> None:
    transforms = [{"name": "HorizontalFlip", "p": 1}, {"name": "Transpose", "p": 1}]
    with pytest.raises(ValueError, match=r"transforms\[1\]\.name='Transpose'.*swaps the sides"):
        Augmentation(AugmentConfig(transforms=transforms))(noise(8, 9), seed=0, epoch=0, record=0)


@pytest.mark.parametrize("element", ELEMENTS)
def test_the_map_of_a_symmetry_moves_each_pixel_where_albumentations_does(element: str) -> None:
    image = np.arange(25, dtype=np.uint8).reshape(5, 5)
    moved = functional.d4(image, element)
    matrix = symmetry(element, height=5, width=5)
    for y in range(5):
        for x in range(5):
            to_x, to_y, _ = (matrix @ (x, y, 1)).astype(int)
            assert moved[to_y, to_x] == image[y, x]


@given(elements=st.lists(st.sampled_from(ELEMENTS), max_size=6), size=st.integers(1, 9))
def test_flips_and_turns_compose_exactly(elements: list[str], size: int) -> None:
    image = noise(size, size)
    matrix, expected = np.eye(3), image
    for element in elements:
        matrix = symmetry(element, height=size, width=size) @ matrix
        expected = functional.d4(expected, element)
    np.testing.assert_array_equal(Warper()(image, matrix, None), expected)


@given(picked=st.lists(st.sampled_from(EXACT), min_size=1, max_size=5), record=st.integers(0, 99))
def test_drawn_flips_and_turns_are_exact(picked: list[dict[str, Any]], record: int) -> None:
    image = noise(16, 16)
    found = Augmentation(AugmentConfig(transforms=picked))(image, seed=0, epoch=0, record=record)
    np.testing.assert_array_equal(found, one_by_one(built(picked), image, record))


@settings(max_examples=60)
@given(
    before=st.lists(st.sampled_from(EXACT), max_size=3),
    warp=st.sampled_from(WARPS[:2] + WARPS[4:5] + WARPS[8:9]),
    after=st.lists(st.sampled_from(EXACT), max_size=3),
    record=st.integers(0, 10**6),
)
def test_flips_and_turns_around_a_warp_change_no_gray_value_by_more_than_one(
    before: list[Any], warp: dict[str, Any], after: list[Any], record: int
) -> None:
    """The places read are the same but for the last bits of their coordinates."""
    transforms = [*before, warp, *after]
    image = smooth(48, record)
    found = Augmentation(AugmentConfig(transforms=transforms))(
        image, seed=0, epoch=0, record=record
    )
    off = np.abs(found.astype(int) - one_by_one(built(transforms), image, record))
    assert off.max() <= 1 and off.mean() < 0.02


def never_outside(transforms: list[Any], size: int, record: int) -> np.ndarray:
    """Pixels whose value came, step by step, from within the picture."""
    inside = np.full((size, size, 3), 255, np.uint8)
    inside[:2] = inside[-2:] = inside[:, :2] = inside[:, -2:] = 0
    return one_by_one(transforms, inside, record)[..., 0] == 255


@settings(max_examples=60)
@given(
    picked=st.lists(
        st.sampled_from(
            [
                *EXACT,
                {"name": "Affine", "rotate": [-180, 180], "scale": [0.9, 1.1], "p": 0.9},
                {"name": "Affine", "translate_percent": 0.1, "shear": [-10, 10], "p": 0.9},
                {"name": "Rotate", "limit": [-30, 30], "p": 0.9},
                {"name": "Perspective", "scale": 0.05, "p": 0.9},
            ]
        ),
        min_size=2,
        max_size=4,
    ),
    record=st.integers(0, 10**6),
)
def test_folded_warps_are_the_successive_ones_without_their_blur(
    picked: list[Any], record: int
) -> None:
    """Linear interpolation flattens a wave of 16 pixels by up to 2% of its height at each of up
    to four warps, and each rounds: up to 12 gray levels at crests, few in the mean.
    """
    image, transforms = smooth(64, record), built(picked)
    ours = Augmentation(AugmentConfig(transforms=picked))
    assert len(ours.samplings) == 1
    found = ours(image, seed=0, epoch=0, record=record)
    inside = never_outside(transforms, 64, record)
    off = np.abs(found.astype(int) - one_by_one(transforms, image, record))[inside]
    assert off.size == 0 or (off.max() <= 12 and off.mean() < 4)


def test_two_opposite_warps_give_the_picture_back() -> None:
    there, back = (
        {"name": "Affine", "translate_px": shift, "rotate": [turn, turn], "p": 1}
        for shift, turn in ((0, 33.0), (0, -33.0))
    )
    image = noise(40, 40)
    found = Augmentation(AugmentConfig(transforms=[there, back]))(image, seed=0, epoch=0, record=0)
    np.testing.assert_array_equal(found, image)


def test_what_lies_outside_is_filled() -> None:
    half = {"name": "Affine", "scale": [0.5, 0.5], "fill": [10, 20, 30], "p": 1}
    image = np.full((40, 40, 3), 200, np.uint8)
    once = Augmentation(AugmentConfig(transforms=[half]))(image, seed=0, epoch=0, record=0)
    twice = Augmentation(AugmentConfig(transforms=[half] * 2))(image, seed=0, epoch=0, record=0)
    for found, edge in ((once, 9), (twice, 14)):
        inner = slice(edge + 2, 40 - edge - 2)
        outside = np.ones((40, 40), bool)
        outside[edge : 40 - edge, edge : 40 - edge] = False
        assert (found[outside] == (10, 20, 30)).all()
        assert (found[inner, inner] == 200).all()


def test_a_number_to_fill_with_fills_every_channel_of_a_perspective() -> None:
    far = {"name": "Perspective", "scale": [0.3, 0.3], "fill": 77, "p": 1, "fit_output": True}
    found = Augmentation(AugmentConfig(transforms=[far]))(
        np.zeros((40, 40, 3), np.uint8), seed=0, epoch=0, record=1
    )
    assert (found == 77).all(axis=2).any()
    assert (np.ptp(found, axis=2) == 0).all()


def numbers(transforms: list[dict[str, Any]]) -> list[Any]:
    return [
        stage.number if isinstance(stage, Single) else stage.numbers
        for stage in stages_of(built(transforms))
    ]


FLIP, BLUR = {"name": "HorizontalFlip"}, {"name": "Blur"}
WRAPPED, GRAY = {"name": "Rotate", "border_mode": 3}, {"name": "Affine", "fill": 128}


@pytest.mark.parametrize(
    ("transforms", "expected"),
    [
        ([], []),
        ([FLIP, GRAY], [(0, 1)]),
        ([FLIP, FLIP], [(0, 1)]),
        ([GRAY, FLIP, GRAY, BLUR, FLIP], [(0, 1, 2), 3, (4,)]),
        ([GRAY, FLIP, WRAPPED], [(0, 1), (2,)]),
        ([FLIP, WRAPPED, GRAY], [(0, 1), (2,)]),
        ([GRAY, {**GRAY, "interpolation": 2}], [(0,), (1,)]),
        ([GRAY, {**GRAY, "fill": [128, 128, 128]}], [(0, 1)]),
        ([WRAPPED, {**WRAPPED, "fill": 9}], [(0, 1)]),
        ([FLIP, {"name": "Affine", "fit_output": True}], [(0,), 1]),
        ([FLIP, {"name": "Rotate", "crop_border": True}], [(0,), 1]),
        ([FLIP, {"name": "Perspective", "keep_size": False}], [(0,), 1]),
        ([BLUR, BLUR], [0, 1]),
    ],
)
def test_only_neighbours_that_sample_alike_are_folded(
    transforms: list[dict[str, Any]], expected: list[Any]
) -> None:
    assert numbers(transforms) == expected


def test_a_fold_samples_as_its_warps_do() -> None:
    (fold,) = stages_of(built([FLIP, {"name": "Rotate", "border_mode": 0, "fill": 128}, FLIP]))
    assert fold == Fold((0, 1, 2), Sampling(cv2.INTER_LINEAR, cv2.BORDER_CONSTANT, (128.0,) * 3))


@given(element=st.sampled_from(ELEMENTS), size=st.integers(2, 600), off=st.floats(0.01, 1))
def test_a_map_that_moves_a_corner_is_no_symmetry(element: str, size: int, off: float) -> None:
    matrix = symmetry(element, height=size, width=size)
    assert as_symmetry(matrix, height=size, width=size) is not None
    turn = cv2.getRotationMatrix2D(((size - 1) / 2,) * 2, float(np.degrees(off / size)), 1)
    assert as_symmetry(np.vstack([turn, (0, 0, 1)]) @ matrix, height=size, width=size) is None
    shift = np.array([[1, 0, off], [0, 1, 0], [0, 0, 1]])
    assert as_symmetry(shift @ matrix, height=size, width=size) is None


@given(element=st.sampled_from(ELEMENTS), size=st.integers(2, 600))
def test_rounding_in_a_matrix_leaves_a_symmetry_exact(element: str, size: int) -> None:
    image = noise(size, size) if size < 64 else noise(64, 64)
    side = image.shape[0]
    near = symmetry(element, height=side, width=side) + 1e-9
    near[2] = (0, 0, 1)
    found = Warper()(image, near, None)
    np.testing.assert_array_equal(found, functional.d4(image, element))


LAST = [*EXACT[:4], WARPS[0], WARPS[2], WARPS[8], {"name": "GaussNoise", "p": 0.5}]


@pytest.mark.parametrize("transform", LAST, **ids)
@pytest.mark.parametrize("before", [[], [GRAY | {"rotate": [-90, 90]}]], ids=["alone", "last"])
def test_the_result_lies_where_it_is_asked_for(
    transform: dict[str, Any], before: list[dict[str, Any]]
) -> None:
    ours = Augmentation(AugmentConfig(transforms=[*before, transform]))
    image = noise(24, 24)
    for record in range(8):
        expected = ours(image, seed=0, epoch=0, record=record).copy()
        apart, inside = np.empty_like(image), np.stack([image] * 3)
        assert ours(image, seed=0, epoch=0, record=record, out=apart) is apart
        ours(inside[1], seed=0, epoch=0, record=record, out=inside[1])
        np.testing.assert_array_equal(apart, expected)
        np.testing.assert_array_equal(inside, np.stack([image, expected, image]))
