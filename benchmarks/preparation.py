"""Photographs a second from files to prepared JPEGs: this project beside the seed's own code.

    python benchmarks/preparation.py --images DIR     a folder of photographs

Every way takes its turn in each round, over the same files, and writes what it makes; the best
round counts. Then follow where the default's processor time goes, how near the scaled decode
comes to the full one, and how far the decoded size and JPEG's losses move the crop box.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np

from dr.config import PreparationConfig
from dr.fundus import preparation
from dr.fundus.crop import Field, find_field
from dr.fundus.decode import JPEG_DIVISORS, Pixels, decode_photograph, read_header
from dr.fundus.preparation import MIN_FIELD_SIDE, prepare_image, prepare_photograph

DEFAULT = PreparationConfig()
SEED = PreparationConfig(
    decode="full", crop="gray", fit="stretch", filter_relative=False, jpeg_chroma="420"
)
STAGES = {
    "decode": ("read_header", "decode_photograph"),
    "find field": ("find_field", "gray_box", "is_round"),
    "crop, fit": ("fit_square", "field_mask", "field_circle", "field_box"),
    "quality": ("measure_quality",),
    "signature": ("sign_photograph",),
    "filter": ("unsharp", "unsharp_inside"),
    "encode": ("encode_jpeg",),
}
QUALITIES = (50, 75, 95)
"""JPEG qualities that a photograph is written again at, to see its crop box stay."""


def seed_crop(image: Pixels) -> Pixels:
    """The crop that the seed took from Kaggle's kernels, as written there."""
    mask = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) > 7
    if not image[:, :, 0][np.ix_(mask.any(1), mask.any(0))].shape[0]:
        return image
    channels = [image[:, :, k][np.ix_(mask.any(1), mask.any(0))] for k in range(3)]
    return np.stack(channels, axis=-1)


def sliced_crop(image: Pixels) -> Pixels:
    """The same box, found and cut as fast as NumPy can."""
    mask = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) > 7
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return image
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def seed_photograph(
    source: Path, target: Path, size: int, crop: Callable[[Pixels], Pixels] = seed_crop
) -> None:
    image = crop(cv2.cvtColor(cv2.imread(str(source)), cv2.COLOR_BGR2RGB))
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    image = cv2.addWeighted(image, 4, cv2.GaussianBlur(image, (0, 0), 10), -4, 128)
    image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(target), image, [cv2.IMWRITE_JPEG_QUALITY, 94])


def our_photograph(source: Path, target: Path, size: int, settings: PreparationConfig) -> None:
    data = source.read_bytes()
    target.write_bytes(prepare_photograph(data, settings=settings, image_size=size).jpeg)


def in_threads(work: Callable[[Path, Path], None], threads: int) -> Callable[..., None]:
    """Files shared out among threads, each with an OpenCV of its own thread only."""

    def run(files: Sequence[Path], folder: Path) -> None:
        cv2.setNumThreads(1)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda file: work(file, folder / f"{file.stem}.jpg"), files))

    return run


def in_opencvs_threads(work: Callable[[Path, Path], None], threads: int) -> Callable[..., None]:
    """One file after the other, OpenCV at liberty to use its threads."""

    def run(files: Sequence[Path], folder: Path) -> None:
        cv2.setNumThreads(threads)
        for file in files:
            work(file, folder / f"{file.stem}.jpg")

    return run


def ways(size: int, threads: int) -> dict[str, Callable[..., None]]:
    def seed(source: Path, target: Path) -> None:
        seed_photograph(source, target, size)

    def sliced(source: Path, target: Path) -> None:
        seed_photograph(source, target, size, sliced_crop)

    def ours(settings: PreparationConfig) -> Callable[[Path, Path], None]:
        return lambda source, target: our_photograph(source, target, size, settings)

    return {
        "the seed's code, OpenCV's threads": in_opencvs_threads(seed, threads),
        "the seed's code, a file a thread": in_threads(seed, threads),
        "with a faster crop, OpenCV's threads": in_opencvs_threads(sliced, threads),
        "with a faster crop, a file a thread": in_threads(sliced, threads),
        "preparation=seed": in_threads(ours(SEED), threads),
        "preparation=fundus": in_threads(ours(DEFAULT), threads),
    }


