"""libjpeg-turbo's own rate: decoding in threads, the JPEGs in memory, nothing else done."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from benchmarks.peers.contract import Batches, Epoch, Run
from benchmarks.peers.pictures import Pictures

PACKAGES = ("simplejpeg",)


def open_epochs(run: Run, *, fast: bool = False, keep: bool = False) -> Epoch:
    """`fast`: the less exact DCT. `keep`: pictures stay, in batches, instead of being replaced."""
    pictures = Pictures(run.folder / "pictures")
    jpegs = [jpeg for _, jpeg, _ in pictures]
    slots = run.batch_size if keep else 1
    shape = (2 * run.threads, slots, run.image_size, run.image_size, 3)
    buffers = np.zeros(shape, np.uint8)
    pool = ThreadPoolExecutor(run.threads)

    def decode(buffer: NDArray[np.uint8], records: NDArray[np.int64]) -> None:
        for place, record in enumerate(records):
            target = buffer[place % slots]
            simplejpeg.decode_jpeg(jpegs[record], fastdct=fast, buffer=target)

    def epoch(number: int) -> Batches:
        order = np.random.default_rng(number).permutation(len(jpegs))
        waiting: deque[tuple[Future[None], NDArray[np.uint8], NDArray[np.int64]]] = deque()
        for step, records in enumerate(order.reshape(-1, run.batch_size)):
            if len(waiting) == len(buffers):
                yield _finish(*waiting.popleft(), pictures.labels)
            buffer = buffers[step % len(buffers)]
            waiting.append((pool.submit(decode, buffer, records), buffer, records))
        while waiting:
            yield _finish(*waiting.popleft(), pictures.labels)

    return epoch


def _finish(
    future: Future[None],
    buffer: NDArray[np.uint8],
    records: NDArray[np.int64],
    labels: NDArray[np.int64],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    future.result()
    return np.broadcast_to(buffer, (len(records), *buffer.shape[1:])), labels[records]
