"""What a million records cost to open, folds of a large table, and epochs of growing size.

Run `python -m benchmarks.scale --work DIR` in the repository's root; `--help` has the rest. A table
goes to stdout, everything measured to `DIR/scale.json`.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from dr.config import PreparationConfig
from dr.digests import digest_of_file
from dr.shards.index import index_path
from dr.shards.manifest import RECORDS, Manifest, ShardFile, write_manifest
from dr.shards.records import Record, encode_example, masked_crc, write_frame

HEADER = "row,name,patient,side,label,brightness,sharpness,field_share,flags\n"


def write_index_folder(folder: Path, *, shards: int, records: int) -> Path:
    """A prepared folder of `shards` with `records` each, whose shards are holes on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    lengths = np.random.default_rng(0).integers(80_000, 140_000, (shards, records))
    files = []
    for number, row in enumerate(lengths):
        path = folder / f"train{number:02d}-{records}.tfrec"
        ends = np.cumsum(row)
        with path.open("wb") as file:
            file.truncate(int(ends[-1]))
        lines = zip((ends - row).tolist(), row.tolist(), strict=True)
        index_path(path).write_text("".join(f"{start} {length}\n" for start, length in lines))
        files.append(ShardFile(file=path.name, records=records, sha256="0" * 64))
    labels = _write_table(folder / RECORDS, shards * records)
    _write_manifest(folder, files, labels)
    return folder


def _write_table(path: Path, rows: int) -> list[int]:
    random = np.random.default_rng(1)
    labels = random.integers(0, 5, rows)
    measured = random.uniform(0, 255, rows)
    with path.open("w") as file:
        file.write(HEADER)
        for row, (label, value) in enumerate(zip(labels.tolist(), measured.tolist(), strict=True)):
            patient, side = 10 + row // 2, row % 2
            name = f"{patient}_{('left', 'right')[side]}"
            quality = f"{value:.2f},{value * 4:.2f},{value / 255:.4f}"
            file.write(f"{row},{name},{patient},{side},{label},{quality},\n")
    return [int(count) for count in np.bincount(labels, minlength=5)]


def _write_manifest(folder: Path, files: list[ShardFile], labels: list[int]) -> None:
    manifest = Manifest(
        kind="table",
        source="0",
        recipe="0",
        preparation=PreparationConfig(),
        image_size=512,
        records=sum(labels),
        rejected=0,
        label_counts=labels,
        flagged={},
        shards=files,
        records_sha256=digest_of_file(folder / RECORDS),
        digest="0",
    )
    write_manifest(folder, manifest)


OPENING = """
import json, sys, time
from pathlib import Path
def megabytes(key):
    status = Path("/proc/self/status").read_text()
    return int(status.split(key + ":")[1].split()[0]) / 1024
bare = megabytes("VmRSS"), time.perf_counter()
import pandas
from dr.shards.opening import open_shards
ready = megabytes("VmRSS"), time.perf_counter()
shards = open_shards(Path(sys.argv[1]))
seconds = time.perf_counter() - ready[1]
print(json.dumps({
    "records": len(shards),
    "seconds": seconds,
    "megabytes": megabytes("VmRSS") - ready[0],
    "peak_megabytes": megabytes("VmHWM") - ready[0],
    "import_seconds": ready[1] - bare[1],
    "import_megabytes": ready[0] - bare[0],
    "last": [shards.table["name"].iloc[-1], int(shards.offset[-1]), int(shards.length[-1])],
}))
"""


