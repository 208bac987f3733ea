"""Batches: the same pixels in the same order, however many threads make them."""

import io
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dr.config import AugmentConfig, LoaderConfig
from dr.loading.augmentation import Augmentation
from dr.loading.batches import BatchLoader, Drawing
from dr.loading.decoding import decode_at
from dr.shards.records import CorruptRecord

COUNT = 12
DATA = Path(os.environ.get("DR_PHOTOGRAPHS", "photographs"))


def picture(seed: int, height: int = 64, width: int = 64) -> NDArray[np.uint8]:
    """Smooth colours, as a retina has: a few random values, enlarged."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine, dtype=np.uint8)


def jpeg(image: NDArray[np.uint8], sampling: int = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, 94, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    encoded, data = cv2.imencode(".jpg", image[..., ::-1], options)
    assert encoded
    return bytes(data)


JPEGS = [jpeg(picture(seed)) for seed in range(COUNT)]
PLAN = [np.array([3, 1, 11]), np.array([0, 2, 4, 5]), np.array([7]), np.array([10, 3])]


def psnr(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    return float(cv2.PSNR(first, second))


@pytest.mark.parametrize(
    "sampling", [cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
)
@pytest.mark.parametrize("size", [32, 64, 61])
def test_at_full_size_it_decodes_as_pillow_and_opencv_do(size: int, sampling: int) -> None:
    data = jpeg(picture(0, size, size), sampling)
    found = decode_at(data, size=size)
    by_pillow = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    by_opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    for expected in (by_pillow, by_opencv):
        assert np.abs(found.astype(int) - expected).max() <= 2
    assert psnr(found, picture(0, size, size)) > 35


@pytest.mark.parametrize("size", [8, 12, 16, 20, 31, 32, 33, 48, 63])
def test_reduced_it_is_close_to_full_decode_and_resize_by_area(size: int) -> None:
    full = cv2.imdecode(np.frombuffer(JPEGS[0], np.uint8), cv2.IMREAD_COLOR_RGB)
    expected = cv2.resize(full, (size, size), interpolation=cv2.INTER_AREA)
    found = decode_at(JPEGS[0], size=size)
    assert (found.shape, found.dtype) == ((size, size, 3), np.uint8)
    assert psnr(found, np.asarray(expected, dtype=np.uint8)) > 36


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(64, 64, 96), (40, 64, 32), (64, 40, 40), (33, 47, 16), (65, 66, 8)],
)
def test_any_shape_becomes_the_square(height: int, width: int, size: int) -> None:
    image = picture(1, height, width)
    method = cv2.INTER_AREA if min(height, width) > size else cv2.INTER_LINEAR
    expected = np.asarray(cv2.resize(image, (size, size), interpolation=method), dtype=np.uint8)
    found = decode_at(jpeg(image), size=size)
    assert found.shape == (size, size, 3)
    assert psnr(found, expected) > 24


def test_a_gray_jpeg_becomes_rgb() -> None:
    encoded, data = cv2.imencode(".jpg", picture(2)[..., 0])
    assert encoded
    found = decode_at(bytes(data), size=64)
    assert (found[..., 0] == found[..., 1]).all()
    assert (found[..., 0] == found[..., 2]).all()


@pytest.mark.parametrize("data", [b"", b"no picture", JPEGS[0][:-200]])
def test_what_is_no_whole_jpeg_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_at(data, size=64)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no photographs in {DATA}")
def test_a_photograph_reduced_is_close_to_full_decode() -> None:
    data = min((DATA / "eyepacs256" / "train").glob("*.jpeg")).read_bytes()
    full = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    expected = cv2.resize(full, (112, 112), interpolation=cv2.INTER_AREA)
    assert psnr(decode_at(data, size=112), np.asarray(expected, dtype=np.uint8)) > 33


def flips() -> Drawing:
    transforms = [
        {"name": "HorizontalFlip", "p": 0.5},
        {"name": "Affine", "rotate": [-180, 180], "p": 1.0},
    ]
    return Drawing(augmentation=Augmentation(AugmentConfig(transforms=transforms)), seed=5, epoch=2)


def images_of(threads: int, prefetch: int, drawing: Drawing | None) -> list[NDArray[np.uint8]]:
    def read(record: int) -> bytes:
        time.sleep(0.002 * (record % 3))
        return JPEGS[record]

    config = LoaderConfig(threads=threads, prefetch=prefetch)
    with BatchLoader(read, image_size=32, config=config) as loader:
        batches = list(loader.batches(PLAN, drawing))
    assert [batch.records.tolist() for batch in batches] == [records.tolist() for records in PLAN]
    return [batch.images for batch in batches]


@pytest.mark.parametrize("drawn", [True, False])
def test_threads_and_prefetch_do_not_change_a_pixel(drawn: bool) -> None:
    drawing = flips() if drawn else None
    expected = []
    for records in PLAN:
        images = [decode_at(JPEGS[record], size=32) for record in records]
        if drawing is not None:
            images = [
                drawing.augmentation(image, seed=5, epoch=2, record=int(record))
                for image, record in zip(images, records, strict=True)
            ]
        expected.append(np.stack(images))
    for threads, prefetch in ((1, 1), (4, 1), (4, 4), (3, 9)):
        found = images_of(threads, prefetch, drawing)
        assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))


def test_augmentation_changes_with_the_epoch() -> None:
    drawing = flips()
    later = Drawing(augmentation=drawing.augmentation, seed=5, epoch=3)
    pairs = zip(images_of(2, 2, drawing), images_of(2, 2, later), strict=True)
    assert not any(np.array_equal(*pair) for pair in pairs)


def test_batches_do_not_share_memory() -> None:
    first, *others = images_of(2, 4, None)
    assert not any(np.shares_memory(first, other) for other in others)


def test_no_more_batches_are_begun_than_prefetch_allows() -> None:
    begun: list[int] = []

    def counted() -> Iterator[NDArray[np.int64]]:
        for number in range(10):
            begun.append(number)
            yield np.array([number])

    config = LoaderConfig(threads=2, prefetch=3)
    with BatchLoader(JPEGS.__getitem__, image_size=32, config=config) as loader:
        for number, _ in enumerate(loader.batches(counted())):
            assert len(begun) == min(10, number + 1 + 3)


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    def read(record: int) -> bytes:
        if record == 4:
            raise OSError("the disk is gone")
        return JPEGS[record]

    with BatchLoader(read, image_size=32, config=LoaderConfig(threads=3)) as loader:
        batches = loader.batches(PLAN)
        assert next(batches).records.tolist() == [3, 1, 11]
        with pytest.raises(OSError, match="the disk is gone"):
            next(batches)


def test_a_record_that_does_not_decode_is_named() -> None:
    jpegs = [*JPEGS[:7], b"no picture", *JPEGS[8:]]
    config = LoaderConfig(threads=2)
    with (
        BatchLoader(jpegs.__getitem__, image_size=32, config=config) as loader,
        pytest.raises(ValueError, match="record 7: its JPEG cannot be decoded"),
    ):
        list(loader.batches(PLAN))


def test_leaving_early_ends_the_threads() -> None:
    before = threading.active_count()
    with BatchLoader(JPEGS.__getitem__, image_size=32, config=LoaderConfig(threads=3)) as loader:
        next(loader.batches([np.arange(COUNT)] * 50))
    assert threading.active_count() == before


def test_batches_that_nobody_waits_for_are_not_made() -> None:
    gate, begun = threading.Event(), []

    def read(record: int) -> bytes:
        begun.append(record)
        if record:
            gate.wait(timeout=10)
        return JPEGS[record]

    config = LoaderConfig(threads=1, prefetch=9)
    with BatchLoader(read, image_size=32, config=config) as loader:
        batches = loader.batches([np.array([record]) for record in range(COUNT)])
        next(batches)
        batches.close()  # type: ignore[attr-defined]
        gate.set()
        again = loader.batches([np.array([0])])
        assert next(again).records.tolist() == [0]
    assert begun in ([0, 0], [0, 1, 0])


def test_an_empty_plan_gives_nothing() -> None:
    with BatchLoader(JPEGS.__getitem__, image_size=32, config=LoaderConfig()) as loader:
        assert list(loader.batches([])) == []


def test_a_batch_that_is_held_is_never_written_to_again() -> None:
    config = LoaderConfig(threads=2, prefetch=2)
    plan = [np.array([number % COUNT]) for number in range(40)]
    held: list[tuple[int, NDArray[np.uint8]]] = []
    addresses = set()
    with BatchLoader(JPEGS.__getitem__, image_size=32, config=config) as loader:
        for number, batch in enumerate(loader.batches(plan)):
            addresses.add(batch.images.__array_interface__["data"][0])
            if number % 4 == 0:
                held.append((int(batch.records[0]), batch.images[0, 1:]))
    for record, view in held:
        assert np.array_equal(view, decode_at(JPEGS[record], size=32)[1:])
    assert len(addresses) < 30


def test_memory_of_a_kind_can_be_asked_for() -> None:
    made: list[NDArray[np.uint8]] = []

    def allocate(shape: tuple[int, ...]) -> NDArray[np.uint8]:
        made.append(np.empty(shape, np.uint8))
        return made[-1]

    config = LoaderConfig(threads=2)
    with BatchLoader(JPEGS.__getitem__, image_size=32, config=config, allocate=allocate) as loader:
        batches = list(loader.batches(PLAN))
    assert [batch.images is own for batch, own in zip(batches, made, strict=True)] == [True] * 4


@pytest.mark.parametrize("drawn", [True, False])
def test_pictures_that_lie_elsewhere_give_the_same_batches(drawn: bool) -> None:
    stored = np.stack([decode_at(data, size=32) for data in JPEGS])
    stored.flags.writeable = False
    drawing = flips() if drawn else None
    config = LoaderConfig(threads=2)
    with BatchLoader(
        image_size=32, config=config, pictures=lambda record, out: stored[record]
    ) as loader:
        found = [batch.images for batch in loader.batches(PLAN, drawing)]
    expected = images_of(1, 1, drawing)
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))


def some_bad(record: int) -> bytes:
    if record in (4, 7):
        raise CorruptRecord(f"train00.tfrec: record {record}, at byte 9: its CRC is wrong")
    return JPEGS[record][:100] if record == 1 else JPEGS[record]


def test_skip_leaves_out_what_cannot_be_read_and_names_it_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = LoaderConfig(threads=2, on_corrupt="skip")
    with BatchLoader(some_bad, image_size=32, config=config) as loader:
        batches = [*loader.batches(PLAN), *loader.batches(PLAN)]
    assert [batch.records.tolist() for batch in batches] == [[3, 11], [0, 2, 5], [10, 3]] * 2
    for batch in batches:
        expected = [decode_at(JPEGS[record], size=32) for record in batch.records]
        assert np.array_equal(batch.images, np.stack(expected))
    assert caplog.text.count("train00.tfrec: record 4, at byte 9") == 1
    assert caplog.text.count("record 1: its JPEG cannot be decoded") == 1


def test_skip_does_not_hide_a_failing_disk() -> None:
    def read(record: int) -> bytes:
        raise OSError("the disk is gone")

    config = LoaderConfig(threads=2, on_corrupt="skip")
    with (
        BatchLoader(read, image_size=32, config=config) as loader,
        pytest.raises(OSError, match="the disk is gone"),
    ):
        list(loader.batches(PLAN))


def test_a_plan_of_which_nothing_can_be_read_is_an_error() -> None:
    config = LoaderConfig(threads=2, on_corrupt="skip")
    with (
        BatchLoader(some_bad, image_size=32, config=config) as loader,
        pytest.raises(ValueError, match="none of 3 records could be read"),
    ):
        list(loader.batches([np.array([1, 4]), np.array([7])]))


def test_announced_batches_are_begun_at_the_end_of_the_present_ones() -> None:
    read: list[int] = []

    def counted(record: int) -> bytes:
        read.append(record)
        return JPEGS[record]

    config = LoaderConfig(threads=1, prefetch=2)
    first, second = [np.array([0]), np.array([1]), np.array([2])], [np.array([8]), np.array([9])]
    with BatchLoader(counted, image_size=32, config=config) as loader:
        loader.announce(second)
        given = [batch.records.tolist() for batch in loader.batches(first)]
        given += [batch.records.tolist() for batch in loader.batches([*second])]
    assert given == [[0], [1], [2], [8], [9]]
    assert read == [0, 1, 2, 8, 9]


def test_an_announcement_that_does_not_come_true_changes_nothing() -> None:
    config = LoaderConfig(threads=2)
    with BatchLoader(JPEGS.__getitem__, image_size=32, config=config) as loader:
        loader.announce([np.array([5, 6])])
        list(loader.batches(PLAN))
        drawn = next(loader.batches([np.array([5, 6])], flips()))
        plain = next(loader.batches([np.array([5, 6])]))
    expected = np.stack([decode_at(JPEGS[record], size=32) for record in (5, 6)])
    assert np.array_equal(plain.images, expected)
    assert not np.array_equal(drawn.images, expected)


def test_a_plan_may_ask_for_pictures_of_another_size_announced_or_not() -> None:
    read: list[int] = []

    def counted(record: int) -> bytes:
        read.append(record)
        return JPEGS[record]

    small, large = [np.array([0, 1]), np.array([2])], [np.array([8]), np.array([9, 3])]
    config = LoaderConfig(threads=1, prefetch=2)
    with BatchLoader(counted, image_size=64, config=config) as loader:
        loader.announce(large)
        found = [*loader.batches(small, image_size=24), *loader.batches([*large])]
        loader.announce(small, image_size=40)
        found += [*loader.batches([*small])]
    assert [len(batch.images[0]) for batch in found] == [24, 24, 64, 64, 64, 64]
    for batch in found:
        size = batch.images.shape[1]
        expected = [decode_at(JPEGS[record], size=size) for record in batch.records]
        assert np.array_equal(batch.images, np.stack(expected))
    assert read[:6] == [0, 1, 2, 8, 9, 3]
