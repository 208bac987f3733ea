"""How near the loader comes to libjpeg-turbo's own rate, and what size and cache change.

    python -m benchmarks.loader --shards DIR     shards of 512 px that dr.prepare made
    python -m benchmarks.loader                  draws 128 synthetic photographs first

Every way takes its turn in each round, over the same records; ratios are medians over rounds.
`wall` compares pictures a second, `cpu` processor seconds a picture of this process: on a busy
machine the second is the steadier one.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from dr.config import LoaderConfig, PreparationConfig, SyntheticData
from dr.loading.batches import BatchLoader
from dr.loading.decoded_cache import CachePlan, DecodedCache, open_decoded_cache
from dr.loading.decoding import JpegPictures, Pixels
from dr.loading.resources import resources_here
from dr.shards.labels import read_label_source
from dr.shards.opening import open_shards
from dr.shards.packing import Packing, pack
from dr.shards.records import masked_crc
from dr.shards.shard_set import ShardSet

BATCH = 32
Run = Callable[[NDArray[np.int64]], None]


@dataclass(frozen=True)
class Figures:
    """Of one way in one round: seconds by the clock, and of processor time, a picture."""

    wall: float
    cpu: float


def synthetic_shards(folder: Path) -> Path:
    data = SyntheticData(folder=str(folder / "photographs"), patients=64)
    source = read_label_source(data, cache=folder)
    packing = Packing(
        source=source,
        preparation=PreparationConfig(),
        image_size=512,
        folder=folder / "shards",
        workers=resources_here().cores,
    )
    pack(packing)
    return folder / "shards"


def bare_decoding(shards: ShardSet, threads: int) -> Run:
    """libjpeg-turbo alone: bytes in memory, buffers that exist, nothing else."""
    jpegs = [bytes(shards.read(record).image) for record in range(len(shards))]
    side = shards.image_size
    rings = np.zeros((threads, BATCH, side, side, 3), np.uint8)

    def decode(own: list[int], ring: Pixels) -> None:
        for place, record in enumerate(own):
            simplejpeg.decode_jpeg(jpegs[record], colorspace="RGB", buffer=ring[place % BATCH])

    def run(records: NDArray[np.int64]) -> None:
        own = [records[thread::threads].tolist() for thread in range(threads)]
        workers = [
            threading.Thread(target=decode, args=pair) for pair in zip(own, rings, strict=True)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return run


def loading(loader: BatchLoader) -> Run:
    def run(records: NDArray[np.int64]) -> None:
        count = sum(
            len(batch.records)
            for batch in loader.batches(list(np.split(records, len(records) // BATCH)))
        )
        assert count == len(records)

    return run


def full_decode(shards: ShardSet) -> Callable[[int, Pixels], Pixels]:
    def picture(record: int, out: Pixels) -> Pixels:
        whole = simplejpeg.decode_jpeg(shards.read_image(record), colorspace="RGB")
        size = (out.shape[1], out.shape[0])
        cv2.resize(whole, size, dst=out, interpolation=cv2.INTER_AREA)
        return out

    return picture


def cached(shards: ShardSet, size: int, folder: Path, threads: int) -> DecodedCache:
    picture = JpegPictures(shards.read_image, shards.spell)
    plan = CachePlan(digest=shards.digest, records=len(shards), size=size, picture=picture)
    return open_decoded_cache(folder, plan, threads=threads)


def ways(shards: ShardSet, folder: Path, threads: int, stack: ExitStack) -> dict[str, Run]:
    """What is compared, by name; the first is what the others are measured by."""
    full, half = shards.image_size, shards.image_size // 2
    config = LoaderConfig(threads=threads)
    decoded = JpegPictures(shards.read_image, shards.spell)
    pictures = {
        f"loader, {full} px": (full, decoded),
        f"full decode and area resize, {half} px": (half, full_decode(shards)),
        f"loader, {half} px": (half, decoded),
        f"decoded cache, {full} px": (full, cached(shards, full, folder, threads)),
        f"decoded cache, {half} px": (half, cached(shards, half, folder, threads)),
    }
    runs = {f"libjpeg-turbo alone, {full} px": bare_decoding(shards, threads)}
    for name, (size, source) in pictures.items():
        loader = BatchLoader(image_size=size, config=config, pictures=source)
        runs[name] = loading(stack.enter_context(loader))
    return runs


def timed(run: Run, records: NDArray[np.int64]) -> Figures:
    wall, cpu = time.perf_counter(), time.process_time()
    run(records)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Figures(wall / len(records), cpu / len(records))


def rounds(runs: dict[str, Run], records: int, *, pictures: int, count: int) -> list[list[Figures]]:
    random = np.random.default_rng(0)
    order = np.concatenate([random.permutation(records) for _ in range(pictures // records + 1)])
    for run in runs.values():
        run(order[:pictures])
    measured = []
    for _ in range(count):
        random.shuffle(order)
        measured.append([timed(run, order[:pictures]) for run in runs.values()])
    return measured


def crc_share(shards: ShardSet) -> float:
    """The checksums' part of the processor time of decoding."""
    jpegs = [bytes(shards.read(record).image) for record in range(min(200, len(shards)))]
    out = np.empty((shards.image_size, shards.image_size, 3), np.uint8)

    def seconds(work: Callable[[bytes], object]) -> float:
        started = time.thread_time()
        for jpeg in jpegs:
            work(jpeg)
        return time.thread_time() - started

    checks = min(seconds(masked_crc) for _ in range(5))
    decodes = min(
        seconds(lambda jpeg: simplejpeg.decode_jpeg(jpeg, colorspace="RGB", buffer=out))
        for _ in range(5)
    )
    return checks / decodes


def report(names: list[str], measured: list[list[Figures]], by: int = 0) -> None:
    wall = np.array([[figures.wall for figures in row] for row in measured])
    cpu = np.array([[figures.cpu for figures in row] for row in measured])
    print(f"{'':42s} images/s (best)   wall   cpu   by {names[by]}")
    for place, name in enumerate(names):
        ratios = [np.median(all_[:, by] / all_[:, place]) for all_ in (wall, cpu)]
        print(f"{name:42s} {1 / wall[:, place].min():15.0f} {ratios[0]:6.3f} {ratios[1]:5.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shards", type=Path, help="a folder of shards")
    parser.add_argument("--images", type=int, default=480, help="pictures a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=resources_here().cores)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        shards = open_shards(arguments.shards or synthetic_shards(Path(folder)))
        runs = ways(shards, Path(folder), arguments.threads, stack)
        pictures = arguments.images // BATCH * BATCH
        measured = rounds(runs, len(shards), pictures=pictures, count=arguments.rounds)
        mean = shards.length.mean() / 1024
        print(
            f"{len(shards)} JPEGs of {shards.image_size} px, {mean:.0f} KiB, batches of {BATCH}, "
            f"{arguments.threads} threads, {arguments.rounds} rounds of {pictures}"
        )
        report(list(runs), measured)
        report(list(runs), measured, by=2)
        print(f"CRC of every record: {crc_share(shards):.2%} of decoding")


if __name__ == "__main__":
    main()
