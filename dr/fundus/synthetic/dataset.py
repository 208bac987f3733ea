"""Synthetic photographs, one by one and as a folder laid out like Kaggle's EyePACS originals."""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dr.fundus.synthetic.anatomy import Eye, grow_eye, sample_patient
from dr.fundus.synthetic.camera import (
    Camera,
    field_side,
    photograph,
    sample_camera,
    sample_exposure,
)
from dr.fundus.synthetic.labels import GRADES, SIDES, Row, check_settings, synthetic_labels
from dr.fundus.synthetic.lesions import Lesions, grow_lesions
from dr.fundus.synthetic.paint import random_stream
from dr.fundus.synthetic.retina import render_retina

DRAWING = 1
"""Raise this with every change of what is drawn, so that older folders are not taken for new."""

SHARED_STREAM = 1
ANATOMY_STREAM, LESION_STREAM, TEXTURE_STREAM, CAMERA_STREAM = range(4)
PHOTOGRAPHS_PER_WORKER = 12


@dataclass(frozen=True)
class Settings:
    """Everything that decides the bytes of a synthetic set, as `synthetic.json` holds it."""

    drawing: int
    patients: int
    seed: int
    grade_shares: list[float]
    label_noise: float


def draw_photograph(*, seed: int, patient: int, side: str, grade: int) -> NDArray[np.uint8]:
    """The photograph of one eye: uint8 RGB of shape (height, width, 3), 560 to 816 wide.

    `side` is `left` or `right`, `grade` 0 to 4. Both eyes of a patient share pigment and camera.
    The same arguments give the same picture, and another `grade` other lesions in the same eye.

    Raises ValueError for an argument out of range.
    """
    check_eye(seed, patient, side, grade)
    camera, eye = lay_out_eye(seed, patient, side)
    lesions = grow_lesions(eye_stream(seed, patient, side, LESION_STREAM), eye, grade)
    return take_photograph(seed, patient, side, camera, eye, lesions)


def check_eye(seed: int, patient: int, side: str, grade: int) -> None:
    """ValueError that names the first argument out of range, its value and the fix."""
    if seed < 0:
        raise ValueError(f"seed={seed}: give a seed of 0 or more")
    if patient < 1:
        raise ValueError(f"patient={patient}: patients are numbered from 1")
    if side not in SIDES:
        raise ValueError(f"side={side!r}: give 'left' or 'right'")
    if grade not in range(GRADES):
        raise ValueError(f"grade={grade}: give a grade from 0 to {GRADES - 1}")


def eye_stream(seed: int, patient: int, side: str, stream: int) -> np.random.Generator:
    """The generator of one aspect of one eye."""
    return random_stream(seed, patient, 10 * (1 + SIDES.index(side)) + stream)


def lay_out_eye(seed: int, patient: int, side: str) -> tuple[Camera, Eye]:
    """The camera that a patient is photographed with, and the anatomy of one eye."""
    shared = random_stream(seed, patient, SHARED_STREAM)
    person, camera = sample_patient(shared), sample_camera(shared)
    rng = eye_stream(seed, patient, side, ANATOMY_STREAM)
    return camera, grow_eye(rng, person, scale=camera.zoom)


def take_photograph(
    seed: int, patient: int, side: str, camera: Camera, eye: Eye, lesions: Lesions
) -> NDArray[np.uint8]:
    """The picture of `eye` with `lesions`: uint8 RGB (height, width, 3)."""
    texture = eye_stream(seed, patient, side, TEXTURE_STREAM)
    retina = render_retina(texture, eye, lesions, field_side(camera))
    if side == "left":
        retina = np.asarray(cv2.flip(retina, 1), dtype=np.float32)
    rng = eye_stream(seed, patient, side, CAMERA_STREAM)
    return photograph(rng, retina, camera, sample_exposure(rng))


