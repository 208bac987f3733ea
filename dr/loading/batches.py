"""Batches of decoded, augmented pictures, made ahead of time by threads."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from dr.config import LoaderConfig
from dr.loading.augmentation import Augmentation
from dr.loading.buffers import BufferPool
from dr.loading.decoding import Jpeg, JpegPictures, Pixels
from dr.loading.resources import Resources, resources_here, single_threaded_opencv
from dr.shards.records import CorruptRecord

Records = NDArray[np.int64]
Plan = Iterable[Records]
_KEPT = 8
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """`images`: uint8 `[B, S, S, 3]`, RGB; `records`: int64 `[B]`, the record numbers.

    The memory of `images` is used again once neither it nor a view of it (a tensor made from it
    is one) is held any more.
    """

    images: Pixels
    records: Records


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What augments the records of an epoch; the same for any number of threads."""

    augmentation: Augmentation
    seed: int
    epoch: int


@dataclass(frozen=True)
class _Begun:
    """A batch that threads are filling; each future gives the places that it left out."""

    batch: Batch
    futures: Sequence[Future[list[int]]]

    def finished(self) -> Batch:
        left_out = [place for future in self.futures for place in future.result()]
        if not left_out:
            return self.batch
        kept = np.delete(np.arange(len(self.batch.records)), left_out)
        return Batch(self.batch.images[kept], self.batch.records[kept])

    def cancel(self) -> None:
        for future in self.futures:
            future.cancel()


class _Course:
    """The batches of one plan, of pictures of `size` px: those begun, and those still to be.

    `asked` counts the records of the batches begun so far; `limit` is how many may be begun
    beside the one that is waited for.
    """

    def __init__(self, plan: Plan, drawing: Drawing | None, size: int) -> None:
        self.plan, self.drawing, self.size = plan, drawing, size
        self.begun: deque[_Begun] = deque()
        self.asked = self.limit = 0
        self._left = iter(plan)

    def next_records(self) -> Records | None:
        records = next(self._left, None)
        self.asked += 0 if records is None else len(records)
        return records

    def cancel(self) -> None:
        for begun in self.begun:
            begun.cancel()
        self.begun.clear()


