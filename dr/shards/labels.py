"""Label sources: which photographs there are, whose they are, and their grades.

A table of labels with a folder of photographs, class folders, a MedMNIST archive, photographs
that the project draws itself, or a bare folder: each becomes a `LabelSource`.
"""

import hashlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dr.config import (
    GRADES,
    DataConfig,
    FoldersData,
    MedMNISTData,
    SyntheticData,
    TableData,
)

PHOTOGRAPH_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp", ".webp")
"""Endings of photographs' file names, in any case."""

EYEPACS_PATTERN = r"(?P<patient>\d+)_(?P<side>left|right)"
"""How EyePACS names a photograph."""

UNKNOWN = -1
"""`side` or `label` of a photograph for which there is none."""

_SIDES = {"left": 0, "right": 1}
_OWN_COLUMNS = ("name", "patient", "side", "label")
_DIGEST_BYTES = 64 * 1024
_SHOWN = 5


class PhotographReader(Protocol):
    """Gives the bytes of a row's photograph; picklable, and safe to share among threads."""

    def read(self, row: int) -> bytes:
        """The bytes of the photograph of `row`, an image file of some kind."""

    def fingerprints(self) -> Iterator[str]:
        """Text that changes when the photographs do."""


@dataclass(frozen=True, eq=False)
class LabelSource:
    """A table of photographs, and a way to read each.

    `table`: columns `name` (str, unique), `patient` (str), `side` (int64: 0 left, 1 right, -1
    unknown), `label` (int64: 0 to 4, -1 unlabelled), then every other column of the source as
    str; its index counts the rows from 0. `kind` is the `data.kind`; `notes` are worth telling
    the user; `missing` are the rows without a photograph. Picklable.
    """

    table: pd.DataFrame
    kind: str
    notes: tuple[str, ...]
    missing: tuple[int, ...]
    reader: PhotographReader

    def read(self, row: int) -> bytes:
        """The bytes of the photograph of `row`, as its file holds them; an array's as PNG.

        Raises `ValueError` for a row in `missing`, `OSError` for a file that cannot be read.
        """
        return self.reader.read(row)

    def digest(self) -> str:
        """SHA-256, as 64 hex digits, of what the source holds, wherever it lies.

        It covers the column names and every value of the table in its order. Of each photograph
        file it covers the size, and the first and last 64 KiB; of a MedMNIST archive the whole
        file. Modification times and paths don't matter. The first call reads every photograph's
        file.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        state = hashlib.sha256()
        state.update(json.dumps(list(self.table.columns)).encode())
        for values in self.table.to_numpy(dtype=object).tolist():
            state.update(json.dumps(values).encode())
        for fingerprint in self.reader.fingerprints():
            state.update(fingerprint.encode())
        return state.hexdigest()


@dataclass(frozen=True)
class FileReader:
    """Photographs in files of their own; `paths` has one a row, or None where it is absent."""

    paths: tuple[str | None, ...]

    def read(self, row: int) -> bytes:
        """The bytes of the file."""
        path = self.paths[row]
        if path is None:
            raise ValueError(f"row {row + 1} has no photograph")
        return Path(path).read_bytes()

    def fingerprints(self) -> Iterator[str]:
        """A line for each row."""
        with ThreadPoolExecutor() as pool:
            yield from pool.map(_file_fingerprint, self.paths)


@dataclass(frozen=True)
class ArchiveReader:
    """Photographs in the arrays of a MedMNIST archive.

    `splits` are pairs of a name and its number of rows; an array is loaded at the first read,
    and again in each process.
    """

    path: str
    splits: tuple[tuple[str, int], ...]

    @cached_property
    def _images(self) -> tuple[NDArray[np.uint8], ...]:
        with _opened_archive(Path(self.path)) as archive:
            return tuple(archive[f"{split}_images"] for split, _ in self.splits)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the loaded arrays."""
        return {"path": self.path, "splits": self.splits}

    def read(self, row: int) -> bytes:
        """The image as a PNG in RGB."""
        for images, (_, count) in zip(self._images, self.splits, strict=True):
            if row < count:
                return _png(images[row])
            row -= count
        raise IndexError(f"row {row} beyond the end of {self.path}")

    def fingerprints(self) -> Iterator[str]:
        """One for the whole file."""
        with open(self.path, "rb") as file:
            yield hashlib.file_digest(file, "sha256").hexdigest()


