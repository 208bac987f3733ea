"""Label sources: what each kind gives, and every way in which one can be wrong."""

import os
import pickle
import re
import sys
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr.config import DataConfig, FoldersData, MedMNISTData, SyntheticData, TableData
from dr.shards.labels import (
    EYEPACS_PATTERN,
    PHOTOGRAPH_SUFFIXES,
    LabelSource,
    read_label_source,
    read_photograph_folder,
)

DATA = Path(os.environ.get("DR_PHOTOGRAPHS", "photographs"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no photographs in {DATA}")
ROWS = ("10_left,0", "10_right,1", "9_right,4")


def write_table(
    folder: Path,
    rows: Sequence[str] = ROWS,
    *,
    header: str = "image,level",
    photographs: Sequence[str] = ("10_left.jpeg", "10_right.JPG", "9_right.png"),
) -> TableData:
    images = folder / "photographs"
    images.mkdir(exist_ok=True)
    for name in photographs:
        (images / name).write_bytes(name.encode())
    labels = folder / "labels.csv"
    labels.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return TableData(images=str(images), labels=str(labels), name_pattern=EYEPACS_PATTERN)


def read(data: DataConfig, **options: Any) -> LabelSource:
    return read_label_source(data, cache=Path("unused"), **options)


def rows_of(source: LabelSource) -> list[tuple[object, ...]]:
    return list(source.table.itertuples(index=False, name=None))


def test_a_table_gives_patients_sides_and_labels_in_its_order(tmp_path: Path) -> None:
    source = read(write_table(tmp_path))
    assert rows_of(source) == [
        ("10_left", "10", 0, 0),
        ("10_right", "10", 1, 1),
        ("9_right", "9", 1, 4),
    ]
    assert list(source.table.columns) == ["name", "patient", "side", "label"]
    assert source.table["side"].dtype == source.table["label"].dtype == np.int64
    assert (source.kind, source.notes, source.missing) == ("table", (), ())
    assert [source.read(row) for row in range(3)] == [
        b"10_left.jpeg",
        b"10_right.JPG",
        b"9_right.png",
    ]


def test_aptos_columns_and_no_pattern(tmp_path: Path) -> None:
    data = write_table(
        tmp_path,
        ["000c1434d8d7,2", "007,0"],
        header="id_code,diagnosis",
        photographs=["000c1434d8d7.png", "007.png"],
    )
    data.image_column, data.label_column, data.name_pattern = "id_code", "diagnosis", None
    source = read(data)
    assert rows_of(source) == [("000c1434d8d7", "000c1434d8d7", -1, 2), ("007", "007", -1, 0)]
    assert source.notes == ("each photograph counts as its own patient: no data.name_pattern",)


def test_names_may_carry_their_suffix_and_spaces(tmp_path: Path) -> None:
    data = write_table(tmp_path, ["10_left.jpeg ,0 ", " 9_right.PNG, 4"], header=" image ,level")
    source = read(data)
    assert source.table["name"].tolist() == ["10_left", "9_right"]
    assert source.table["label"].tolist() == [0, 4]


def test_a_byte_order_mark_is_tolerated(tmp_path: Path) -> None:
    data = write_table(tmp_path, header="\ufeffimage,level")
    assert len(read(data).table) == 3


def test_other_columns_are_kept_as_read(tmp_path: Path) -> None:
    rows = ["10_left,0,007,", "10_right,1,NA,x", "9_right,4,1.50"]
    source = read(write_table(tmp_path, rows, header="image,level,fold,camera"))
    assert list(source.table.columns)[4:] == ["fold", "camera"]
    assert source.table["fold"].tolist() == ["007", "NA", "1.50"]
    assert source.table["camera"].tolist() == ["", "x", ""]


def test_a_patient_column_comes_before_the_pattern(tmp_path: Path) -> None:
    rows = ["10_left,0,ann", "10_right,1,bob", "9_right,4,ann"]
    source = read(write_table(tmp_path, rows, header="image,level,patient"))
    assert source.table["patient"].tolist() == ["ann", "bob", "ann"]
    assert source.table["side"].tolist() == [0, 1, 1]
    assert list(source.table.columns) == ["name", "patient", "side", "label"]
    assert source.notes == ("patients are taken from the column 'patient' of labels.csv",)


def test_the_side_is_optional_in_the_pattern(tmp_path: Path) -> None:
    data = write_table(tmp_path, ["a7,0", "b7,1"], photographs=["a7.jpg", "b7.jpg"])
    data.name_pattern = r"[ab](?P<patient>\d)"
    source = read(data)
    assert source.table["patient"].tolist() == ["7", "7"]
    assert source.table["side"].tolist() == [-1, -1]


@pytest.mark.parametrize("suffix", PHOTOGRAPH_SUFFIXES)
def test_every_suffix_is_found_in_any_case(tmp_path: Path, suffix: str) -> None:
    data = write_table(tmp_path, photographs=[f"10_left{suffix}", f"10_right{suffix.upper()}"])
    source = read(data, on_error="skip")
    assert source.missing == (2,)
    assert source.read(1) == f"10_right{suffix.upper()}".encode()


def test_photographs_without_a_row_are_noted(tmp_path: Path) -> None:
    names = [f"{number}_left.png" for number in range(20, 8, -1)]
    source = read(write_table(tmp_path, ["10_left,0"], photographs=names))
    expected = "11 photographs without a row, left out: "
    assert source.notes == (expected + "9_left, 11_left, 12_left, 13_left, 14_left ...",)


def test_an_absent_photograph_fails_or_is_skipped(tmp_path: Path) -> None:
    rows = [f"{number}_left,0" for number in range(1, 10)]
    data = write_table(tmp_path, rows, photographs=["2_left.jpg", "3_left.jpg"])
    with pytest.raises(ValueError, match="7 of 9 rows have no photograph") as error:
        read(data)
    assert "1_left, 4_left, 5_left, 6_left, 7_left ..." in str(error.value)
    assert "on_error=skip" in str(error.value)
    source = read(data, on_error="skip")
    assert source.missing == (0, 3, 4, 5, 6, 7, 8)
    assert len(source.table) == 9
    assert "7 rows without a photograph, skipped: 1_left" in source.notes[0]
    assert source.read(1) == b"2_left.jpg"
    with pytest.raises(ValueError, match="row 1 has no photograph"):
        source.read(0)


def test_no_photograph_at_all_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    data = write_table(tmp_path, photographs=["other_left.jpg"])
    with pytest.raises(ValueError, match="no row has a photograph"):
        read(data, on_error="skip")


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("image,grade", ROWS, "data.label_column='level': .* only image, grade"),
        ("file,level", ROWS, "data.image_column='image': .* only file, level"),
        ("image;level", ["10_left;0"], "only image;level"),
        ("image,level", ["10_left,5"], r"row 1 \(10_left\) has level='5'; give an integer"),
        ("image,level", ["10_left,0", "9_right,-1"], r"row 2 \(9_right\) has level='-1'"),
        ("image,level", ["10_left,", "9_right,x"], "level='', and 1 more rows are wrong"),
        ("image,level", ["10_left,2.0"], "level='2.0'"),
        ("image,level", ["10_left,\u0662"], "level='\u0662'"),
        ("image,level", ["10_left"], "level=''"),
        ("image,level", ["10_left,0", "10_left,1"], "rows 1 and 2 are both named '10_left'"),
        ("image,level", ["10_left.jpg,0", "10_left,1"], "rows 1 and 2 are both named '10_left'"),
        ("image,level", ["10_left,0", ",1"], "row 2 has no name in 'image'"),
        ("image,level", [], "has no rows"),
        ("image,level", ["10_left,0,7", "10_right,1,8"], "more fields than its header"),
        ("image,level", ["10_left,0", "10_right,1,8"], "is no CSV"),
        ("image,level", ["left_10,0"], r"row 1 \(left_10\)"),
        ("image,level", ["10_left2,0"], r"whole name of row 1 \(10_left2\)"),
        ("image,level,side", ["10_left,0,1"], "the column 'side'"),
        ("image,level,label", ["10_left,0,1"], "the column 'label'"),
        ("image,level,name", ["10_left,0,1"], "the column 'name'"),
        ("image,level,fold,fold ", ["10_left,0,1,1"], "two columns 'fold'"),
        (
            "image,level,patient",
            ["10_left,0,a", "10_right,0,"],
            r"row 2 \(10_right\) has no patient",
        ),
    ],
)
def test_a_wrong_table_is_refused(
    tmp_path: Path, header: str, rows: Sequence[str], message: str
) -> None:
    data = write_table(tmp_path, rows, header=header)
    with pytest.raises(ValueError, match=message):
        read(data)


