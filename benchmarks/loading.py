"""Shuffled uint8 batches a second: this project, whole loaders of others, libjpeg-turbo itself.

Run `python -m benchmarks.loading --work DIR` in the repository's root; `--help` has the rest. A
table goes to stdout, everything measured to `DIR/loading.json`.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contract import CONTENDERS, Contender
from benchmarks.peers.pictures import Pictures, decoded_signatures

DRAWN = 96
"""Patients whose synthetic photographs are drawn where none are given."""


class Process:
    """A contender's process: it lives through all rounds and idles in those of others."""

    def __init__(self, contender: Contender, python: str, settings: dict[str, Any]) -> None:
        self.contender = contender
        self.versions: dict[str, str] = {}
        command = [python, "-m", "benchmarks.peers.worker", contender.name, json.dumps(settings)]
        root = Path(__file__).parents[1]
        self._log = Path(settings["folder"]) / f"{contender.name}.log"
        self._process = subprocess.Popen(
            command,
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("w"),
            text=True,
        )

    def begin(self, *commands: str) -> str | None:
        """Import and do these commands; why one failed, else None."""
        answer = self._hear()
        for command in commands:
            if _reason(answer):
                break
            answer = self.tell(command)
            self.versions.update(answer.get("versions", {}))
        return _reason(answer)

    def tell(self, command: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(json.dumps({"do": command, **arguments}), file=self._process.stdin, flush=True)
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            return {"error": f"its process ended; see {self._log}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Let it end by itself, or make it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _reason(answer: dict[str, Any]) -> str | None:
    return answer.get("missing") or answer.get("error")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.loading")
    parser.add_argument("--work", type=Path, required=True, help="folder for all data, kept")
    parser.add_argument("--images", type=Path, help="photographs (default: synthetic ones)")
    parser.add_argument("--count", type=int, default=1920, help="pictures, repeated where fewer")
    parser.add_argument("--image-size", type=int, default=512, help="side in pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2, help="threads or processes each has")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each that are measured")
    parser.add_argument("--only", default="", help="names or their beginnings, with commas between")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="the Python of contenders whose name begins so; may be repeated",
    )
    arguments = parser.parse_args()
    if arguments.count % arguments.batch_size:
        parser.error(f"--count {arguments.count}: take a multiple of --batch-size")
    return arguments


def prepare(arguments: argparse.Namespace) -> None:
    """Shards, the pictures they hold as files, and what each picture looks like: made once."""
    work, asked = arguments.work, work_settings(arguments)
    note = work / "data.json"
    if note.is_file():
        if json.loads(note.read_text()) != asked:
            raise SystemExit(f"--work {work}: holds data of other settings; name another folder")
        return
    work.mkdir(parents=True, exist_ok=True)
    for name in ("photographs", "dr", "pictures"):
        shutil.rmtree(work / name, ignore_errors=True)
    lay_out_photographs(arguments)
    pack_photographs(work, arguments.image_size)
    unpack_pictures(work)
    pictures = Pictures(work / "pictures")
    np.save(work / "signatures.npy", decoded_signatures(pictures, fast=False))
    np.save(work / "signatures_fast.npy", decoded_signatures(pictures, fast=True))
    note.write_text(json.dumps(asked))


def work_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    images = str(arguments.images.resolve()) if arguments.images else "synthetic"
    return {"images": images, "count": arguments.count, "image_size": arguments.image_size}


def lay_out_photographs(arguments: argparse.Namespace) -> None:
    """A source of `count` rows, with labels 0 to 4 in turn, by links to the photographs."""
    folder = arguments.images or draw(arguments.work)
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpeg", ".jpg"))
    if not found:
        raise SystemExit(f"--images {folder}: holds no .jpeg")
    links = arguments.work / "photographs"
    links.mkdir()
    rows = ["image,level"]
    for number in range(arguments.count):
        name = f"{number + 1}_left"
        (links / f"{name}.jpeg").symlink_to(found[number % len(found)].resolve())
        rows.append(f"{name},{number % 5}")
    (arguments.work / "labels.csv").write_text("\n".join(rows) + "\n")


def draw(work: Path) -> Path:
    from dr.config import SyntheticData
    from dr.fundus.synthetic.dataset import draw_photographs

    plain = SyntheticData()
    folder = draw_photographs(
        work / "synthetic",
        patients=DRAWN,
        seed=plain.seed,
        grade_shares=plain.grade_shares,
        label_noise=plain.label_noise,
    )
    return folder / "train"


def pack_photographs(work: Path, image_size: int) -> None:
    source = ["data=eyepacs", f"data.images={work}/photographs", f"data.labels={work}/labels.csv"]
    made = [f"shards={work}/dr", f"image_size={image_size}"]
    command = [sys.executable, "-m", "dr.prepare", *source, *made]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True, stdout=sys.stderr)


def unpack_pictures(work: Path) -> None:
    """The JPEGs of the shards as a tree of class folders."""
    from dr.shards.opening import open_shards

    shards = open_shards(work / "dr")
    for number in range(len(shards)):
        record = shards.read(number)
        path = work / "pictures" / str(record.label) / f"{number:06d}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record.image)