def read_label_source(data: DataConfig, *, cache: Path, on_error: str = "fail") -> LabelSource:
    """Read the label source that `data` describes; `cache` is for photographs it has to draw.

    A row whose photograph is absent is an error with `on_error='fail'`; with `skip` it stays in
    the table and its row is in `missing`. Raises `ValueError`, naming file, row and value, for
    everything in the source that has no single meaning.
    """
    if on_error not in ("fail", "skip"):
        raise ValueError(f"on_error={on_error!r}: choose one of fail, skip")
    if isinstance(data, TableData):
        return _read_table(data, kind=data.kind, on_error=on_error)
    if isinstance(data, FoldersData):
        return _read_class_folders(data)
    if isinstance(data, MedMNISTData):
        return _read_medmnist(data)
    if isinstance(data, SyntheticData):
        return _read_synthetic(data, cache=cache, on_error=on_error)
    raise ValueError(f"data.kind={data.kind!r}: choose one of table, folders, medmnist, synthetic")


def read_photograph_folder(images: Path, *, name_pattern: str | None = None) -> LabelSource:
    """Every photograph of the folder `images`, unlabelled, in the natural order of their names.

    `name_pattern` is as in `TableData`. Raises `ValueError` for a folder that is absent or holds
    no photograph, for two files of one name, and for a name that the pattern does not match.
    """
    folder = _folder(images, key="images")
    files = _list_photographs(folder)
    if not files:
        raise ValueError(f"images={str(images)!r}: holds no photograph ({_suffixes()})")
    names = sorted(files, key=_natural)
    owners = _owners(names, pattern=name_pattern)
    table = _table(names, owners, labels=[UNKNOWN] * len(names))
    paths = tuple(files[name] for name in names)
    return LabelSource(table, "folder", owners.notes, (), FileReader(paths))


class _Owners(NamedTuple):
    """Patient and side of every row, and what to say of them."""

    patients: list[str]
    sides: list[int]
    notes: tuple[str, ...]


def _read_table(data: TableData, *, kind: str, on_error: str) -> LabelSource:
    folder = _folder(data.images, key="data.images")
    path = _file(data.labels, key="data.labels")
    rows = _read_csv(path)
    _check_columns(rows, data, path)
    names = _row_names(rows[data.image_column], path)
    labels = _row_labels(rows[data.label_column], names, path)
    others = rows.drop(columns=[data.image_column, data.label_column])
    owners = _table_owners(names, others, data, path)
    extras = {str(column): others[column] for column in others if column != "patient"}
    files = _list_photographs(folder)
    missing = tuple(row for row, name in enumerate(names) if name not in files)
    _check_missing(missing, names, on_error=on_error, where=f"in data.images={str(folder)!r}")
    notes = owners.notes + _match_notes(missing, names, files)
    reader = FileReader(tuple(files.get(name) for name in names))
    return LabelSource(_table(names, owners, labels, extras), kind, notes, missing, reader)


def _read_class_folders(data: FoldersData) -> LabelSource:
    folder = _folder(data.images, key="data.images")
    present = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    grades: dict[str, int] = {}
    files: dict[str, str] = {}
    for grade, name in enumerate(data.classes):
        if name not in present:
            fix = f"{folder} has no folder {name!r}, only {_some(present)}"
            raise ValueError(f"data.classes={list(data.classes)}: {fix}")
        found = _list_photographs(folder / name)
        _check_one_class(files, found)
        files |= found
        grades |= dict.fromkeys(found, grade)
    if not files:
        raise ValueError(f"data.images={str(folder)!r}: holds no photograph ({_suffixes()})")
    names = sorted(files, key=_natural)
    owners = _owners(names, pattern=data.name_pattern)
    table = _table(names, owners, [grades[name] for name in names])
    notes = owners.notes + _folder_notes(present, data.classes)
    paths = tuple(files[name] for name in names)
    return LabelSource(table, data.kind, notes, (), FileReader(paths))


