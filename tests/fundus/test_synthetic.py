"""Synthetic photographs: what is drawn, who has which grade, and the folder they lie in."""

import csv
import hashlib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dr.fundus.synthetic import draw_photograph, draw_photographs, synthetic_labels
from dr.fundus.synthetic.dataset import lay_out_eye, take_photograph
from dr.fundus.synthetic.lesions import Lesions

EYEPACS = (0.735, 0.07, 0.15, 0.025, 0.02)
SMALL: dict[str, Any] = {
    "patients": 2,
    "seed": 3,
    "grade_shares": [0.5, 0.1, 0.2, 0.1, 0.1],
    "label_noise": 0.0,
}


def labels(**changes: Any) -> list[Any]:
    given = {"patients": 300, "seed": 1, "grade_shares": EYEPACS, "label_noise": 0.06}
    return synthetic_labels(**{**given, **changes})


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@cache
def green(patient: int, side: str, grade: int) -> NDArray[np.int16]:
    picture = draw_photograph(seed=5, patient=patient, side=side, grade=grade)
    return picture[..., 1].astype(np.int16)


def change(patient: int, side: str, grade: int) -> NDArray[np.int16]:
    """What the lesions of a grade add to each pixel of the green channel."""
    return green(patient, side, grade) - green(patient, side, 0)


