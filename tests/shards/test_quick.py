"""Pictures read without a copy are those that parsing the whole record gives, or are refused."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr.shards.opening import open_shards
from dr.shards.quick import MappedFile, image_and_name
from dr.shards.records import CorruptRecord, Record, decode_example, encode_example

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(
    image=st.binary(max_size=400),
    label=st.integers(-1, 4),
    name=texts,
    patient=texts,
    side=st.integers(-1, 1),
)
def test_any_record_of_this_project_is_found(
    image: bytes, label: int, name: str, patient: str, side: int
) -> None:
    record = Record(image, 7, side, label, name, patient)
    example = encode_example(record)
    found = image_and_name(memoryview(example))
    whole = decode_example(example)
    assert found is not None
    assert (bytes(found[0]), found[1]) == (whole.image, whole.name)


@given(data=st.data())
def test_what_parses_otherwise_is_not_taken_for_a_record(data: st.DataObject) -> None:
    example = bytearray(encode_example(Record(b"\xff\xd8" * 9, 1, 0, 2, "1_left", "1")))
    place = data.draw(st.integers(0, 40))
    example[place] = data.draw(st.integers(0, 255))
    found = image_and_name(memoryview(example))
    try:
        whole = decode_example(bytes(example))
    except CorruptRecord:
        return
    assert found is None or (bytes(found[0]), found[1]) == (whole.image, whole.name)


def test_the_pictures_of_a_set_are_those_of_its_records(tiny_shards: Path) -> None:
    shards = open_shards(tiny_shards)
    for record in range(len(shards)):
        assert bytes(shards.read_image(record)) == shards.read(record).image


@pytest.mark.parametrize("place", [0, 9, 14, 200, -1])
def test_a_flipped_byte_is_named(tiny_shards: Path, tmp_path: Path, place: int) -> None:
    shutil.copytree(tiny_shards, tmp_path / "s")
    shards = open_shards(tmp_path / "s")
    path, offset = shards.files[0], int(shards.offset[5])
    data = bytearray(path.read_bytes())
    data[offset + place if place >= 0 else offset + int(shards.length[5]) - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptRecord, match=rf"{path.name}: record 5, at byte {offset}"):
        shards.read_image(5)
    assert bytes(shards.read_image(6)) == shards.read(6).image


def test_a_shard_cut_off_while_it_is_read_is_named(tiny_shards: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_shards, tmp_path / "s")
    shards = open_shards(tmp_path / "s")
    last = len(shards) - 1
    assert shards.read_image(last)
    os.truncate(shards.files[0], int(shards.offset[last]) + 100)
    with pytest.raises(CorruptRecord, match=f"record {last}"):
        shards.read_image(last)
    os.truncate(shards.files[0], 0)
    with pytest.raises(CorruptRecord, match="record 0"):
        shards.read_image(0)


def test_a_closed_set_opens_its_files_again(tiny_shards: Path) -> None:
    shards = open_shards(tiny_shards)
    before = bytes(shards.read_image(0))
    shards.close()
    assert bytes(shards.read_image(0)) == before


def test_a_part_ends_where_the_file_ends(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    with (tmp_path / "f").open("rb") as file:
        mapped = MappedFile(file.fileno())
    assert bytes(mapped.part(2, 3)) == b"234"
    assert bytes(mapped.part(8, 9)) == b"89"
    assert bytes(mapped.part(20, 9)) == b""