def _read_medmnist(data: MedMNISTData) -> LabelSource:
    path = _file(data.images, key="data.images")
    names, labels, splits = [], [], []
    with _opened_archive(path) as archive:
        for split in _chosen_splits(archive, data.split, path):
            count = _count_images(archive, split, path)
            names += [f"{split}_{number:05d}" for number in range(count)]
            labels += _archive_labels(archive, split, count, path)
            splits.append((split, count))
    if not names:
        raise ValueError(f"{path}: holds no image in split={data.split!r}")
    note = "each image counts as its own patient: MedMNIST names no patients"
    owners = _Owners(names, [UNKNOWN] * len(names), (note,))
    column = pd.Series([split for split, count in splits for _ in range(count)], dtype=str)
    table = _table(names, owners, labels, {"split": column})
    return LabelSource(table, data.kind, owners.notes, (), ArchiveReader(str(path), tuple(splits)))


def _read_synthetic(data: SyntheticData, *, cache: Path, on_error: str) -> LabelSource:
    from dr.fundus.synthetic import draw_photographs

    settings: dict[str, Any] = {
        "patients": data.patients,
        "seed": data.seed,
        "grade_shares": [float(share) for share in data.grade_shares],
        "label_noise": float(data.label_noise),
    }
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    folder = Path(data.folder).expanduser() if data.folder else cache / f"synthetic-{digest}"
    drawn = draw_photographs(folder, **settings)
    table = TableData(
        images=str(drawn / "train"),
        labels=str(drawn / "trainLabels.csv"),
        name_pattern=EYEPACS_PATTERN,
    )
    return _read_table(table, kind=data.kind, on_error=on_error)


def _table(
    names: Sequence[str],
    owners: _Owners,
    labels: Sequence[int],
    extras: Mapping[str, pd.Series] | None = None,
) -> pd.DataFrame:
    columns = {
        "name": pd.Series(names, dtype=str),
        "patient": pd.Series(owners.patients, dtype=str),
        "side": pd.Series(owners.sides, dtype=np.int64),
        "label": pd.Series(labels, dtype=np.int64),
    }
    return pd.DataFrame(columns | dict(extras or {}))


def _folder(value: str | Path | None, *, key: str) -> Path:
    if value is None or not (folder := Path(value).expanduser()).is_dir():
        raise ValueError(
            f"{key}={_shown_path(value)}: no such folder; name the photographs' folder"
        )
    return folder


def _file(value: str | Path | None, *, key: str) -> Path:
    if value is None or not (path := Path(value).expanduser()).is_file():
        raise ValueError(f"{key}={_shown_path(value)}: no such file; name the file")
    return path


def _shown_path(value: str | Path | None) -> str:
    return "null" if value is None else repr(str(value))


def _suffixes() -> str:
    return " ".join(PHOTOGRAPH_SUFFIXES)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    shown = ", ".join(listed[:_SHOWN]) if listed else "none"
    return shown + (" ..." if len(listed) > _SHOWN else "")


def _natural(name: str) -> tuple[list[tuple[str, int]], str]:
    parts = re.split(r"([0-9]+)", name)
    texts, numbers = parts[::2], [*map(int, parts[1::2]), -1]
    return list(zip(texts, numbers, strict=True)), name


def _list_photographs(folder: Path) -> dict[str, str]:
    """Path of each photograph in `folder` by its name without suffix."""
    files: dict[str, str] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() not in PHOTOGRAPH_SUFFIXES or stem.startswith("."):
                continue
            if not entry.is_file():
                continue
            if stem in files:
                pair = " and ".join(sorted((entry.name, os.path.basename(files[stem]))))
                raise ValueError(f"{folder}: {pair} share the name {stem!r}; remove one of them")
            files[stem] = entry.path
    return files


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        rows = pd.read_csv(
            path, dtype=str, encoding="utf-8-sig", keep_default_na=False, na_filter=False
        )
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{path}: is empty; give a header and a row a photograph") from error
    except ValueError as error:
        raise ValueError(f"{path}: is no CSV in UTF-8 ({error})") from error
    if not isinstance(rows.index, pd.RangeIndex):
        raise ValueError(f"{path}: its rows have more fields than its header; remove the commas")
    if rows.empty:
        raise ValueError(f"{path}: has no rows; give one a photograph")
    rows.columns = rows.columns.str.strip()
    if repeated := rows.columns[rows.columns.duplicated()].tolist():
        raise ValueError(f"{path}: has two columns {repeated[0]!r}; rename one of them")
    for column in rows:
        rows[column] = rows[column].str.strip()
    return rows