def test_a_table_that_is_empty_or_no_text_is_refused(tmp_path: Path) -> None:
    data = write_table(tmp_path)
    path = Path(str(data.labels))
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"labels\.csv: is empty"):
        read(data)
    path.write_bytes("image,level\nÄ,0\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"labels\.csv: is no CSV in UTF-8"):
        read(data)


def test_one_column_cannot_be_both(tmp_path: Path) -> None:
    data = write_table(tmp_path)
    data.label_column = "image"
    with pytest.raises(ValueError, match=r"data\.label_column='image': must differ"):
        read(data)


def test_a_side_must_be_left_or_right(tmp_path: Path) -> None:
    data = write_table(tmp_path, ["10_up,0"], photographs=["10_up.jpg"])
    data.name_pattern = r"(?P<patient>\d+)_(?P<side>\w+)"
    with pytest.raises(ValueError, match=r"data\.name_pattern=.*10_up.*left or right"):
        read(data)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    data = write_table(tmp_path, photographs=["10_left.jpeg", "10_left.png"])
    with pytest.raises(ValueError, match=r"10_left\.jpeg and 10_left\.png share the name"):
        read(data)


def test_hidden_files_folders_and_other_kinds_are_no_photographs(tmp_path: Path) -> None:
    data = write_table(tmp_path)
    images = Path(str(data.images))
    (images / "._10_left.jpg").write_bytes(b"")
    (images / "notes.txt").write_bytes(b"")
    (images / "more.jpg").mkdir()
    assert read(data).notes == ()


@pytest.mark.parametrize("key", ["images", "labels"])
@pytest.mark.parametrize("value", [None, "absent"])
def test_an_absent_path_is_named_by_its_key(tmp_path: Path, key: str, value: str | None) -> None:
    data = write_table(tmp_path)
    setattr(data, key, value and str(tmp_path / value))
    with pytest.raises(ValueError, match=f"data.{key}=.*no such"):
        read(data)


def test_on_error_and_kind_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on_error='ignore'"):
        read(write_table(tmp_path), on_error="ignore")
    with pytest.raises(ValueError, match=r"data\.kind=''"):
        read(DataConfig())


def write_folders(folder: Path, files: Sequence[str]) -> FoldersData:
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.encode())
    return FoldersData(images=str(folder), classes=["none", "mild", "some", "severe", "worst"])