def draw_photographs(
    folder: Path,
    *,
    patients: int,
    seed: int,
    grade_shares: Sequence[float],
    label_noise: float,
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Draw a set into `folder`: `train/<patient>_<side>.jpeg` and `trainLabels.csv`.

    The CSV has the columns `image,level`; `synthetic.json` keeps the settings. `folder` appears
    when all is drawn, or not at all; one that holds the same set already is left as it is.
    `workers` processes draw (0: one a core); their number does not change a byte. `progress` is
    told how many photographs are done. The other arguments are those of `synthetic_labels`.

    Returns `folder`. Raises ValueError for an argument out of range, or if `folder` holds
    something else.
    """
    check_settings(patients, seed, grade_shares, label_noise)
    if workers < 0:
        raise ValueError(f"workers={workers}: give 1 or more, or 0 for one a core")
    shares = [float(share) for share in grade_shares]
    settings = Settings(DRAWING, patients, seed, shares, label_noise)
    if not holds_set(folder, settings):
        draw_set(folder, settings, workers or usable_cores(), progress)
    return folder


def holds_set(folder: Path, settings: Settings) -> bool:
    """Whether `folder` holds this set; False if it is missing or empty, else ValueError."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    difference = find_difference(folder, settings)
    if difference:
        fix = "name another folder, or delete this one to have it drawn anew"
        raise ValueError(f"folder={str(folder)!r} {difference}: {fix}")
    return True


def find_difference(folder: Path, settings: Settings) -> str:
    """What keeps `folder` from being the whole set of `settings`; empty if nothing does."""
    try:
        found = json.loads((folder / "synthetic.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "is no set of synthetic photographs (no synthetic.json that can be read)"
    for key, wanted in asdict(settings).items():
        if not isinstance(found, dict) or found.get(key) != wanted:
            value = found.get(key) if isinstance(found, dict) else None
            return f"was drawn with {key}={value}, not {wanted}"
    owners = range(1, settings.patients + 1)
    names = {f"{patient}_{side}.jpeg" for patient in owners for side in SIDES}
    missing = sorted(names - {path.name for path in folder.glob("train/*.jpeg")})
    if missing:
        return f"lacks {len(missing)} of its photographs, such as {missing[0]}"
    return "" if (folder / "trainLabels.csv").is_file() else "lacks trainLabels.csv"


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def draw_set(
    folder: Path, settings: Settings, workers: int, progress: Callable[[int], None] | None
) -> None:
    """Draw everything beside `folder`, then rename it, unless another process was first."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        (partial / "train").mkdir(parents=True)
        rows = write_tables(partial, settings)
        jobs = [Job(partial / "train", settings.seed, row) for row in rows]
        for done, _ in enumerate(write_all(jobs, workers), start=1):
            if progress is not None:
                progress(done)
        move(partial, folder, settings)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_tables(folder: Path, settings: Settings) -> list[Row]:
    """Write `trainLabels.csv` and `synthetic.json`; the rows of the first."""
    rows = synthetic_labels(
        patients=settings.patients,
        seed=settings.seed,
        grade_shares=settings.grade_shares,
        label_noise=settings.label_noise,
    )
    lines = ["image,level", *(f"{row.image},{row.level}" for row in rows)]
    (folder / "trainLabels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = json.dumps(asdict(settings), indent=2)
    (folder / "synthetic.json").write_text(text + "\n", encoding="utf-8")
    return rows


def move(partial: Path, folder: Path, settings: Settings) -> None:
    """Rename `partial` to `folder`; nothing is lost if that holds the same set by now."""
    try:
        partial.rename(folder)
    except OSError:
        if not holds_set(folder, settings):
            raise


@dataclass(frozen=True)
class Job:
    """One photograph to be drawn and written into `folder`."""

    folder: Path
    seed: int
    row: Row


def write_all(jobs: Sequence[Job], workers: int) -> Iterator[None]:
    """Write every job's photograph; yields once for each, in order."""
    workers = min(workers, -(-len(jobs) // PHOTOGRAPHS_PER_WORKER))
    if workers < 2:
        yield from map(write_photograph, jobs)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, cv2.setNumThreads, (1,)) as pool:
        yield from pool.map(write_photograph, jobs, chunksize=4)


def write_photograph(job: Job) -> None:
    """Draw one photograph and write it as a JPEG of its camera's quality."""
    row = job.row
    picture = draw_photograph(seed=job.seed, patient=row.patient, side=row.side, grade=row.grade)
    camera, _ = lay_out_eye(job.seed, row.patient, row.side)
    options = [cv2.IMWRITE_JPEG_QUALITY, camera.quality]
    _, data = cv2.imencode(".jpeg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    (job.folder / f"{row.image}.jpeg").write_bytes(data.tobytes())