def start(arguments: argparse.Namespace) -> list[Process]:
    """A checked process for each contender that is asked for and can run."""
    chosen = tuple(part for part in arguments.only.split(",") if part) or ("",)
    running = []
    for contender in CONTENDERS:
        if contender.name.startswith(chosen):
            process = start_one(contender, arguments)
            running += [] if process is None else [process]
    return running


def start_one(contender: Contender, arguments: argparse.Namespace) -> Process | None:
    """Its data is written by a process of its own: what that loads may not suit the reader."""
    pythons = dict(entry.split("=", 1) for entry in arguments.python)
    own = [path for name, path in pythons.items() if contender.name.startswith(name)]
    settings = {
        "folder": str(arguments.work.resolve()),
        "batch_size": arguments.batch_size,
        "image_size": arguments.image_size,
        "threads": arguments.threads,
    }
    python = own[0] if own else sys.executable
    if contender.data is not None and not (arguments.work / contender.data).exists():
        writer = begun(Process(contender, python, settings), "write")
        if writer is None:
            return None
        writer.end()
    return begun(Process(contender, python, settings), "open", "check")


def begun(process: Process, *commands: str) -> Process | None:
    """The process after these commands, or None where one failed, which is said."""
    reason = process.begin(*commands)
    if reason is None:
        return process
    process.end()
    print(f"left out: {process.contender.name}: {reason}", file=sys.stderr)
    return None


def measure(processes: list[Process], *, rounds: int, count: int) -> list[dict[str, Any]]:
    """Every contender's epoch in turn, round after round, each time from another beginning."""
    measured = []
    for number in range(1, rounds + 1):
        first = number % len(processes)
        for process in processes[first:] + processes[:first]:
            time.sleep(0.2)
            answer = process.tell("epoch", number=number)
            if answer.get("count") != count:
                raise SystemExit(f"{process.contender.name}: {answer}")
            entry = {"name": process.contender.name, "round": number, **answer}
            measured.append({**entry, "load": os.getloadavg()[0]})
    return measured


def table(measured: list[dict[str, Any]], processes: list[Process]) -> str:
    """A row a contender: rates, processor time, and both by those of the first.

    A median by the first is that of the rounds' ratios, not the ratio of two medians.
    """
    own = {p.contender.name: figures_of(p.contender.name, measured) for p in processes}
    first = next(iter(own))
    titles = f"best images/s | median | best by {first} | median by {first}"
    rows = [
        f"| loader | {titles} | processor ms/image | by {first} | works in |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for process in processes:
        cells = row(*own[process.contender.name], *own[first])
        rows.append(f"| {process.contender.name} | {cells} | {process.contender.cores} |")
    return "\n".join(rows)


def figures_of(name: str, measured: list[dict[str, Any]]) -> tuple[list[float], float]:
    """Pictures a second of each round, and the median processor milliseconds a picture."""
    own = [entry for entry in measured if entry["name"] == name]
    used = [1000 * entry["processor_seconds"] / entry["count"] for entry in own]
    return [entry["count"] / entry["seconds"] for entry in own], statistics.median(used)


def row(rates: list[float], used: float, first_rates: list[float], first_used: float) -> str:
    """The cells of a contender, beside the figures of the first."""
    rounds = [rate / first for rate, first in zip(rates, first_rates, strict=True)]
    return (
        f"{max(rates):.0f} | {statistics.median(rates):.0f} "
        f"| {max(rates) / max(first_rates):.3f} | {statistics.median(rounds):.3f} "
        f"| {used:.3f} | {first_used / used:.3f}"
    )


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line for line in info.splitlines() if line.startswith("model name")), "")
    return {
        "processor": model.partition(": ")[2],
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "system": platform.platform(),
        "load_average": os.getloadavg(),
    }


def main() -> None:
    arguments = parse_arguments()
    prepare(arguments)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    processes = start(arguments)
    if not processes:
        raise SystemExit("no contender can run")
    before = os.getloadavg()[0]
    try:
        measured = measure(processes, rounds=arguments.rounds, count=arguments.count)
    finally:
        for process in processes:
            process.end()
    versions = {key: value for process in processes for key, value in process.versions.items()}
    report = {"machine": machine(), "versions": versions, "epochs": measured}
    (arguments.work / "loading.json").write_text(json.dumps(report, indent=1) + "\n")
    print(table(measured, processes))
    print(
        f"\n{arguments.count} pictures of {arguments.image_size} px, {kibibytes(arguments):.0f} KiB"
    )
    print(f"load average {before:.1f} before, {os.getloadavg()[0]:.1f} after")


def kibibytes(arguments: argparse.Namespace) -> float:
    """The mean size of a JPEG."""
    paths = Pictures(arguments.work / "pictures").paths
    return statistics.mean(path.stat().st_size for path in paths) / 1024


if __name__ == "__main__":
    main()