FILES = (
    "none/10_left.png",
    "mild/9_left.jpg",
    "some/10_right.png",
    "severe/b.txt",
    "worst/9_right.png",
)


def test_class_folders_give_grades_in_the_order_of_the_classes(tmp_path: Path) -> None:
    data = write_folders(tmp_path, [*FILES, "unsure/7_left.png"])
    data.name_pattern = EYEPACS_PATTERN
    source = read(data)
    assert rows_of(source) == [
        ("9_left", "9", 0, 1),
        ("9_right", "9", 1, 4),
        ("10_left", "10", 0, 0),
        ("10_right", "10", 1, 2),
    ]
    assert source.read(3) == b"some/10_right.png"
    assert source.notes == ("1 folder not in data.classes, left out: unsure",)


def test_wrong_class_folders_are_refused(tmp_path: Path) -> None:
    data = write_folders(tmp_path / "a", FILES[:-1])
    with pytest.raises(ValueError, match="no folder 'worst', only mild, none, severe, some"):
        read(data)
    data = write_folders(tmp_path / "b", [*FILES, "worst/10_left.tif"])
    with pytest.raises(ValueError, match="share the name '10_left'"):
        read(data)
    data = write_folders(tmp_path / "c", [name.replace("g", "x") for name in FILES])
    for file in Path(str(data.images)).glob("*/*"):
        file.unlink()
    with pytest.raises(ValueError, match="holds no photograph"):
        read(data)