def _check_columns(rows: pd.DataFrame, data: TableData, path: Path) -> None:
    columns = list(rows.columns)
    for key in ("image_column", "label_column"):
        column = getattr(data, key)
        if column not in columns:
            fix = f"{path} has no such column, only {', '.join(columns)}"
            raise ValueError(f"data.{key}={column!r}: {fix}")
    if data.image_column == data.label_column:
        fix = "must differ from data.image_column"
        raise ValueError(f"data.label_column={data.label_column!r}: {fix}")
    mapped = {data.image_column, data.label_column, "patient"}
    if clash := [column for column in columns if column in _OWN_COLUMNS and column not in mapped]:
        fix = "means something else here; rename it, or map it with data.image_column"
        raise ValueError(f"{path}: the column {clash[0]!r} {fix} or data.label_column")


def _row_names(column: pd.Series, path: Path) -> list[str]:
    names = [_without_suffix(name) for name in column]
    first: dict[str, int] = {}
    for row, name in enumerate(names, start=1):
        if not name:
            raise ValueError(f"{path}: row {row} has no name in {column.name!r}; fill it in")
        if name in first:
            pair = f"rows {first[name]} and {row} are both named {name!r}"
            raise ValueError(f"{path}: {pair}; remove one of them")
        first[name] = row
    return names


def _without_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in PHOTOGRAPH_SUFFIXES else name


def _row_labels(column: pd.Series, names: Sequence[str], path: Path) -> list[int]:
    grades = {str(grade): grade for grade in range(GRADES)}
    wrong = [row for row, value in enumerate(column) if value not in grades]
    if wrong:
        row = wrong[0]
        found = f"row {row + 1} ({names[row]}) has {column.name}={column[row]!r}"
        more = f", and {len(wrong) - 1} more rows are wrong" if len(wrong) > 1 else ""
        fix = f"give an integer from 0 to {GRADES - 1}"
        raise ValueError(f"{path}: {found}{more}; {fix}")
    return [grades[value] for value in column]


def _table_owners(
    names: Sequence[str], others: pd.DataFrame, data: TableData, path: Path
) -> _Owners:
    owners = _owners(names, pattern=data.name_pattern)
    if "patient" not in others:
        return owners
    patients = others["patient"].tolist()
    if "" in patients:
        row = patients.index("")
        raise ValueError(f"{path}: row {row + 1} ({names[row]}) has no patient; fill it in")
    note = f"patients are taken from the column 'patient' of {path.name}"
    return _Owners(patients, owners.sides, (note,))


def _owners(names: Sequence[str], *, pattern: str | None) -> _Owners:
    if pattern is None:
        note = "each photograph counts as its own patient: no data.name_pattern"
        return _Owners(list(names), [UNKNOWN] * len(names), (note,))
    compiled = re.compile(pattern)
    pairs = [_owner(name, row, compiled) for row, name in enumerate(names, start=1)]
    return _Owners([patient for patient, _ in pairs], [side for _, side in pairs], ())


def _owner(name: str, row: int, pattern: re.Pattern[str]) -> tuple[str, int]:
    match = pattern.fullmatch(name)
    groups = match.groupdict() if match else {}
    patient, side = groups.get("patient"), groups.get("side")
    if not patient or (side and side.lower() not in _SIDES):
        problem = f"does not match the whole name of row {row} ({name}) with a patient"
        fix = "and a side of left or right; correct the pattern, or set it to null"
        raise ValueError(f"data.name_pattern={pattern.pattern!r}: {problem} {fix}")
    return patient, _SIDES[side.lower()] if side else UNKNOWN


