"""The doors as a user meets them: what they print where, leave behind, and exit with."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dr import compare, prepare
from dr.compose import compose
from dr.config import CompareConfig, PrepareConfig

ROOT = Path(__file__).resolve().parents[1]
HEAVY = re.compile(
    r"\| +(torch|sklearn|timm|albumentations|tfrecord|matplotlib|optuna)$", re.MULTILINE
)


def door(
    name: str, *arguments: str, cwd: Path, python: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *python, "-m", f"dr.{name}", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


DOORS = ["train", "prepare", "inspect", "compare", "find_lr", "report", "search"]


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("arguments", [("--cfg", "job"), ("--help",)])
def test_help_and_config_are_light_and_leave_nothing(
    name: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = door(name, *arguments, cwd=tmp_path, python=("-X", "importtime"))
    assert done.returncode == 0
    assert "outputs: outputs" in done.stdout
    assert "hydra" in done.stderr  # the list of imports is there
    assert not HEAVY.findall(done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_problems_of_the_config_exit_with_2_and_leave_nothing(tmp_path: Path) -> None:
    done = door("train", "epochz=3", "batch_size=none", "folds=0", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "3 problems in the configuration" in done.stderr
    assert "epochz=3: is no key; did you mean epochs?" in done.stderr
    assert "folds=0: must be a number of at least 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_exits_with_1_in_one_line(tmp_path: Path) -> None:
    done = door("train", "rerun=/no/such=(folder)", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("dr.train: rerun=/no/such=(folder): holds no config.yaml")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_source_is_prepared_trained_and_reported(
    tiny_photographs: Path,
    tiny_overrides: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "shards (ü=1) & ~"
    source = [
        "data=eyepacs",
        f"data.images={tiny_photographs}",
        f"data.labels={tiny_photographs / 'labels.csv'}",
        "image_size=32",
        "preparation=none",
    ]
    prepare.main(compose("prepare", PrepareConfig, [*source, f"shards={folder}"]))
    said = capsys.readouterr().out
    assert said.startswith(f"{folder}: 60 records of 32 px in 1 shard (grade 0: 12")
    trained = door("train", *tiny_overrides, f"shards={folder}", "folds=2", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    run = next((tmp_path / "outputs").glob("test_*"))
    pooled = json.loads((run / "result.json").read_text())["pooled"]["qwk"]
    assert trained.stdout.splitlines()[0] == str(run)
    assert f"pooled out-of-fold: QWK {pooled:.4f}" in trained.stdout
    assert "epoch 1/2: train loss" in trained.stderr
    assert "train loss" not in trained.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"outputs", folder.name}


def test_a_sweep_makes_a_run_a_job_and_a_row_each(
    tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = [text for text in tiny_overrides if not text.startswith("schedule")]
    sweep = ["schedule=ramp_decay,cosine", "schedule.max_lr=1e-4,3e-4", "folds=2", "epochs=1"]
    done = door("train", "--multirun", *rest, *sweep, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    outputs = tmp_path / "outputs"
    runs = [path for path in outputs.iterdir() if not path.name.startswith(".")]
    assert len(runs) == 4
    assert sorted(path.name.split("_")[2] for path in runs) == ["cosine", "cosine", "ramp", "ramp"]
    assert all(str(run) in done.stdout for run in runs)
    compare.main(CompareConfig(outputs=str(outputs)))
    table = capsys.readouterr().out.splitlines()
    assert all(any(run.name[-8:] in line for line in table) for run in runs)
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}


@pytest.mark.slow
def test_a_failed_job_of_a_sweep_fails_the_sweep_and_spares_the_others(
    tiny_overrides: list[str], tmp_path: Path
) -> None:
    done = door(
        "train", "-m", *tiny_overrides, "folds=2", "epochs=1", "batch_size=900,10", cwd=tmp_path
    )
    assert done.returncode == 1
    assert "batch_size=900: is larger than" in done.stderr
    assert len(list((tmp_path / "outputs").glob("test_*"))) == 1