def write_archive(path: Path, **arrays: Any) -> MedMNISTData:
    np.savez(path, **arrays)
    return MedMNISTData(images=str(path))


def images(count: int, *, channels: int | None = 3, seed: int = 0) -> np.ndarray:
    shape = (count, 6, 5) if channels is None else (count, 6, 5, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(data: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))[..., ::-1]


def test_medmnist_gives_its_splits_without_loss(tmp_path: Path) -> None:
    train, test = images(3), images(2, seed=1)
    labels = np.array([[0], [4], [2]], np.uint8)
    data = write_archive(
        tmp_path / "a.npz", train_images=train, train_labels=labels, test_images=test
    )
    source = read(data)
    assert rows_of(source) == [
        ("train_00000", "train_00000", -1, 0, "train"),
        ("train_00001", "train_00001", -1, 4, "train"),
        ("train_00002", "train_00002", -1, 2, "train"),
        ("test_00000", "test_00000", -1, -1, "test"),
        ("test_00001", "test_00001", -1, -1, "test"),
    ]
    assert list(source.table.columns) == ["name", "patient", "side", "label", "split"]
    for row, expected in enumerate([*train, *test]):
        np.testing.assert_array_equal(png(source.read(row)), expected)
    assert "own patient" in source.notes[0]


@pytest.mark.parametrize("channels", [None, 1])
def test_gray_archives_become_rgb(tmp_path: Path, channels: int | None) -> None:
    gray = images(2, channels=channels)
    source = read(write_archive(tmp_path / "a.npz", train_images=gray))
    np.testing.assert_array_equal(png(source.read(1)), np.dstack([gray[1].reshape(6, 5)] * 3))


def test_one_split_can_be_chosen(tmp_path: Path) -> None:
    data = write_archive(tmp_path / "a.npz", train_images=images(3), val_images=images(2, seed=1))
    data.split = "val"
    source = read(data)
    assert source.table["name"].tolist() == ["val_00000", "val_00001"]
    np.testing.assert_array_equal(png(source.read(0)), images(2, seed=1)[0])
    data.split = "test"
    with pytest.raises(ValueError, match=r"data\.split='test': .* all, train, val"):
        read(data)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": images(2)}, "no array named <split>_images, only x"),
        ({"train_images": images(2).astype(float)}, r"train_images is float64 \[2, 6, 5, 3\]"),
        ({"train_images": images(2, channels=4)}, r"train_images is uint8 \[2, 6, 5, 4\]"),
        (
            {"train_images": images(2), "train_labels": np.array([[1], [5]])},
            "train_labels holds 5 for train_00001",
        ),
        (
            {"train_images": images(2), "train_labels": np.array([1])},
            r"train_labels is int64 \[1\]; give an integer for each of 2 images",
        ),
        ({"train_images": images(2), "train_labels": np.zeros((2, 3), int)}, "train_labels is"),
        ({"train_images": images(2), "train_labels": np.array([0.0, 1.0])}, "is float64"),
        ({"train_images": images(0)}, "holds no image"),
    ],
)
def test_a_wrong_archive_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    data = write_archive(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read(data)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    data = MedMNISTData(images=str(path))
    with pytest.raises(ValueError, match=r"data\.images=.*no such file"):
        read(data)
    path.write_text("image,level\n")
    with pytest.raises(ValueError, match=r"is no \.npz archive"):
        read(data)
    write_archive(path, train_images=images(4))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match="damaged"):
        read(data)