def speeds(files: Sequence[Path], size: int, threads: int, rounds: int) -> None:
    wall: dict[str, list[float]] = defaultdict(list)
    processor: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, run in ways(size, threads).items():
                start, busy = time.perf_counter(), time.process_time()
                run(files, Path(folder))
                wall[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - busy)
    *peers, ours = wall
    print(f"{'':38s}photographs/s  ms of processor  fundus is faster by: wall, processor")
    for name in (*peers, ours):
        rate, spent = len(files) / min(wall[name]), 1e3 * min(processor[name]) / len(files)
        by = min(wall[name]) / min(wall[ours])
        by_processor = min(processor[name]) / min(processor[ours])
        print(f"{name:38s}{rate:13.1f}{spent:17.1f}{by:14.2f}x{by_processor:14.2f}x")


@contextmanager
def timed(spent: dict[str, float]) -> Iterator[None]:
    """Adds the processor time of each stage of `dr.fundus.preparation` to `spent`."""

    def watch(stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                spent[stage] += time.thread_time() - start

        return watched

    names = [(stage, name) for stage, named in STAGES.items() for name in named]
    calls = {n: watch(s, getattr(preparation, n)) for s, n in names if hasattr(preparation, n)}
    with mock.patch.multiple(preparation, **calls):
        yield


def stages(files: Sequence[Path], size: int, rounds: int) -> None:
    cv2.setNumThreads(1)
    found: list[dict[str, float]] = []
    for _ in range(rounds):
        spent: dict[str, float] = defaultdict(float)
        start = time.thread_time()
        with timed(spent):
            for file in files:
                before = time.thread_time()
                data = file.read_bytes()
                spent["read file"] += time.thread_time() - before
                preparation.prepare_photograph(data, settings=DEFAULT, image_size=size)
        total = time.thread_time() - start
        found.append({**spent, "rest": total - sum(spent.values()), "all": total})
    best = min(found, key=lambda spent: spent["all"])
    print("\npreparation=fundus by stage, one thread: ms of processor a photograph, share")
    for stage in ("read file", *STAGES, "rest", "all"):
        if stage in best:
            share = best[stage] / best["all"]
            print(f"  {stage:12s}{1e3 * best[stage] / len(files):8.2f}{share:8.1%}")


def psnr(one: Pixels, other: Pixels) -> float:
    error = np.square(one.astype(np.float64) - other).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def box_change(one: Field, other: Field) -> float:
    return float(np.abs(np.subtract(one.box, other.box)).max())


def lossy(image: Pixels, quality: int) -> Pixels:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    jpeg = cv2.imencode(".jpg", image, options)[1]
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)


def box_changes(data: bytes) -> dict[str, float]:
    """How far the box moves from that of the whole photograph, in shares of the sides."""
    header = read_header(data)
    full = decode_photograph(data, header)
    expected = find_field(full)
    longer = max(header.height, header.width)
    changes = {
        f"1/{by}": box_change(find_field(decode_photograph(data, header, divisor=by)), expected)
        for by in JPEG_DIVISORS
        if by > 1 and header.turbo and longer >= by * MIN_FIELD_SIDE
    }
    for quality in QUALITIES:
        changes[f"quality {quality}"] = box_change(find_field(lossy(full, quality)), expected)
    return changes


def fidelity(files: Sequence[Path], size: int) -> None:
    plain = replace(DEFAULT, filter="none")
    ratios, changes = [], defaultdict(list)
    for file in files:
        data = file.read_bytes()
        scaled = prepare_image(data, plain, size)
        ratios.append(psnr(scaled, prepare_image(data, replace(plain, decode="full"), size)))
        for what, change in box_changes(data).items():
            changes[what].append(change)
    print("\nscaled decode against full, before the filter: PSNR in dB")
    print(f"  median {statistics.median(ratios):.1f}, least {min(ratios):.1f}")
    print("change of the crop box against full resolution, % of the side: median, most")
    for what, values in changes.items():
        print(f"  {what:12s}{100 * statistics.median(values):6.2f}{100 * max(values):6.2f}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--limit", type=int, help="take this many photographs only")
    parser.add_argument("--size", type=int, default=512, help="pixels a side (512)")
    parser.add_argument("--threads", type=int, default=2, help="for every way (2)")
    parser.add_argument("--rounds", type=int, default=3, help="each way's best counts (3)")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    kinds = (".jpeg", ".jpg", ".png", ".tif", ".tiff")
    files = sorted(file for file in given.images.iterdir() if file.suffix.lower() in kinds)
    files = files[: given.limit]
    if not files:
        raise SystemExit(f"{given.images}: holds no photographs")
    print(
        f"{len(files)} photographs to {given.size} px, {given.threads} threads for every way, "
        f"best of {given.rounds} rounds"
    )
    speeds(files, given.size, given.threads, given.rounds)
    stages(files, given.size, given.rounds)
    fidelity(files, given.size)


if __name__ == "__main__":
    main()
