"""Jobs that each train one fold share a run's folder, whatever starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dr.training.history import TIMINGS, read_history

FOLDS = 3


def train(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dr.train", *arguments],
        cwd=folder,
        env={**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def only_run(folder: Path) -> Path:
    (run,) = (path for path in folder.iterdir() if not path.name.startswith("."))
    return run


def content(run: Path) -> list[tuple[bytes, bytes, list[dict[str, float | None]]]]:
    """Weights, predictions and untimed history of each fold."""
    found = []
    for fold in range(FOLDS):
        folder = run / f"fold-{fold}"
        rows = read_history(folder)
        for row in rows:
            for name in TIMINGS:
                del row[name]
        weights = (folder / "model.safetensors").read_bytes()
        found.append((weights, (folder / "predictions.csv").read_bytes(), rows))
    return found


@pytest.fixture(scope="module")
def alone(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run whose folds one process trained, one after the other."""
    folder = tmp_path_factory.mktemp("alone")
    done = train([*arguments(tiny_shards), f"outputs={folder / 'outputs'}"], folder)
    assert done.returncode == 0, done.stderr
    return only_run(folder / "outputs")


def arguments(shards: Path) -> list[str]:
    return [
        f"shards={shards}",
        "augment=flips",
        "accel=cpu",
        "accel.threads=1",
        "loader.threads=1",
        "model.name=test_efficientnet",
        "model.weights=none",
        "schedule.max_lr=0.01",
        "batch_size=10",
        f"folds={FOLDS}",
        "epochs=2",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "ray", "submitit_local"])
def test_folds_as_jobs_are_one_run(
    tiny_shards: Path, alone: Path, tmp_path: Path, launcher: str
) -> None:
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    sweep = ["--multirun", "fold=0,1,2", f"hydra/launcher={launcher}"]
    outputs = tmp_path / "outputs"
    done = train([*arguments(tiny_shards), f"outputs={outputs}", *sweep], tmp_path)
    assert done.returncode == 0, done.stderr
    run = only_run(outputs)
    assert run.name == alone.name
    assert content(run) == content(alone)
    one, other = (json.loads((path / "result.json").read_text()) for path in (run, alone))
    assert one["complete"] and one["folds"] == other["folds"] and one["pooled"] == other["pooled"]
