"""Reading shards: this project's, the seed's, and all that can be wrong with them."""

import json
import os
import pickle
import resource
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr.config import PreparationConfig
from dr.digests import digest_of_file
from dr.shards.index import index_path, write_index
from dr.shards.manifest import MANIFEST, Manifest, ShardFile, write_manifest
from dr.shards.opening import open_shards
from dr.shards.records import CorruptRecord, Record, encode_example, write_frame
from dr.shards.shard_set import ShardSet

COUNTS = (3, 2)


def jpeg(size: int = 32, seed: int = 0) -> bytes:
    image = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    encoded, data = cv2.imencode(".jpg", image)
    assert encoded
    return bytes(data)


RECORDS = [
    Record(jpeg(seed=n), 10 + n // 2, n % 2, n, f"{10 + n // 2}_{'lr'[n % 2]}", str(10 + n // 2))
    for n in range(sum(COUNTS))
]


def write_shard(path: Path, records: Sequence[Record]) -> None:
    with path.open("wb") as file:
        for record in records:
            write_frame(file, encode_example(record))
    write_index(path)


def write_shards(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    write_shard(folder / "train00-3.tfrec", RECORDS[:3])
    write_shard(folder / "train01-2.tfrec", RECORDS[3:])
    table = pd.DataFrame([{k: v for k, v in vars(r).items() if k != "image"} for r in RECORDS])
    table.assign(row=range(5), fold=list("01010")).to_csv(folder / "records.csv", index=False)
    shards = [
        ShardFile(file=path.name, records=count, sha256=digest_of_file(path))
        for path, count in zip(sorted(folder.glob("*.tfrec")), COUNTS, strict=True)
    ]
    manifest = Manifest(
        kind="table",
        source="a",
        recipe="b",
        preparation=PreparationConfig(),
        image_size=32,
        records=5,
        rejected=0,
        label_counts=[1] * 5,
        flagged={},
        shards=shards,
        records_sha256=digest_of_file(folder / "records.csv"),
        digest="f",
    )
    write_manifest(folder, manifest)
    return folder


def write_seed_shard(path: Path, rows: Sequence[tuple[int, int, int]], *, size: int = 48) -> None:
    """A shard as the seed wrote it: image, patient_id, side and label, nothing else."""
    from tfrecord.writer import TFRecordWriter

    writer = TFRecordWriter(str(path))
    for patient, side, label in rows:
        image = (jpeg(size), "byte")
        ids = {"patient_id": (patient, "int"), "side": (side, "int")}
        writer.write({"image": image, **ids, "label": (label, "int")})
    writer.close()


def test_every_record_is_read_in_any_order(tmp_path: Path) -> None:
    shards = open_shards(write_shards(tmp_path))
    assert len(shards) == 5
    assert [shards.read(number) for number in (4, 0, 3, 1, 2)] == [
        RECORDS[number] for number in (4, 0, 3, 1, 2)
    ]
    assert shards.table["label"].tolist() == [0, 1, 2, 3, 4]
    assert shards.table["fold"].tolist() == list("01010")
    assert (shards.image_size, shards.digest) == (32, "f")


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    shards = open_shards(write_shards(tmp_path))
    numbers = np.random.default_rng(0).integers(0, 5, 300).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(shards.read, numbers))
    assert found == [RECORDS[number] for number in numbers]


def test_it_is_read_after_pickling_and_closing(tmp_path: Path) -> None:
    shards = open_shards(write_shards(tmp_path))
    shards.read(0)
    copy: ShardSet = pickle.loads(pickle.dumps(shards))
    shards.close()
    assert copy.read(4) == shards.read(4) == RECORDS[4]


def test_closing_gives_the_descriptors_back(tmp_path: Path) -> None:
    shards = open_shards(write_shards(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        shards.read(number)
    assert len(os.listdir("/proc/self/fd")) == before + 2
    shards.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("original"))


@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found_and_named(original: Path, share: float, bit: int) -> None:
    path = original / "train01-2.tfrec"
    whole = path.read_bytes()
    place = int(share * len(whole))
    shards = open_shards(original)
    first = int(shards.length[3])
    number, offset = (3, 0) if place < first else (4, first)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes([whole[place] ^ 1 << bit]))
    try:
        with pytest.raises(CorruptRecord) as error:
            shards.read(number)
        place = f"{path}: record {number - 3} ({number} of all), at byte {offset}"
        assert str(error.value).startswith(f"{place}: the CRC")
        assert shards.read(7 - number) == RECORDS[7 - number]
        assert shards.read(0) == RECORDS[0]
    finally:
        path.write_bytes(whole)
        shards.close()


def test_a_cut_shard_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path)
    path = tmp_path / "train01-2.tfrec"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ValueError, match=r"train01-2\.tfrec: record 1, at byte \d+: .* cut off"):
        open_shards(tmp_path)