class BatchLoader:
    """Reads, decodes and augments records in threads, some batches ahead of their use.

    Give it the pictures of `dr.loading.decoded_cache`, or the function that reads the JPEG of a
    record number; either is called from many threads.
    """

    def __init__(
        self,
        read_jpeg: Callable[[int], Jpeg] | None = None,
        *,
        image_size: int,
        config: LoaderConfig,
        pictures: Callable[[int, Pixels], Pixels] | None = None,
        resources: Resources | None = None,
        allocate: Callable[[tuple[int, ...]], Pixels] | None = None,
    ) -> None:
        """One of `read_jpeg` and `pictures` is given; `image_size` px is what they are asked for.

        `pictures` gives the picture of a record: the array it may fill, uint8 `[S, S, 3]`, or
        another that is not written to. `allocate` makes uint8 arrays for batches, where their
        memory must be of a kind (pinned, for CUDA).
        """
        if pictures is None:
            assert read_jpeg is not None
            pictures = JpegPictures(read_jpeg)
        self._picture = pictures
        self._size = image_size
        self._config = config
        self.resources = resources or resources_here()
        self._allocate = allocate or BufferPool(keep=_KEPT).lend
        self._ahead: _Course | None = None
        self.threads = self.resources.threads(config)
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="loader")
        self._stack = ExitStack()

    def __enter__(self) -> "BatchLoader":
        self._stack.enter_context(single_threaded_opencv())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._stack.close()

    def prefetch(self, batch_size: int, image_size: int | None = None) -> int:
        """How many batches of that size are kept ready; None: of the loader's `image_size`."""
        size = image_size or self._size
        return self.resources.prefetch(self._config, batch_bytes=batch_size * size * size * 3)

    def announce(
        self, plan: Plan, drawing: Drawing | None = None, *, image_size: int | None = None
    ) -> None:
        """Say which `batches` comes after the present one; its first are made at that one's end."""
        if self._ahead is not None:
            self._ahead.cancel()
        self._ahead = _Course(plan, drawing, image_size or self._size)

    def batches(
        self, plan: Plan, drawing: Drawing | None = None, *, image_size: int | None = None
    ) -> Iterator[Batch]:
        """The batches of `plan`, in its order, augmented where `drawing` is given.

        They hold pictures of `image_size` px, or of the loader's where it is None.
        With `loader.on_corrupt=skip` a record that cannot be read is missing in its batch, and a
        batch of which none is left is passed over. Raises what reading or decoding a record
        raises, and ValueError where no record of the whole plan could be read.
        """
        course = self._course(plan, drawing, image_size or self._size)
        whole = 0
        try:
            while self._begin(course):
                batch = course.begun.popleft().finished()
                whole += len(batch.records)
                if len(batch.records):
                    yield batch
                del batch
            if not whole and course.asked:
                raise ValueError(f"none of {course.asked} records could be read; see the log")
        finally:
            course.cancel()

    def _course(self, plan: Plan, drawing: Drawing | None, size: int) -> _Course:
        ahead = self._ahead
        if ahead is None or (ahead.drawing, ahead.size) != (drawing, size):
            return _Course(plan, drawing, size)
        if not _same(ahead.plan, plan):
            return _Course(plan, drawing, size)
        self._ahead = None
        return ahead

    def _begin(self, course: _Course) -> bool:
        """Begin batches up to the limit; whether there is one to wait for."""
        self._begin_some(course, course, taken=0)
        if self._ahead is not None and course.begun:
            self._begin_some(self._ahead, course, taken=len(course.begun))
        return bool(course.begun)

    def _begin_some(self, course: _Course, present: _Course, *, taken: int) -> None:
        while len(course.begun) + taken <= present.limit:
            records = course.next_records()
            if records is None:
                return
            present.limit = self.prefetch(len(records), course.size)
            course.begun.append(self._begun(records, course))

    def _begun(self, records: Records, course: _Course) -> _Begun:
        images = self._allocate((len(records), course.size, course.size, 3))
        parts = _ranges(len(records), self._parts(len(records), course.size))
        futures = [
            self._pool.submit(self._fill, images, records, part, course.drawing) for part in parts
        ]
        return _Begun(Batch(images, records), futures)

    def _parts(self, batch_size: int, image_size: int) -> int:
        """Parts of a batch: few, as each costs some, but enough that no thread lacks one."""
        in_flight = self.prefetch(batch_size, image_size) + 1
        return -(-2 * self.threads // in_flight)

    def _fill(
        self, images: Pixels, records: Records, part: range, drawing: Drawing | None
    ) -> list[int]:
        """Make the pictures of some places of a batch; the places that had to be left out."""
        left_out = []
        for place in part:
            try:
                self._make(images[place], int(records[place]), drawing)
            except CorruptRecord as error:
                if self._config.on_corrupt == "fail":
                    raise
                _say_once(f"left out: {error}")
                left_out.append(place)
        return left_out

    def _make(self, out: Pixels, record: int, drawing: Drawing | None) -> None:
        image = self._picture(record, out)
        if drawing is not None:
            drawing.augmentation(
                image, seed=drawing.seed, epoch=drawing.epoch, record=record, out=out
            )
        elif image is not out:
            out[...] = image


def _ranges(places: int, parts: int) -> list[range]:
    size = max(1, -(-places // parts))
    return [range(start, places)[:size] for start in range(0, places, size)]


def _same(one: Plan, other: Plan) -> bool:
    if one is other:
        return True
    if not (isinstance(one, list) and isinstance(other, list) and len(one) == len(other)):
        return False
    return all(map(np.array_equal, one, other))


@cache
def _say_once(message: str) -> None:
    _log.warning("%s", message)