def _check_missing(
    missing: Sequence[int], names: Sequence[str], *, on_error: str, where: str
) -> None:
    absent = _some(names[row] for row in missing)
    if missing and on_error == "fail":
        count = f"{len(missing)} of {len(names)} rows have no photograph {where}: {absent}"
        raise ValueError(f"{count}; remove the rows, or set on_error=skip")
    if len(missing) == len(names):
        raise ValueError(f"no row has a photograph {where}: {absent}; check the folder")


def _match_notes(
    missing: Sequence[int], names: Sequence[str], files: Mapping[str, str]
) -> tuple[str, ...]:
    notes = []
    if missing:
        absent = _some(names[row] for row in missing)
        notes.append(f"{_count(len(missing), 'row')} without a photograph, skipped: {absent}")
    if spare := sorted(files.keys() - set(names), key=_natural):
        count = _count(len(spare), "photograph")
        notes.append(f"{count} without a row, left out: {_some(spare)}")
    return tuple(notes)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _check_one_class(files: Mapping[str, str], found: Mapping[str, str]) -> None:
    if twice := sorted(files.keys() & found.keys(), key=_natural):
        pair = f"{files[twice[0]]} and {found[twice[0]]}"
        raise ValueError(f"{pair} share the name {twice[0]!r}; rename or remove one of them")


def _folder_notes(present: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    others = [name for name in present if name not in classes and not name.startswith(".")]
    if not others:
        return ()
    return (f"{_count(len(others), 'folder')} not in data.classes, left out: {_some(others)}",)


@contextmanager
def _opened_archive(path: Path) -> Iterator[Any]:
    try:
        with open(path, "rb") as file:
            if file.read(2) != b"PK":
                raise ValueError(f"{path}: is no .npz archive; name a MedMNIST file")
            file.seek(0)
            with np.load(file) as archive:
                yield archive
    except (EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: is a damaged .npz archive ({error})") from error


def _chosen_splits(archive: Any, split: str, path: Path) -> list[str]:
    present = [key.removesuffix("_images") for key in archive.files if key.endswith("_images")]
    if not present:
        raise ValueError(f"{path}: has no array named <split>_images, only {_some(archive.files)}")
    if split == "all":
        return present
    if split not in present:
        choices = ", ".join(["all", *present])
        raise ValueError(f"data.split={split!r}: {path} has no such split; choose one of {choices}")
    return [split]


def _count_images(archive: Any, split: str, path: Path) -> int:
    """Number of images by the array's header, so that nothing is decompressed."""
    with archive.zip.open(f"{split}_images.npy") as file:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read_header(file)
    if dtype != np.uint8 or not (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))):
        found = f"{split}_images is {dtype} {list(shape)}"
        raise ValueError(f"{path}: {found}; give uint8 [N, H, W] or [N, H, W, 3]")
    return int(shape[0])


def _archive_labels(archive: Any, split: str, count: int, path: Path) -> list[int]:
    key = f"{split}_labels"
    if key not in archive.files:
        return [UNKNOWN] * count
    labels = archive[key]
    if labels.shape not in ((count,), (count, 1)) or labels.dtype.kind not in "iu":
        found = f"{key} is {labels.dtype} {list(labels.shape)}"
        raise ValueError(f"{path}: {found}; give an integer for each of {count} images")
    flat = labels.reshape(-1)
    wrong = np.flatnonzero((flat < 0) | (flat >= GRADES))
    if wrong.size:
        found = f"{key} holds {flat[wrong[0]]} for {split}_{wrong[0]:05d}"
        raise ValueError(f"{path}: {found}; grades go from 0 to {GRADES - 1}")
    return [int(label) for label in flat]


def _png(image: NDArray[np.uint8]) -> bytes:
    import cv2

    colours = np.broadcast_to(image.reshape(*image.shape[:2], -1), (*image.shape[:2], 3))
    written, png = cv2.imencode(".png", cv2.cvtColor(colours.copy(), cv2.COLOR_RGB2BGR))
    assert written
    return png.tobytes()


def _file_fingerprint(path: str | None) -> str:
    if path is None:
        return "absent\n"
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        ends = file.read(_DIGEST_BYTES)
        file.seek(max(len(ends), size - _DIGEST_BYTES))
        ends += file.read()
    return f"{size} {hashlib.sha256(ends).hexdigest()}\n"