def test_a_cut_shard_with_an_index_made_afterwards_is_found_in_reading(tmp_path: Path) -> None:
    write_shards(tmp_path)
    path = tmp_path / "train01-2.tfrec"
    first = len(encode_example(RECORDS[3])) + 16
    os.truncate(path, path.stat().st_size - 9)
    rest = path.stat().st_size - first
    index_path(path).write_text(f"0 {first}\n{first} {rest}\n")
    shards = open_shards(tmp_path)
    with pytest.raises(CorruptRecord, match=r"record 1 \(4 of all\), at byte \d+: .* cut off"):
        shards.read(4)


def test_a_shard_that_lacks_a_record_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path)
    write_shard(tmp_path / "train00-3.tfrec", RECORDS[:2])
    with pytest.raises(ValueError, match="holds 2 records, and 3 are expected"):
        open_shards(tmp_path)


def test_a_missing_or_stale_index_does_not_matter(tmp_path: Path) -> None:
    write_shards(tmp_path)
    index_path(tmp_path / "train00-3.tfrec").unlink()
    shutil.copy(index_path(tmp_path / "train01-2.tfrec"), index_path(tmp_path / "train00-3.tfrec"))
    index_path(tmp_path / "train01-2.tfrec").unlink()
    shards = open_shards(tmp_path)
    assert [shards.read(number) for number in range(5)] == RECORDS


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def append(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write("5,10,3,x,y,0\n")

    return change


def make_later(folder: Path) -> None:
    values = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**values, "schema_version": 2}))


def set_manifest(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        values = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({**values, **changes}))

    return change


def set_shard(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        first, *rest = json.loads((folder / MANIFEST).read_text())["shards"]
        set_manifest(shards=[{**first, **changes}, *rest])(folder)

    return change


def set_table(text: str) -> Callable[[Path], None]:
    """Another table that the manifest knows."""

    def change(folder: Path) -> None:
        (folder / "records.csv").write_text(text)
        set_manifest(records_sha256=digest_of_file(folder / "records.csv"))(folder)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (remove("train01-2.tfrec"), r"train01-2\.tfrec: is missing"),
        (remove("records.csv"), r"records\.csv: is missing or changed"),
        (append("records.csv"), r"records\.csv: is missing or changed"),
        (make_later, "schema_version is 2, this version reads 1"),
        (set_manifest(shards=[]), r"manifest\.json: names or counts in it cannot be"),
        (set_manifest(records="5"), r"manifest\.json: names or counts in it cannot be"),
        (set_manifest(image_size=-1), r"manifest\.json: names or counts in it cannot be"),
        (set_shard(file="../train00-3.tfrec"), r"manifest\.json: names or counts"),
        (set_shard(file=7), r"manifest\.json: names or counts"),
        (set_shard(records=2**70), r"manifest\.json: names or counts"),
        (set_shard(records=True), r"manifest\.json: names or counts"),
        (set_table("row,name,patient,side\n0,a,b,0\n"), r"records\.csv: has no column label"),
        (set_table("name,patient,side,label\na,b,0,x\n"), r"records\.csv: cannot be read"),
        (set_table("name,patient,side,label\na,b,0,1\n"), r"has 1 rows, and the shards hold 5"),
        (set_table(""), r"records\.csv: cannot be read"),
        (set_table("name,patient,side,label\na,b,0,5\n"), r"record 0 \(a\) has label 5"),
    ],
)
def test_a_changed_folder_is_refused(
    tmp_path: Path, change: Callable[[Path], None], reason: str
) -> None:
    change(write_shards(tmp_path))
    with pytest.raises(ValueError, match=reason):
        open_shards(tmp_path)


def test_the_seeds_shards_are_read(tmp_path: Path) -> None:
    write_seed_shard(tmp_path / "train00-3.tfrec", [(10, 0, 2), (10, 1, 3), (9, 1, 0)])
    write_seed_shard(tmp_path / "train01-1.tfrec", [(13, 0, 4)])
    write_seed_shard(tmp_path / "test00-1.tfrec", [(99, 0, 0)])
    shards = open_shards(tmp_path)
    assert shards.table.to_dict("list") == {
        "name": ["10_left", "10_right", "9_right", "13_left"],
        "patient": ["10", "10", "9", "13"],
        "side": [0, 1, 1, 0],
        "label": [2, 3, 0, 4],
    }
    assert shards.read(3) == Record(jpeg(48), 13, 0, 4)
    assert (shards.image_size, shards.manifest) == (48, None)


