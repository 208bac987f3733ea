"""Batches of decoded, augmented pictures, made ahead of time by threads."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from dr.config import LoaderConfig
from dr.loading.augmentation import Augmentation

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Batch:
    """`images`: uint8 `[B, S, S, 3]`, RGB; `records`: int64 `[B]`, the record numbers."""

    images: Pixels
    records: NDArray[np.int64]


def decode_at(jpeg: bytes, *, size: int) -> Pixels:
    """Decode a prepared JPEG to uint8 `[size, size, 3]`, RGB.

    libjpeg-turbo halves as often as it can, up to three times, without falling below `size` or
    cutting through a pixel; the rest is resized, by area downwards and linearly upwards. Raises
    ValueError for bytes that are no JPEG.
    """
    height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
    whole = [d for d in (8, 4, 2) if not height % d and not width % d]
    divisor = next((d for d in whole if min(height, width) // d >= size), 1)
    image: Pixels = simplejpeg.decode_jpeg(
        jpeg, colorspace="RGB", min_height=height // divisor, min_factor=divisor
    )
    if image.shape[:2] == (size, size):
        return image
    method = cv2.INTER_AREA if min(image.shape[:2]) > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=method), dtype=np.uint8)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What augments the records of an epoch; the same for any number of threads."""

    augmentation: Augmentation
    seed: int
    epoch: int


class BatchLoader:
    """Reads, decodes and augments records in threads, some batches ahead of their use.

    `read_jpeg` gives the JPEG bytes of a record number and is called from many threads.
    """

    def __init__(
        self, read_jpeg: Callable[[int], bytes], *, image_size: int, config: LoaderConfig
    ) -> None:
        cores = len(os.sched_getaffinity(0))
        self._read_jpeg = read_jpeg
        self._size = image_size
        self._threads = config.threads or cores
        self._prefetch = config.prefetch
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="loader")

    def __enter__(self) -> "BatchLoader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def batches(
        self, plan: Iterable[NDArray[np.int64]], drawing: Drawing | None = None
    ) -> Iterator[Batch]:
        """The batches of `plan`, in its order, augmented where `drawing` is given.

        Raises what reading or decoding a record raises.
        """
        waiting: deque[tuple[Batch, Sequence[Future[None]]]] = deque()
        try:
            for records in plan:
                waiting.append(self._begin(records, drawing))
                if len(waiting) > self._prefetch:
                    yield _finish(*waiting.popleft())
            while waiting:
                yield _finish(*waiting.popleft())
        finally:
            for _, futures in waiting:
                for future in futures:
                    future.cancel()

    def _begin(
        self, records: NDArray[np.int64], drawing: Drawing | None
    ) -> tuple[Batch, Sequence[Future[None]]]:
        images = np.empty((len(records), self._size, self._size, 3), np.uint8)
        parts = np.array_split(np.arange(len(records)), min(self._threads, len(records)))
        futures = [self._pool.submit(self._fill, images, records, part, drawing) for part in parts]
        return Batch(images, records), futures

    def _decode(self, record: int) -> Pixels:
        jpeg = self._read_jpeg(record)
        try:
            return decode_at(jpeg, size=self._size)
        except ValueError as error:
            raise ValueError(f"record {record}: its JPEG cannot be decoded ({error})") from error

    def _fill(
        self,
        images: Pixels,
        records: NDArray[np.int64],
        part: NDArray[np.int64],
        drawing: Drawing | None,
    ) -> None:
        for place in part:
            record = int(records[place])
            image = self._decode(record)
            if drawing is not None:
                image = drawing.augmentation(
                    image, seed=drawing.seed, epoch=drawing.epoch, record=record
                )
            images[place] = image


def _finish(batch: Batch, futures: Sequence[Future[None]]) -> Batch:
    for future in futures:
        future.result()
    return batch
