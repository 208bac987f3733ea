"""Real processes that prepare: launched as parts, killed, watched for their memory."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dr import prepare
from dr.compose import compose
from dr.config import PrepareConfig

ROOT = Path(__file__).resolve().parents[2]
ROWS = 6001


def arguments_for(photographs: Path) -> list[str]:
    images = f"data.images={photographs}"
    return ["data=medmnist", "preparation=none", images, "workers=1"]


def start(arguments: list[str], cwd: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "dr.prepare", *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough small pictures for four shards, two of them copies of one."""
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (ROWS, 28, 28, 3), dtype=np.uint8)
    images[5000] = images[3]
    path = tmp_path_factory.mktemp("pictures") / "pictures.npz"
    np.savez(path, train_images=images, train_labels=random.integers(0, 5, (ROWS, 1)))
    return path


@pytest.fixture(scope="module")
def whole(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards that one process makes of them, undisturbed."""
    folder = tmp_path_factory.mktemp("whole") / "shards"
    prepare_here(photographs, folder)
    return folder


def prepare_here(photographs: Path, folder: Path) -> None:
    arguments = [*arguments_for(photographs), f"shards={folder}"]
    prepare.main(compose("prepare", PrepareConfig, arguments))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "ray", "submitit_local"])
def test_parts_by_any_launcher_equal_one_preparation(
    photographs: Path, whole: Path, tmp_path: Path, launcher: str
) -> None:
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    sweep = ["parts=4", "--multirun", "part=0,1,2,3", f"hydra/launcher={launcher}"]
    process = start([*arguments_for(photographs), "shards=made", *sweep], tmp_path)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert content(tmp_path / "made") == content(whole)
    assert {path.name for path in tmp_path.iterdir()} == {"made", "outputs"}
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == [".sweeps"]
    if launcher != "submitit_local":
        assert f"made: {ROWS} records of 28 px in 4 shards" in out
        assert "copies among different patients: 1 (1 byte for byte" in out


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_failing_part_fails_the_command_and_spares_the_others(
    photographs: Path, whole: Path, tmp_path: Path, launcher: str
) -> None:
    sweep = ["parts=4", "part=7,0,1,2,3", "--multirun", f"hydra/launcher={launcher}"]
    process = start([*arguments_for(photographs), "shards=made", *sweep], tmp_path)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "dr.prepare: 1 job failed, the others went on" in err
    assert "\n  part=7\n    part=7: give a number from 0 to 3" in err
    assert "Traceback" not in err
    assert content(tmp_path / "made") == content(whole)


def file_named(pattern: str, size: int = 0) -> Callable[[Path], bool]:
    def is_there(folder: Path) -> bool:
        return any(path.stat().st_size >= size for path in folder.glob(pattern))

    return is_there


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        file_named(".preparing.json"),
        file_named(".train00.*.tmp", 1_000_000),
        file_named("train01-*.tfrec"),
        file_named(".slice02.npy"),
        file_named(".slice03.json"),
        file_named("records.csv"),
        file_named("signatures.npy"),
        file_named("manifest.json"),
    ],
)
def test_a_killed_preparation_ends_with_the_same_bytes(
    photographs: Path, whole: Path, tmp_path: Path, moment: Callable[[Path], bool]
) -> None:
    folder = tmp_path / "made"
    process = start([*arguments_for(photographs), f"shards={folder}"], tmp_path)
    while process.poll() is None and not reached(moment, folder):
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert folder.is_dir()
    prepare_here(photographs, folder)
    assert content(folder) == content(whole)


def reached(moment: Callable[[Path], bool], folder: Path) -> bool:
    try:
        return moment(folder)
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_memory_does_not_grow_with_the_photographs(tmp_path: Path) -> None:
    peaks = [peak_memory(tmp_path / str(rows), rows) for rows in (2500, 10_000)]
    # Some 4 KB a photograph for its row, its path and its signature, none for its pixels.
    assert peaks[1] - peaks[0] < 7500 * 6000


def peak_memory(folder: Path, rows: int) -> int:
    """Bytes at the highest point of preparing `rows` photographs of one patient."""
    import cv2

    images = folder / "images"
    images.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (160, 160, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "one.jpg"), noise)
    for row in range(rows):
        os.link(folder / "one.jpg", images / f"{row}.jpg")
    table = "".join(f"{row},{row % 5},p\n" for row in range(rows))
    (folder / "labels.csv").write_text("image,level,patient\n" + table)
    source = ["data=eyepacs", f"data.images={images}", f"data.labels={folder / 'labels.csv'}"]
    options = ["data.name_pattern=null", "preparation=none", "image_size=64", "shards=made"]
    process = start([*source, *options, "workers=2"], folder)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, process.communicate()[1]
    return usage.ru_maxrss * 1024
