"""What augmentation costs: by transform, folded, and in the whole path beside tf.data.

Run `python -m benchmarks.augmentation --work DIR [--python tf.data=PYTHON]` in the repository's
root. The first table is of one thread and needs no peer; the second is of whole epochs, decoded,
augmented as the seed did, batched and normalised on torch's CPU device. Everything measured goes
to `DIR/augmentation.json`.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.loading import machine, measure, prepare, start_one, table
from benchmarks.peers.contract import AUGMENTED
from dr.compose import compose
from dr.config import TrainConfig
from dr.loading.augmentation import Augmentation
from dr.loading.transforms import build_transform, set_streams

RECORDS, ROUNDS = 24, 7
CHOICES = ("seed", "fundus")
Timed = dict[str, Callable[[int], object]]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.augmentation")
    parser.add_argument("--work", type=Path, required=True, help="folder for all data, kept")
    parser.add_argument("--images", type=Path, help="photographs (default: synthetic ones)")
    parser.add_argument("--count", type=int, default=640, help="pictures, repeated where fewer")
    parser.add_argument("--image-size", type=int, default=512, help="side in pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2, help="threads each has")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each that are measured")
    parser.add_argument("--skip-path", action="store_true", help="only the cost by transform")
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=PATH", help="a peer's Python"
    )
    return parser.parse_args()


def contenders(choice: str, picture: np.ndarray) -> Timed:
    """What is timed for a choice of `augment`, each called with a record number."""
    config = compose("train", TrainConfig, [f"augment={choice}"])
    transforms = [build_transform(one, key=choice) for one in config.augment.transforms]
    ours, out, size = Augmentation(config.augment), np.empty_like(picture), picture.shape[0]
    small = picture[:8, :8].copy()

    def one_by_one(image: np.ndarray) -> Callable[[int], object]:
        def run(record: int) -> object:
            set_streams(transforms, (0, 0, record))
            result = image
            for transform in transforms:
                result = transform(image=result)["image"]
            return result

        return run

    timed: Timed = {
        "albumentations, one by one": one_by_one(picture),
        "- of it on 8 px (all but pixels)": one_by_one(small),
    }
    for transform in transforms:
        timed[f"- of it {type(transform).__name__}, applied"] = _forced(transform, picture)
    timed["dr, one warp"] = lambda record: ours(picture, seed=0, epoch=0, record=record, out=out)
    timed["- of it drawing"] = lambda record: ours.draw(size, seed=0, epoch=0, record=record)
    return timed | _bare_warps(ours, picture)


def _forced(transform: Any, picture: np.ndarray) -> Callable[[int], object]:
    return lambda record: transform(image=picture, force_apply=True)


def _bare_warps(ours: Augmentation, picture: np.ndarray) -> Timed:
    """OpenCV alone, by the maps that `ours` draws: of three channels, and of four."""
    size, sampling = picture.shape[0], ours.samplings[0]
    assert sampling is not None
    maps = [ours.draw(size, seed=0, epoch=0, record=record)[0][:2] for record in range(RECORDS)]
    settings = {"flags": sampling.interpolation, "borderMode": sampling.border_mode}

    def bare(image: np.ndarray) -> Callable[[int], object]:
        warped = np.empty_like(image)
        return lambda record: cv2.warpAffine(
            image, maps[record], (size, size), dst=warped, borderValue=sampling.fill, **settings
        )

    wide = cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA)
    return {"cv2.warpAffine alone": bare(picture), "- of 4 channels": bare(wide)}


def costs(timed: Timed) -> dict[str, float]:
    """Microseconds a picture: the best of the rounds for each record, then the mean.

    All take their turn at each record; each runs twice and the second time counts, so that every
    one finds the picture in the cache, as it lies there after decoding.
    """
    best = {name: [float("inf")] * RECORDS for name in timed}
    for _ in range(ROUNDS):
        for record in range(RECORDS):
            for name, run in timed.items():
                run(record)
                start = time.perf_counter()
                run(record)
                taken = time.perf_counter() - start
                best[name][record] = min(best[name][record], taken)
    return {name: 1e6 * statistics.mean(values) for name, values in best.items()}


def cost_table(measured: dict[str, dict[str, float]]) -> str:
    rows = ["| augment | what | µs a picture | of albumentations |", "|---|---|---|---|"]
    for choice, values in measured.items():
        whole = values["albumentations, one by one"]
        for name, value in values.items():
            rows.append(f"| {choice} | {name} | {value:.0f} | {value / whole:.2f} |")
    return "\n".join(rows)


def path_table(arguments: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Whole epochs of every contender that can run, interleaved."""
    prepare(arguments)
    processes = []
    for contender in AUGMENTED:
        process = start_one(contender, arguments)
        processes += [] if process is None else [process]
    try:
        measured = measure(processes, rounds=arguments.rounds, count=arguments.count)
    finally:
        for process in processes:
            process.end()
    return table(measured, processes), measured


def main() -> None:
    arguments = parse_arguments()
    arguments.work.mkdir(parents=True, exist_ok=True)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    cv2.setNumThreads(1)
    side = arguments.image_size
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    report: dict[str, Any] = {"machine": machine(), "image_size": side}
    report["costs"] = {choice: costs(contenders(choice, picture)) for choice in CHOICES}
    print(f"{side} px, one thread\n\n{cost_table(report['costs'])}\n", flush=True)
    if not arguments.skip_path:
        text, report["epochs"] = path_table(arguments)
        print(f"{arguments.count} pictures, {arguments.threads} threads\n\n{text}")
    (arguments.work / "augmentation.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