def test_the_digest_of_shards_without_manifest_names_their_content(tmp_path: Path) -> None:
    digests = []
    for name, label in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        write_seed_shard(tmp_path / name / "train00-1.tfrec", [(1, 0, label)])
        digests.append(open_shards(tmp_path / name).digest)
    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0]) == 64


def test_own_shards_without_manifest_keep_their_names(tmp_path: Path) -> None:
    write_shard(tmp_path / "train00-3.tfrec", RECORDS[:3])
    table = open_shards(tmp_path).table
    assert table["name"].tolist() == [record.name for record in RECORDS[:3]]
    assert table["patient"].tolist() == [record.patient for record in RECORDS[:3]]


def test_records_of_unknown_patients_are_patients_of_their_own(tmp_path: Path) -> None:
    write_shard(tmp_path / "train00-2.tfrec", [Record(jpeg(), -1, -1, n) for n in range(2)])
    table = open_shards(tmp_path).table
    assert table["name"].tolist() == table["patient"].tolist() == ["record0", "record1"]


def test_a_count_in_the_name_that_disagrees_is_refused(tmp_path: Path) -> None:
    write_seed_shard(tmp_path / "train00-4.tfrec", [(1, 0, 0), (1, 1, 0), (2, 0, 0)])
    with pytest.raises(ValueError, match=r"train00-4\.tfrec: holds 3 records, and 4 are expected"):
        open_shards(tmp_path)


@pytest.mark.parametrize("label", [5, -1, -7, 2**40])
def test_a_label_out_of_range_is_refused(tmp_path: Path, label: int) -> None:
    write_seed_shard(tmp_path / "train00-2.tfrec", [(1, 0, 0), (1, 1, label)])
    with pytest.raises(ValueError, match=rf"record 1 \(1_right\) has label {label}"):
        open_shards(tmp_path)


def test_a_shard_without_labels_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "train00-1.tfrec", [Record(jpeg(), 1, 0, -1)])
    with pytest.raises(ValueError, match="has label -1; grades are 0 to 4"):
        open_shards(tmp_path)


def test_shards_of_no_record_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train00-0.tfrec").touch()
    with pytest.raises(ValueError, match="hold no record"):
        open_shards(tmp_path)


@pytest.mark.parametrize("image", [b"text", b"", b"\x89PNG\r\n\x1a\n"])
def test_a_shard_of_other_than_jpegs_is_refused(tmp_path: Path, image: bytes) -> None:
    write_shard(tmp_path / "train00-2.tfrec", [RECORDS[0], Record(image, 1, 0, 1)])
    begins = image[:4].hex(" ") or "nothing"
    with pytest.raises(ValueError, match=rf"train00-2\.tfrec: record 1, .* begins with {begins}"):
        open_shards(tmp_path)


def test_a_first_picture_without_size_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "train00-1.tfrec", [Record(b"\xff\xd8\xff\xd9", 1, 0, 1)])
    with pytest.raises(ValueError, match=r"train00-1\.tfrec: record 0, .* JPEG is damaged"):
        open_shards(tmp_path)


def test_measured_columns_are_numbers_and_others_text(tmp_path: Path) -> None:
    write_shards(tmp_path)
    table = "row,name,patient,side,label,brightness,fold,note\n"
    table += "".join(f"{n},{RECORDS[n].name},p,0,{n},1.25,0{n},NA\n" for n in range(5))
    set_table(table)(tmp_path)
    opened = open_shards(tmp_path).table
    assert opened["brightness"].tolist() == [1.25] * 5
    assert opened["fold"].tolist() == [f"0{n}" for n in range(5)]
    assert opened["note"].tolist() == ["NA"] * 5
    assert opened["side"].dtype == opened["label"].dtype == np.int64


def test_no_folder_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shards=.*/none: there is no such folder"):
        open_shards(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no train\*\.tfrec"):
        open_shards(tmp_path)


def test_an_unfinished_preparation_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".preparing.json").write_text("{}")
    with pytest.raises(ValueError, match="unfinished"):
        open_shards(tmp_path)
    write_seed_shard(tmp_path / "train00-1.tfrec", [(1, 0, 0)])
    with pytest.raises(ValueError, match="did not finish; run it again"):
        open_shards(tmp_path)


def test_more_shards_than_files_may_be_open_are_read(tmp_path: Path) -> None:
    count = 80
    for number in range(count):
        write_seed_shard(tmp_path / f"train{number:02d}-1.tfrec", [(number, 0, number % 5)])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, before[1]))
    try:
        shards = open_shards(tmp_path)
        assert [shards.read(number).patient_id for number in range(count)] == list(range(count))
        shards.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