def spots(marked: NDArray[np.bool_]) -> int:
    """How many separate spots of at least 4 pixels are marked."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(marked.astype(np.uint8))
    return int((stats[1:, cv2.CC_STAT_AREA] >= 4).sum())


def test_photograph_is_a_round_field_on_black() -> None:
    sizes = set()
    for patient in range(1, 13):
        picture = draw_photograph(seed=1, patient=patient, side="left", grade=0)
        height, width, channels = picture.shape
        sizes.add((width, height))
        assert picture.dtype == np.uint8
        assert channels == 3 and 560 <= width <= 900 and 1.3 < width / height < 1.55
        assert picture[:8, :8].max() == 0 and picture[-8:, -8:].max() == 0
        field = picture[height // 4 : -height // 4, width // 3 : -width // 3]
        assert (field.max(axis=2) > 10).mean() > 0.8
        assert field[..., 0].mean() > field[..., 2].mean()
    assert len(sizes) >= 3


def test_same_arguments_same_picture() -> None:
    eye: dict[str, Any] = {"seed": 1, "patient": 4, "side": "right", "grade": 3}
    first = draw_photograph(**eye)
    assert np.array_equal(first, draw_photograph(**eye))
    assert not np.array_equal(first, draw_photograph(**{**eye, "seed": 2}))


def test_disc_is_nasal() -> None:
    right_of_middle = {"left": 0, "right": 0}
    for patient in range(1, 11):
        for side in right_of_middle:
            picture = draw_photograph(seed=6, patient=patient, side=side, grade=0)
            smooth = cv2.GaussianBlur(picture[..., 1].astype(np.float32), (0, 0), 10)
            local = smooth - cv2.GaussianBlur(smooth, (0, 0), 40)
            inner = local[60:-60, 110:-110]
            column = int(inner.argmax()) % inner.shape[1]
            right_of_middle[side] += column > inner.shape[1] / 2
    assert right_of_middle["right"] >= 8
    assert right_of_middle["left"] <= 2


def test_eyes_of_a_patient_share_camera_and_pigment() -> None:
    for patient in range(1, 6):
        (camera, eye), (other_camera, other) = (
            lay_out_eye(1, patient, side) for side in ("left", "right")
        )
        assert camera == other_camera
        assert eye.patient == other.patient
        assert not np.array_equal(eye.disc, other.disc)


def test_grade_0_has_no_lesions() -> None:
    camera, eye = lay_out_eye(5, 2, "left")
    bare = take_photograph(5, 2, "left", camera, eye, Lesions())
    assert np.array_equal(bare, draw_photograph(seed=5, patient=2, side="left", grade=0))


def test_grade_1_has_only_small_red_dots() -> None:
    for patient in range(1, 5):
        added = change(patient, "right", 1)
        assert spots(added < -12) >= 1
        assert added.max() <= 3
        assert (added < -12).mean() < 0.01


def test_dark_spots_grow_with_the_grade() -> None:
    eyes = [(patient, side) for patient in range(1, 4) for side in ("left", "right")]
    dark = {grade: [change(*eye, grade) < -12 for eye in eyes] for grade in (1, 2, 3, 4)}
    number = {grade: np.mean([spots(mask) for mask in dark[grade]]) for grade in dark}
    area = {grade: np.mean([mask.mean() for mask in dark[grade]]) for grade in dark}
    assert 3 < number[1] < 0.8 * number[2] < 0.5 * number[3]
    assert area[1] < area[2] < area[3]
    assert area[4] > area[2]


def test_exudates_and_cotton_wool_only_from_grade_2() -> None:
    bright = [spots(change(patient, "left", 2) > 12) for patient in range(1, 9)]
    assert sum(number > 0 for number in bright) >= 4


@pytest.mark.parametrize("seed", range(4))
def test_grades_have_their_shares(seed: int) -> None:
    rows = labels(seed=seed)
    grades = Counter(row.grade for row in rows)
    assert len(rows) == 600
    for grade, share in enumerate(EYEPACS):
        assert abs(grades[grade] - 600 * share) <= 2
        assert len({row.patient for row in rows if row.level == grade}) >= 5


def test_names_are_those_of_eyepacs() -> None:
    rows = labels(patients=3)
    names = [f"{patient}_{side}" for patient in (1, 2, 3) for side in ("left", "right")]
    assert [row.image for row in rows] == names
    assert [(row.patient, row.side) for row in rows[2:4]] == [(2, "left"), (2, "right")]


def test_small_sets_still_hold_every_grade_of_nonzero_share() -> None:
    assert {row.grade for row in labels(patients=3)} == {0, 1, 2, 3, 4}
    rows = labels(patients=40, grade_shares=[8, 0, 1, 0, 1], label_noise=0.3)
    assert {row.grade for row in rows} == {row.level for row in rows} == {0, 2, 4}


def test_eyes_of_a_patient_are_correlated() -> None:
    rows = labels()
    eyes = np.array([row.grade for row in rows]).reshape(-1, 2)
    apart = np.abs(eyes[:, 0] - eyes[:, 1])
    assert (apart == 0).mean() > 0.75
    assert (apart <= 1).mean() > 0.9
    assert 0.7 < np.corrcoef(eyes.T)[0, 1] < 1


@pytest.mark.parametrize("noise", [0.0, 0.06, 0.3])
def test_label_noise_is_its_share_and_mostly_by_one_grade(noise: float) -> None:
    moved = [abs(row.level - row.grade) for row in labels(label_noise=noise)]
    wrong = [steps for steps in moved if steps]
    assert len(wrong) == round(noise * 600)
    assert sum(steps == 1 for steps in wrong) >= 0.75 * len(wrong)


def test_noise_does_not_move_true_grades() -> None:
    grades = [row.grade for row in labels(patients=2000, label_noise=0.0)]
    assert grades == [row.grade for row in labels(patients=2000, label_noise=0.4)]


def test_folder_holds_photographs_and_labels(tmp_path: Path) -> None:
    done: list[int] = []
    folder = draw_photographs(tmp_path / "a" / "set", **SMALL, workers=1, progress=done.append)
    rows = synthetic_labels(**SMALL)
    with (folder / "trainLabels.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert table == [{"image": row.image, "level": str(row.level)} for row in rows]
    assert done == [1, 2, 3, 4]
    assert [path.name for path in folder.parent.iterdir()] == ["set"]
    for row in rows:
        stored = cv2.imread(str(folder / "train" / f"{row.image}.jpeg"))
        eye: dict[str, Any] = {"patient": row.patient, "side": row.side, "grade": row.grade}
        drawn = draw_photograph(seed=SMALL["seed"], **eye)[..., ::-1]
        assert stored is not None and stored.shape == drawn.shape
        assert np.abs(stored.astype(np.int16) - drawn).mean() < 4


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path) -> None:
    settings = {**SMALL, "patients": 13}
    one = draw_photographs(tmp_path / "one", **settings, workers=1)
    two = draw_photographs(tmp_path / "two", **settings, workers=2)
    assert len(contents(one)) == 28
    assert contents(one) == contents(two)


def test_finished_set_is_left_as_it_is(tmp_path: Path) -> None:
    folder = draw_photographs(tmp_path / "set", **SMALL, workers=1)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done: list[int] = []
    assert draw_photographs(folder, **SMALL, progress=done.append) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    assert not done


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"seed": 4}, "seed=3, not 4"),
        ({"patients": 3}, "patients=2, not 3"),
        ({"label_noise": 0.5}, "label_noise=0.0, not 0.5"),
        ({"grade_shares": [1, 0, 0, 0, 0]}, "grade_shares="),
    ],
)
def test_other_set_is_refused(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    folder = tmp_path / "set"
    (folder / "train").mkdir(parents=True)
    draw_photographs(tmp_path / "made", **SMALL, workers=1)
    (tmp_path / "made" / "synthetic.json").rename(folder / "synthetic.json")
    with pytest.raises(ValueError, match=told) as refusal:
        draw_photographs(folder, **{**SMALL, **changed})
    assert str(folder) in str(refusal.value) and "delete this one" in str(refusal.value)


def test_foreign_folder_is_refused_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="is no set of synthetic photographs"):
        draw_photographs(folder, **SMALL)
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"
    for text in ("[]", "{", "\udcff"):
        (folder / "synthetic.json").write_text(text, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(ValueError, match="another folder"):
            draw_photographs(folder, **SMALL)


def test_set_that_lost_a_photograph_is_refused(tmp_path: Path) -> None:
    folder = draw_photographs(tmp_path / "set", **SMALL, workers=1)
    (folder / "train" / "2_left.jpeg").unlink()
    with pytest.raises(ValueError, match="lacks 1 of its photographs, such as 2_left"):
        draw_photographs(folder, **SMALL)


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    draw_photographs(folder, **SMALL, workers=1)
    assert len(contents(folder)) == 6


def test_interrupted_drawing_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_photographs(tmp_path / "set", **SMALL, workers=1, progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_set_finished_by_another_process_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "set"

    def overtake(done: int) -> None:
        if done == 4:
            draw_photographs(folder, **SMALL, workers=1)

    assert draw_photographs(folder, **SMALL, workers=1, progress=overtake) == folder
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("patients", 0),
        ("seed", -1),
        ("grade_shares", [1, 0, 0, 0]),
        ("grade_shares", [0, 0, 0, 0, 0]),
        ("grade_shares", [1, -1, 1, 0, 0]),
        ("grade_shares", [1, float("nan"), 1, 0, 0]),
        ("label_noise", 1.0),
        ("label_noise", -0.1),
        ("label_noise", float("nan")),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{argument}=.*: give") as refusal:
        synthetic_labels(**{**SMALL, argument: value})
    assert str(value) in str(refusal.value)
    with pytest.raises(ValueError, match=f"^{argument}=.*: give"):
        draw_photographs(tmp_path / "set", **{**SMALL, argument: value})
    assert not list(tmp_path.iterdir())


def test_negative_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^workers=-1: give"):
        draw_photographs(tmp_path / "set", **SMALL, workers=-1)


@pytest.mark.parametrize(
    ("argument", "value"), [("seed", -1), ("patient", 0), ("side", "both"), ("grade", 5)]
)
def test_eyes_out_of_range_are_refused(argument: str, value: Any) -> None:
    eye: dict[str, Any] = {"seed": 1, "patient": 1, "side": "left", "grade": 0}
    with pytest.raises(ValueError, match=f"^{argument}={value!r}: "):
        draw_photograph(**{**eye, argument: value})