def test_a_source_travels_to_other_processes(tmp_path: Path) -> None:
    archive = read(write_archive(tmp_path / "a.npz", train_images=images(400)))
    table = read(write_table(tmp_path))
    archive.read(0)
    travelled = pickle.loads(pickle.dumps(archive))
    assert len(pickle.dumps(archive.reader)) < 1000
    assert travelled.read(7) == archive.read(7)
    assert travelled.digest() == archive.digest()
    assert pickle.loads(pickle.dumps(table)).read(2) == table.read(2)


def test_the_digest_does_not_depend_on_where_and_when(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = read(write_table(tmp_path / "a"))
    again = read(write_table(tmp_path / "b"))
    assert first.digest() == again.digest()
    assert re.fullmatch("[0-9a-f]{64}", first.digest())


@pytest.mark.parametrize(
    ("rows", "header"),
    [
        (["10_left,0", "10_right,1", "9_right,3"], "image,level"),
        (["10_right,1", "10_left,0", "9_right,4"], "image,level"),
        (["10_left,0", "10_right,1"], "image,level"),
        ([row + ",1" for row in ROWS], "image,level,fold"),
    ],
)
def test_the_digest_follows_the_table(tmp_path: Path, rows: Sequence[str], header: str) -> None:
    before = read(write_table(tmp_path)).digest()
    assert read(write_table(tmp_path, rows, header=header)).digest() != before


@pytest.mark.parametrize("place", [0, 70_000, 199_999])
@pytest.mark.parametrize("size", [200_000, 200_001])
def test_the_digest_follows_size_and_both_ends_of_a_photograph(
    tmp_path: Path, place: int, size: int
) -> None:
    data = write_table(tmp_path)
    path = Path(str(data.images)) / "10_left.jpeg"
    path.write_bytes(bytes(200_000))
    before = read(data).digest()
    content = bytearray(size)
    content[place] = 1
    path.write_bytes(content)
    in_the_middle = size == 200_000 and place == 70_000
    assert (read(data).digest() == before) is in_the_middle


def test_the_digest_follows_an_archive_and_what_is_missing(tmp_path: Path) -> None:
    labels = np.array([0, 1])
    path = tmp_path / "a.npz"
    first = read(write_archive(path, train_images=images(2), train_labels=labels)).digest()
    second = read(write_archive(path, train_images=images(2, seed=1), train_labels=labels))
    assert second.digest() != first
    data = write_table(tmp_path)
    whole = read(data).digest()
    (Path(str(data.images)) / "9_right.png").unlink()
    assert read(data, on_error="skip").digest() != whole


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    names = ["10_left", "9_left", "9_right", "a10", "a9", "a09"]
    for name in names:
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    source = read_photograph_folder(tmp_path)
    assert source.table["name"].tolist() == ["9_left", "9_right", "10_left", "a09", "a9", "a10"]
    assert set(source.table["label"]) == set(source.table["side"]) == {-1}
    assert source.table["patient"].tolist() == source.table["name"].tolist()
    assert source.read(2) == b"10_left"
    with pytest.raises(ValueError, match="a09"):
        read_photograph_folder(tmp_path, name_pattern=EYEPACS_PATTERN)


def test_a_folder_takes_patients_by_the_pattern(tmp_path: Path) -> None:
    for name in ("10_left.png", "9_right.jpg"):
        (tmp_path / name).write_bytes(b"")
    source = read_photograph_folder(tmp_path, name_pattern=EYEPACS_PATTERN)
    assert rows_of(source) == [("9_right", "9", 1, -1), ("10_left", "10", 0, -1)]
    assert source.notes == ()


def test_an_empty_or_absent_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"images=.*holds no photograph"):
        read_photograph_folder(tmp_path)
    with pytest.raises(ValueError, match=r"images=.*no such folder"):
        read_photograph_folder(tmp_path / "absent")


