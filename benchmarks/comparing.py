"""How long the comparison of many runs takes.

    python -m benchmarks.comparing [--runs 1000] [--patients 1200]

Writes simulated run folders of 5 folds (`benchmarks.simulation`, two seeds of each setting) to a
temporary folder, then starts `python -m dr.compare` on them as a person would, and tells its
seconds beside those of a bare `python -c 'import numpy, scipy.stats'`.
"""

import argparse
import csv
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from benchmarks.simulation import Population, simulate
from dr.compose import compose
from dr.config import TrainConfig
from dr.scoring.kappa import quadratic_weighted_kappa

FOLDS = 5


def write_runs(outputs: Path, *, runs: int, patients: int) -> None:
    """Run folders as dr.train leaves them, without weights and predictions."""
    import dataclasses

    generator = np.random.default_rng(0)
    labels, grades, owners = simulate(
        Population(), patients=patients, seeds=(runs + 1) // 2, generator=generator
    )
    folds = owners % FOLDS
    table = _folds_csv(labels, owners, folds)
    config = dataclasses.asdict(compose("train", TrainConfig, ["shards=shards"]))
    for number, own in enumerate(grades[:runs]):
        folder = outputs / f"simulated_{number:04d}"
        folder.mkdir(parents=True)
        config["seed"] = number % 2
        config["schedule"]["max_lr"] = round(round(1e-4 * (1 + number // 2), 6), 6)
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        (folder / "folds.csv").write_text(table)
        np.save(folder / "out_of_fold.npy", own.astype(np.uint8))
        (folder / "result.json").write_text(json.dumps(_result(labels, own, folds)))


def _folds_csv(labels: np.ndarray, owners: np.ndarray, folds: np.ndarray) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["name", "patient", "label", "fold"])
    sides = ("left", "right")
    for place, (owner, label, fold) in enumerate(zip(owners, labels, folds, strict=True)):
        writer.writerow([f"{owner}_{sides[place % 2]}", owner, label, fold])
    return stream.getvalue()


def _result(labels: np.ndarray, own: np.ndarray, folds: np.ndarray) -> dict:
    def scores(members: np.ndarray) -> dict:
        return {"qwk": quadratic_weighted_kappa(labels[members], own[members])}

    each = {str(fold): scores(folds == fold) for fold in range(FOLDS)}
    values = [one["qwk"] for one in each.values()]
    return {
        "schema_version": 1,
        "complete": True,
        "optimistic": False,
        "data": {"name": "simulated", "digest": "sha256:0"},
        "planned_folds": list(range(FOLDS)),
        "folds": each,
        "mean": {"qwk": float(np.mean(values))},
        "sd": {"qwk": float(np.std(values, ddof=1))},
        "pooled": scores(folds >= 0),
    }


def seconds(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--patients", type=int, default=1200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_runs(Path(folder), runs=arguments.runs, patients=arguments.patients)
        bare = min(seconds("-c", "import numpy, scipy.stats") for _ in range(2))
        for form in ("table", "json"):
            found = min(
                seconds("-m", "dr.compare", f"outputs={folder}", f"format={form}") for _ in range(2)
            )
            print(f"{form}: {found:.1f} s ({found / bare:.1f} times the bare imports)")


if __name__ == "__main__":
    main()