def measure_opening(folder: Path) -> dict[str, Any]:
    """Seconds and growth of resident memory of opening `folder`, in a process of its own."""
    command = [sys.executable, "-c", OPENING, str(folder)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def measure_folds(labels: Path) -> dict[str, Any]:
    """Seconds of five folds of a label table, `image,level` with EyePACS' names."""
    import pandas as pd

    from dr.loading.folds import assign_folds

    table = pd.read_csv(labels, dtype={"image": str})
    patients = table["image"].str.partition("_")[0].tolist()
    started = time.perf_counter()
    folds = assign_folds(labels=table["level"], patients=patients, folds=5, seed=0)
    seconds = time.perf_counter() - started
    return {"rows": len(folds), "seconds": seconds}


def pictures(count: int) -> list[bytes]:
    """JPEGs of 512 px, quality 94, with about as many bytes as prepared photographs have."""
    import cv2
    import simplejpeg

    random = np.random.default_rng(0)
    drawn = []
    for _ in range(count):
        noise = random.normal(128, 26, (512, 512, 3))
        image = np.clip(cv2.GaussianBlur(noise, (0, 0), 0.8) * 2 - 128, 0, 255).astype(np.uint8)
        drawn.append(simplejpeg.encode_jpeg(image, quality=94, colorsubsampling="420"))
    return drawn


def write_pictures_folder(folder: Path, records: int, drawn: list[bytes]) -> Path:
    """Shards of `records` pictures without manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"train00-{records}.tfrec").open("wb") as file:
        for number in range(records):
            image = drawn[number % len(drawn)]
            record = Record(image, number // 2, number % 2, number % 5)
            write_frame(file, encode_example(record))
    return folder


def measure_epochs(work: Path, *, records: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a record of reading and decoding all of them, shuffled, at 1, 2 and 4 times."""
    import simplejpeg

    from dr.shards.opening import open_shards

    drawn = pictures(32)
    sets = {
        times: open_shards(write_pictures_folder(work / f"{times}x", times * records, drawn))
        for times in (1, 2, 4)
    }
    seconds: dict[int, list[float]] = {times: [] for times in sets}
    for number in range(rounds):
        for times, shards in sets.items():
            order = np.random.default_rng(number).permutation(len(shards)).tolist()
            started = time.perf_counter()
            for record in order:
                simplejpeg.decode_jpeg(shards.read(record).image)
            seconds[times].append(time.perf_counter() - started)
    return {
        "records": {times: len(shards) for times, shards in sets.items()},
        "seconds": {times: min(values) for times, values in seconds.items()},
    }


def measure_crc(rounds: int) -> dict[str, Any]:
    """Seconds of checking a record's CRC, and of decoding its picture, medians over records."""
    import simplejpeg

    drawn = pictures(32)

    def timed(work: Callable[[bytes], object], data: bytes) -> float:
        started = time.perf_counter()
        work(data)
        return time.perf_counter() - started

    crc = [timed(masked_crc, image) for _ in range(rounds) for image in drawn]
    decode = [timed(simplejpeg.decode_jpeg, image) for _ in range(rounds) for image in drawn]
    size = sum(map(len, drawn)) / len(drawn)
    return {"bytes": size, "crc_seconds": median(crc), "decode_seconds": median(decode)}


def show(measured: dict[str, Any]) -> str:
    """The table of what was measured."""
    opening, epochs, crc = measured["opening"], measured["epochs"], measured["crc"]
    lines = [
        f"opening {opening['records']:,} records: {opening['seconds']:.2f} s, "
        f"{opening['megabytes']:.0f} MB (peak {opening['peak_megabytes']:.0f} MB), after imports "
        f"of {opening['import_seconds']:.2f} s and {opening['import_megabytes']:.0f} MB"
    ]
    if "folds" in measured:
        folds = measured["folds"]
        lines.append(f"5 folds of {folds['rows']:,} rows: {folds['seconds']:.2f} s")
    for times, seconds in epochs["seconds"].items():
        records = epochs["records"][times]
        ratio = seconds / epochs["seconds"][1]
        lines.append(f"epoch of {records:,} records: {seconds:.2f} s, {ratio:.2f} of the first")
    share = crc["crc_seconds"] / crc["decode_seconds"]
    lines.append(f"CRC of {crc['bytes'] / 1024:.0f} KiB: {share:.2%} of decoding it")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="a folder for what is made")
    parser.add_argument("--labels", type=Path, help="a label table: image,level, EyePACS' names")
    parser.add_argument("--shards", type=int, default=500, help="of 2,000 records each")
    parser.add_argument("--records", type=int, default=400, help="of the smallest epoch")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    folder = write_index_folder(chosen.work / "index", shards=chosen.shards, records=2000)
    measured: dict[str, Any] = {"opening": measure_opening(folder)}
    if chosen.labels is not None:
        measured["folds"] = measure_folds(chosen.labels)
    measured["epochs"] = measure_epochs(chosen.work, records=chosen.records, rounds=chosen.rounds)
    measured["crc"] = measure_crc(chosen.rounds)
    (chosen.work / "scale.json").write_text(json.dumps(measured, indent=2) + "\n")
    print(show(measured))


if __name__ == "__main__":
    main()