@given(st.lists(st.integers(0, 3000), unique=True, min_size=1, max_size=15))
def test_numbers_in_names_are_sorted_as_numbers(numbers: list[int]) -> None:
    from dr.shards.labels import _natural

    names = [f"eye{number}.left" for number in numbers]
    assert sorted(names, key=_natural) == [f"eye{number}.left" for number in sorted(numbers)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands in for the drawing of photographs, and records what is asked of it."""
    calls: list[dict[str, Any]] = []

    def draw_photographs(folder: Path, **settings: Any) -> Path:
        calls.append({"folder": folder, **settings})
        (folder / "train").mkdir(parents=True, exist_ok=True)
        (folder / "train" / "1_left.jpeg").write_bytes(b"drawn")
        (folder / "trainLabels.csv").write_text("image,level\n1_left,3\n")
        return folder

    module = types.ModuleType("dr.fundus.synthetic")
    module.__dict__["draw_photographs"] = draw_photographs
    monkeypatch.setitem(sys.modules, "dr.fundus.synthetic", module)
    return calls


def test_synthetic_photographs_are_drawn_into_the_cache(
    tmp_path: Path, drawn: list[dict[str, Any]]
) -> None:
    data = SyntheticData(patients=4, seed=7)
    source = read_label_source(data, cache=tmp_path)
    read_label_source(SyntheticData(patients=4, seed=8), cache=tmp_path)
    read_label_source(data, cache=tmp_path)
    assert rows_of(source) == [("1_left", "1", 0, 3)]
    assert (source.kind, source.read(0)) == ("synthetic", b"drawn")
    folders = [call.pop("folder") for call in drawn]
    assert re.fullmatch("synthetic-[0-9a-f]{8}", folders[0].name)
    assert folders[0].parent == tmp_path
    assert folders[0] == folders[2] != folders[1]
    assert drawn[0] == {
        "patients": 4,
        "seed": 7,
        "grade_shares": data.grade_shares,
        "label_noise": data.label_noise,
    }


def test_synthetic_photographs_can_have_a_folder_of_their_own(
    tmp_path: Path, drawn: list[dict[str, Any]]
) -> None:
    data = SyntheticData(folder=str(tmp_path / "mine"))
    read_label_source(data, cache=tmp_path / "cache")
    assert drawn[0]["folder"] == tmp_path / "mine"


def test_a_large_table_is_read_quickly(tmp_path: Path) -> None:
    names = [f"{patient}_{side}" for patient in range(6000) for side in ("left", "right")]
    rows = [f"{name},{number % 5}" for number, name in enumerate(names)]
    data = write_table(tmp_path, rows, photographs=[f"{name}.jpeg" for name in names])
    start = time.perf_counter()
    source = read(data)
    assert time.perf_counter() - start < 2
    assert source.table["patient"].nunique() == 6000
    assert rows_of(source)[-1] == ("5999_right", "5999", 1, 4)


@needs_data
def test_the_real_table_has_the_counts_of_the_competition(tmp_path: Path) -> None:
    labels = DATA / "eyepacs_trainLabels_full.csv"
    expected = pd.read_csv(labels)
    data = write_table(tmp_path, photographs=["10_left.jpeg"])
    data.labels = str(labels)
    source = read(data, on_error="skip")
    assert source.table["name"].tolist() == expected["image"].tolist()
    counts = np.bincount(source.table["label"])
    assert counts.tolist() == [25_810, 2_443, 5_292, 873, 708]
    assert len(source.missing) == 35_125


@needs_data
def test_retinamnist_has_its_published_counts() -> None:
    data = MedMNISTData(images=str(DATA / "retinamnist_trainval.npz"))
    source = read(data)
    for split, counts in (("train", [486, 128, 206, 194, 66]), ("val", [54, 12, 28, 20, 6])):
        labels = source.table["label"][source.table["split"] == split]
        assert np.bincount(labels).tolist() == counts
    with np.load(str(data.images)) as archive:
        np.testing.assert_array_equal(png(source.read(1080)), archive["val_images"][0])
