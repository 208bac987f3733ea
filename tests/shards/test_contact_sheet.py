"""The contact sheet: which records, and what stands where on it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from dr.shards.contact_sheet import TILE, _shortened, choose_records, draw_contact_sheet
from dr.shards.opening import open_shards
from dr.shards.verification import FoundRecord, verify_shards


@pytest.fixture(scope="module")
def found(packed: Path) -> list[FoundRecord]:
    return verify_shards(packed).records


def tiles(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_records_are_drawn_by_the_seed_each_once() -> None:
    first = choose_records(100, wanted=20, seed=1)
    assert len(set(first.tolist())) == 20
    assert first.tolist() == sorted(first.tolist())
    assert first.min() >= 0 and first.max() < 100
    assert np.array_equal(first, choose_records(100, wanted=20, seed=1))
    assert not np.array_equal(first, choose_records(100, wanted=20, seed=2))
    assert choose_records(5, wanted=40, seed=0).tolist() == [0, 1, 2, 3, 4]


def test_each_picture_stands_where_its_record_does(
    packed: Path, found: list[FoundRecord], tmp_path: Path
) -> None:
    import simplejpeg

    numbers = [7, 30, 55]
    draw_contact_sheet([found[number] for number in numbers], tmp_path / "sheet.png")
    sheet, shards = tiles(tmp_path / "sheet.png"), open_shards(packed)
    for place, number in enumerate(numbers):
        row, column = divmod(place, 2)
        top, left = 8 + row * (TILE + 53), 8 + column * (TILE + 8)
        shown = sheet[top : top + TILE, left : left + TILE]
        picture = simplejpeg.decode_jpeg(shards.read(number).image)
        assert np.array_equal(shown[::5, ::5][:32, :32], picture)


def test_name_grade_and_flags_are_written_below(found: list[FoundRecord], tmp_path: Path) -> None:
    from dataclasses import replace

    record = replace(found[0], flags="")
    draw_contact_sheet([record], tmp_path / "a.png")
    draw_contact_sheet([replace(record, flags="blurred")], tmp_path / "b.png")
    draw_contact_sheet([replace(record, label=3)], tmp_path / "c.png")
    bare, flagged, graded = (tiles(tmp_path / f"{name}.png") for name in "abc")
    lines = [slice(8 + TILE + 15 * line, 8 + TILE + 15 * (line + 1)) for line in range(3)]
    dark = [bool((bare[line] < 128).any()) for line in lines]
    assert dark == [True, True, False]
    assert [bool((bare[line] != flagged[line]).any()) for line in lines] == [False, False, True]
    assert [bool((bare[line] != graded[line]).any()) for line in lines] == [False, True, False]


def test_a_picture_that_cannot_be_decoded_is_gray(folder: Path, tmp_path: Path) -> None:
    records = verify_shards(folder).records
    path = folder / "train00-25.tfrec"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    draw_contact_sheet(records[:2], tmp_path / "sheet.png")
    sheet = tiles(tmp_path / "sheet.png")
    assert (sheet[8 : 8 + TILE, 8 : 8 + TILE] == 0xBB).all()
    assert not (sheet[8 : 8 + TILE, 16 + TILE : 16 + 2 * TILE] == 0xBB).all()


def test_a_long_name_is_shortened_to_the_tile() -> None:
    font = ImageFont.load_default(12)
    name = "a_very_long_name_of_a_photograph_that_goes_on_and_on_left"
    short = _shortened(name, font)
    assert short.endswith("...") and name.startswith(short[:-3])
    assert TILE - 20 < font.getlength(short) <= TILE
    assert _shortened("10_left", font) == "10_left"
