"""A folder as hospitals leave it, packed: what is readable is kept, the rest named with why."""

import csv
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from dr.config import PreparationConfig, TableData
from dr.shards.labels import read_label_source
from dr.shards.packing import Packing, pack


def disc() -> np.ndarray:
    image = np.zeros((90, 120, 3), np.uint8)
    return np.asarray(cv2.circle(image, (60, 45), 40, (200, 120, 60), -1), np.uint8)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 8
    return saved(Image.fromarray(disc()), "JPEG", exif=exif)


PLAIN_JPEG = saved(Image.fromarray(disc()), "JPEG")
READABLE = {
    "a name with spaces.jpeg": PLAIN_JPEG,
    "œil gauche é (1) & =.jpg": PLAIN_JPEG,
    "眼底.png": saved(Image.fromarray(disc()), "PNG"),
    "turned.jpeg": turned(),
    "gray.jpeg": saved(Image.fromarray(disc()).convert("L"), "JPEG"),
    "cmyk.jpeg": saved(Image.fromarray(disc()).convert("CMYK"), "JPEG"),
    "alpha.png": saved(Image.fromarray(disc()).convert("RGBA"), "PNG"),
    "deep.png": cv2.imencode(".png", disc().astype(np.uint16) * 256)[1].tobytes(),
    "deep tiff.tif": cv2.imencode(".tif", disc().astype(np.uint16) * 256)[1].tobytes(),
    "a png.jpeg": saved(Image.fromarray(disc()), "PNG"),
}
UNREADABLE = {
    "nothing.jpeg": (b"", "empty"),
    "letter.jpeg": (b"Dear colleague,\n", "no photograph"),
    "cut.jpeg": (PLAIN_JPEG[:-200], "damaged"),
    "bomb.png": (
        saved(Image.new("1", (20_000, 10_001)), "PNG"),
        "over the limit",
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    contents = {**READABLE, **{name: data for name, (data, _) in UNREADABLE.items()}}
    photographs = tmp_path / "photographs ü"
    photographs.mkdir()
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "level"])
        for number, (name, data) in enumerate(contents.items()):
            (photographs / name).write_bytes(data)
            table.writerow([Path(name).stem, number % 5])
    return tmp_path


def packing(folder: Path, on_error: str) -> Packing:
    data = TableData(
        images=str(folder / "photographs ü"), labels=str(folder / "labels.csv"), image_size=32
    )
    source = read_label_source(data, cache=folder / "cache", on_error=on_error)
    return Packing(
        source=source,
        preparation=PreparationConfig(),
        image_size=32,
        folder=folder / "shards",
        on_error=on_error,
        workers=2,
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_what_is_readable_is_packed_and_the_rest_named_with_its_reason(folder: Path) -> None:
    manifest = pack(packing(folder, "skip"))
    assert (manifest.records, manifest.rejected) == (len(READABLE), len(UNREADABLE))
    kept = [row["name"] for row in rows(folder / "shards" / "records.csv")]
    assert kept == [Path(name).stem for name in READABLE]
    reasons = {row["name"]: row["reason"] for row in rows(folder / "shards" / "rejected.csv")}
    assert set(reasons) == {Path(name).stem for name in UNREADABLE}
    for name, (_, reason) in UNREADABLE.items():
        assert reason in reasons[Path(name).stem]


def test_the_first_that_cannot_be_read_stops_a_strict_preparation(folder: Path) -> None:
    with pytest.raises(ValueError, match="nothing: the file is empty"):
        pack(packing(folder, "fail"))
