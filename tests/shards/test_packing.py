"""Packing: from a label source to shards, whatever interrupts it."""

import csv
import dataclasses
import errno
import fcntl
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from dr.config import PreparationConfig
from dr.digests import digest_of_file
from dr.fundus.preparation import prepare_photograph
from dr.shards.index import index_path
from dr.shards.labels import LabelSource
from dr.shards.manifest import Manifest, read_manifest
from dr.shards.opening import open_shards
from dr.shards.packing import Packing, pack, shard_files

SETTINGS = PreparationConfig(decode="full", crop="none", filter="none")
PATIENTS = 5


def photograph(seed: int, *, brightness: int = 120) -> bytes:
    random = np.random.default_rng(seed)
    image = np.zeros((48, 64, 3), np.uint8)
    cv2.circle(image, (32, 24), 20, (brightness // 3, brightness // 2, brightness), -1)
    noise = random.integers(0, max(1, brightness // 8), image.shape, dtype=np.uint8)
    encoded, data = cv2.imencode(".png", np.where(image > 0, image + noise, image))
    assert encoded
    return bytes(data)


@dataclass(frozen=True)
class Photographs:
    """Bytes a row; an exception instead is raised, once for a KeyboardInterrupt."""

    items: list[bytes | BaseException | None]

    def read(self, row: int) -> bytes:
        item = self.items[row]
        if isinstance(item, KeyboardInterrupt):
            self.items[row] = photograph(row)
        if isinstance(item, BaseException):
            raise item
        assert item is not None
        return item

    def fingerprints(self) -> Iterator[str]:
        for row, item in enumerate(self.items):
            yield str(item if isinstance(item, bytes) else photograph(row))


def source_of(
    replaced: dict[int, bytes | BaseException | None] | None = None, **columns: Sequence[object]
) -> LabelSource:
    rows = 2 * PATIENTS
    items: list[bytes | BaseException | None] = [photograph(row) for row in range(rows)]
    for row, item in (replaced or {}).items():
        items[row] = item
    table = pd.DataFrame(
        {
            "name": [f"{10 + r // 2}_{'right' if r % 2 else 'left'}" for r in range(rows)],
            "patient": [str(10 + r // 2) for r in range(rows)],
            "side": np.arange(rows, dtype=np.int64) % 2,
            "label": np.arange(rows, dtype=np.int64) % 5,
        }
    ).assign(**columns)
    missing = tuple(row for row, item in enumerate(items) if item is None)
    return LabelSource(table, "table", (), missing, Photographs(items))


def packing_of(folder: Path, source: LabelSource | None = None, **options: Any) -> Packing:
    options = {"preparation": SETTINGS, "image_size": 32, "rows_a_shard": 4, **options}
    return Packing(source=source or source_of(), folder=folder, workers=1, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_shard_is_a_fixed_slice_of_the_table(tmp_path: Path) -> None:
    manifest = pack(packing_of(tmp_path / "shards"))
    assert sorted(content(tmp_path / "shards")) == [
        "manifest.json",
        "records.csv",
        "signatures.npy",
        "train00-4.tfindex",
        "train00-4.tfrec",
        "train01-4.tfindex",
        "train01-4.tfrec",
        "train02-2.tfindex",
        "train02-2.tfrec",
    ]
    assert (manifest.records, manifest.rejected) == (10, 0)
    assert manifest.label_counts == [2, 2, 2, 2, 2]
    assert [shard.records for shard in manifest.shards] == [4, 4, 2]


def test_records_hold_the_prepared_photographs_and_the_table(tmp_path: Path) -> None:
    source = source_of()
    pack(packing_of(tmp_path, source))
    shards = open_shards(tmp_path)
    for row, entry in enumerate(source.table.to_dict("records")):
        record = shards.read(row)
        expected = prepare_photograph(source.read(row), settings=SETTINGS, image_size=32)
        assert record.image == expected.jpeg
        assert record.patient_id == int(entry["patient"])
        assert {key: getattr(record, key) for key in entry} == entry
        assert {key: shards.table.iloc[row][key] for key in entry} == entry


def test_the_manifest_holds_the_digests_of_the_files(tmp_path: Path) -> None:
    source = source_of()
    manifest = pack(packing_of(tmp_path, source))
    assert manifest == read_manifest(tmp_path)
    assert manifest.source == source.digest()
    assert manifest.records_sha256 == digest_of_file(tmp_path / "records.csv")
    for shard in manifest.shards:
        assert shard.sha256 == digest_of_file(tmp_path / shard.file)


def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    for workers in (1, 3):
        packing = dataclasses.replace(packing_of(tmp_path / str(workers)), workers=workers)
        pack(packing)
    assert content(tmp_path / "1") == content(tmp_path / "3")


def test_extra_columns_survive(tmp_path: Path) -> None:
    notes = ['a,"b"', "é\nß", "\r", "", "NA", "007", " x ", "1e5", "None", "-"]
    pack(packing_of(tmp_path, source_of(note=notes, fold=list("0123401234"))))
    table = open_shards(tmp_path).table
    assert table["note"].tolist() == notes
    assert table["fold"].tolist() == list("0123401234")


def test_a_column_that_records_csv_has_itself_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    with pytest.raises(ValueError, match="column 'flags'"):
        pack(packing_of(folder, source_of(flags=["x"] * 10)))
    assert not folder.exists()


def test_a_nearly_black_photograph_is_kept_and_flagged(tmp_path: Path) -> None:
    black = photograph(3, brightness=2)
    manifest = pack(packing_of(tmp_path, source_of({3: black})))
    entries = table_of(tmp_path / "records.csv")
    assert manifest.records == 10
    assert [entry["flags"] for entry in entries] == [
        "nearly_black" if r == 3 else "" for r in range(10)
    ]
    assert float(entries[3]["brightness"]) < 10 < float(entries[2]["brightness"])


BROKEN = {1: b"no photograph", 2: photograph(2)[:200], 4: OSError(5, "Input/output error"), 5: None}


def test_skipping_leaves_out_what_cannot_be_read(tmp_path: Path) -> None:
    manifest = pack(packing_of(tmp_path, source_of(dict(BROKEN)), on_error="skip"))
    assert (manifest.records, manifest.rejected) == (6, 4)
    assert [path.name for path in shard_files(tmp_path)] == [
        "train00-2.tfrec",
        "train01-2.tfrec",
        "train02-2.tfrec",
    ]
    rejected = table_of(tmp_path / "rejected.csv")
    names = ["10_right", "11_left", "12_left", "12_right"]
    assert [entry["name"] for entry in rejected] == names
    assert "Input/output error" in rejected[2]["reason"]
    assert rejected[3]["reason"] == "there is no such photograph"
    kept = table_of(tmp_path / "records.csv")
    assert [entry["row"] for entry in kept] == ["0", "3", "6", "7", "8", "9"]
    shards = open_shards(tmp_path)
    assert [shards.read(n).name for n in range(6)] == [entry["name"] for entry in kept]


@pytest.mark.parametrize(("row", "name"), [(1, "10_right"), (4, "12_left"), (5, "12_right")])
def test_failing_names_the_photograph(tmp_path: Path, row: int, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: .*on_error=skip"):
        pack(packing_of(tmp_path, source_of({row: BROKEN[row]})))
    assert read_manifest(tmp_path) is None
    with pytest.raises(ValueError, match=r"unfinished|did not finish"):
        open_shards(tmp_path)


def test_after_a_failure_skipping_goes_on(tmp_path: Path) -> None:
    source = source_of({6: b"no photograph"})
    with pytest.raises(ValueError, match="13_left"):
        pack(packing_of(tmp_path / "one", source))
    pack(packing_of(tmp_path / "one", source, on_error="skip"))
    pack(packing_of(tmp_path / "other", source, on_error="skip"))
    assert content(tmp_path / "one") == content(tmp_path / "other")


def test_shards_with_rejected_photographs_are_not_taken_for_whole(tmp_path: Path) -> None:
    source = source_of({6: b"no photograph"})
    packing = packing_of(tmp_path, source, on_error="skip")
    assert pack(packing) == pack(packing)
    with pytest.raises(ValueError, match=r"without 1 photographs .* on_error=skip"):
        pack(packing_of(tmp_path, source))


def test_a_slice_of_which_nothing_survives_has_no_shard(tmp_path: Path) -> None:
    source = source_of(dict.fromkeys(range(4, 8), b""))
    manifest = pack(packing_of(tmp_path, source, on_error="skip"))
    assert [shard.file for shard in manifest.shards] == ["train00-4.tfrec", "train02-2.tfrec"]
    assert len(open_shards(tmp_path)) == 6


def test_nothing_that_survives_is_refused(tmp_path: Path) -> None:
    source = source_of(dict.fromkeys(range(10), b""))
    with pytest.raises(ValueError, match="none of 10 photographs could be read"):
        pack(packing_of(tmp_path, source, on_error="skip"))
    assert read_manifest(tmp_path) is None


def test_an_unlabelled_photograph_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    with pytest.raises(ValueError, match="11_left: has no label"):
        pack(packing_of(folder, source_of(label=[0, 1, -1, 3, 4, 0, 1, 2, 3, 4])))
    assert not folder.exists()


@pytest.mark.parametrize("row", [0, 2, 4, 7, 9])
def test_an_interrupted_preparation_goes_on(tmp_path: Path, row: int) -> None:
    source = source_of({row: KeyboardInterrupt()})
    packing = packing_of(tmp_path / "one", source)
    with pytest.raises(KeyboardInterrupt):
        pack(packing)
    done = {path: path.stat().st_mtime_ns for path in shard_files(packing.folder)}
    assert len(done) == row // 4
    counts: list[int] = []
    pack(packing, progress=counts.append)
    assert sum(counts) == 10
    assert {path: path.stat().st_mtime_ns for path in done} == done
    pack(packing_of(tmp_path / "other"))
    assert content(tmp_path / "one") == content(tmp_path / "other")


@pytest.mark.parametrize(
    "step",
    [
        "packing.write_index",
        "packing.digest_of_file",
        "packing.write_json",
        "packing.write_signatures",
        "finishing.write_csv",
        "finishing.find_duplicates",
        "finishing.write_manifest",
        "packing._sweep",
    ],
)
def test_an_interruption_between_two_files_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    packing = packing_of(tmp_path / "one")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"dr.shards.{step}", interrupt)
        pack(packing)
    pack(packing)
    pack(packing_of(tmp_path / "other"))
    assert content(tmp_path / "one") == content(tmp_path / "other")


def test_what_a_killed_preparation_leaves_is_cleared_away(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    with pytest.raises(KeyboardInterrupt):
        pack(packing_of(folder, source_of({5: KeyboardInterrupt()})))
    (folder / ".train01.host-123.tmp").write_bytes(b"half a shard")
    (folder / "train01-3.tfrec").write_bytes(b"a shard without its note")
    (folder / ".slice00.json.123.tmp").write_bytes(b"{")
    pack(packing_of(folder))
    pack(packing_of(tmp_path / "other"))
    assert content(folder) == content(tmp_path / "other")


def test_what_is_prepared_already_is_left_as_it_is(tmp_path: Path) -> None:
    first = pack(packing_of(tmp_path))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    counts: list[int] = []
    assert pack(packing_of(tmp_path), progress=counts.append) == first
    assert counts == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


OTHERS = [
    ({"preparation": dataclasses.replace(SETTINGS, jpeg_quality=80)}, "settings"),
    ({"image_size": 40}, "settings"),
    ({"source": source_of({1: photograph(99)})}, "photographs or labels"),
    ({"source": source_of(label=[4, 1, 2, 3, 4, 0, 1, 2, 3, 4])}, "photographs or labels"),
]


@pytest.mark.parametrize(("other", "what"), OTHERS)
def test_a_folder_of_other_shards_is_refused(
    tmp_path: Path, other: dict[str, Any], what: str
) -> None:
    pack(packing_of(tmp_path))
    before = content(tmp_path)
    with pytest.raises(ValueError, match=f"holds shards of other {what}"):
        pack(packing_of(tmp_path, **other))
    assert content(tmp_path) == before


@pytest.mark.parametrize(("other", "what"), OTHERS)
def test_an_unfinished_preparation_of_others_is_refused(
    tmp_path: Path, other: dict[str, Any], what: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        pack(packing_of(tmp_path, source_of({5: KeyboardInterrupt()})))
    before = content(tmp_path)
    with pytest.raises(ValueError, match="unfinished preparation of other photographs or settings"):
        pack(packing_of(tmp_path, **other))
    assert content(tmp_path) == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"is not empty and holds no manifest\.json"):
        pack(packing_of(tmp_path))
    assert content(tmp_path) == {"thesis.tex": b"x"}


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shards").touch()
    with pytest.raises(ValueError, match=r"shards=.*cannot be written"):
        pack(packing_of(tmp_path / "shards"))


@pytest.mark.parametrize(
    ("patients", "numbers"),
    [
        (["p7", "p10", "p9", "p8", "p1"], [7, 10, 9, 8, 1]),
        (["b", "a", "c", "e", "d"], [1, 0, 2, 4, 3]),
        (["7", "07", "1", "2", "3"], [4, 0, 1, 2, 3]),
        (["1-2", "1-1", "3", "4", "5"], [1, 0, 2, 3, 4]),
        ([str(2**63), "1", "2", "3", "4"], [4, 0, 1, 2, 3]),
    ],
)
def test_patients_are_numbered_by_name_or_else_by_rank(
    tmp_path: Path, patients: list[str], numbers: list[int]
) -> None:
    doubled = [patient for patient in patients for _ in "lr"]
    pack(packing_of(tmp_path, source_of(patient=doubled)))
    shards = open_shards(tmp_path)
    found = [shards.read(number).patient_id for number in range(10)]
    assert found == [number for number in numbers for _ in "lr"]


def pack_in_a_process(folder: Path, queue: Any) -> None:
    queue.put(json.dumps(dataclasses.asdict(pack(packing_of(folder)))))


def test_two_processes_prepare_into_one_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    folder = tmp_path / "one"
    processes = [context.Process(target=pack_in_a_process, args=(folder, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    found = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(found) == 1
    pack(packing_of(tmp_path / "other"))
    assert content(folder) == content(tmp_path / "other")


def part_of(folder: Path, part: int, parts: int = 3, **options: Any) -> Packing:
    return dataclasses.replace(packing_of(folder, **options), part=part, parts=parts)


@pytest.mark.parametrize(("order", "parts"), [([0, 1, 2], 3), ([2, 0, 1], 3), ([1, 0], 2)])
def test_parts_together_equal_one_preparation(tmp_path: Path, order: list[int], parts: int) -> None:
    source = source_of({3: photograph(8), 6: b"no photograph"}, fold=list("0123401234"))
    options: dict[str, Any] = {"source": source, "on_error": "skip"}
    *first, last = [part_of(tmp_path / "parts", part, parts, **options) for part in order]
    counts: list[int] = []
    assert [pack(packing, progress=counts.append) for packing in first] == [None] * len(first)
    assert read_manifest(tmp_path / "parts") is None
    with pytest.raises(ValueError, match="did not finish"):
        open_shards(tmp_path / "parts")
    manifest = pack(last, progress=counts.append)
    assert manifest == pack(packing_of(tmp_path / "whole", **options))
    assert manifest is not None
    assert manifest.duplicates == {"bytes": 1, "picture": 0, "patients": 2}
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert sum(counts) == 10


def test_a_run_without_parts_does_what_other_parts_left(tmp_path: Path) -> None:
    assert pack(part_of(tmp_path / "one", 1)) is None
    shard = tmp_path / "one" / "train01-4.tfrec"
    before = shard.stat().st_mtime_ns
    assert pack(part_of(tmp_path / "one", 1)) is None
    pack(packing_of(tmp_path / "one"))
    assert shard.stat().st_mtime_ns == before
    pack(packing_of(tmp_path / "other"))
    assert content(tmp_path / "one") == content(tmp_path / "other")


def test_a_shard_that_went_missing_meanwhile_is_made_again(tmp_path: Path) -> None:
    assert pack(part_of(tmp_path / "one", 1)) is None
    (tmp_path / "one" / "train01-4.tfrec").unlink()
    pack(packing_of(tmp_path / "one"))
    pack(packing_of(tmp_path / "other"))
    assert content(tmp_path / "one") == content(tmp_path / "other")


def test_parts_of_different_numbers_go_together(tmp_path: Path) -> None:
    assert pack(part_of(tmp_path / "one", 0, 2)) is None
    assert pack(part_of(tmp_path / "one", 1, 3)) is not None
    pack(packing_of(tmp_path / "other"))
    assert content(tmp_path / "one") == content(tmp_path / "other")


def test_more_parts_than_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"parts=4: 10 rows make 3 shards .* set parts=3 or fewer"):
        pack(part_of(tmp_path / "one", 0, 4))
    assert not (tmp_path / "one").exists()


def test_a_failing_part_leaves_the_others_unharmed(tmp_path: Path) -> None:
    source = source_of({5: b"no photograph"})
    with pytest.raises(ValueError, match="12_right"):
        pack(part_of(tmp_path / "one", 1, source=source))
    assert pack(part_of(tmp_path / "one", 0, source=source)) is None
    assert pack(part_of(tmp_path / "one", 2, source=source)) is None
    pack(part_of(tmp_path / "one", 1, source=source, on_error="skip"))
    pack(packing_of(tmp_path / "other", source, on_error="skip"))
    assert content(tmp_path / "one") == content(tmp_path / "other")


def pack_part(folder: Path, part: int, unlocked: bool) -> None:
    if unlocked:
        fcntl.flock = no_locks
    pack(part_of(folder, part))


def no_locks(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("unlocked", [False, True])
def test_parts_that_run_at_once_and_twice_equal_one_preparation(
    tmp_path: Path, unlocked: bool
) -> None:
    context = multiprocessing.get_context("fork")
    folder = tmp_path / "one"
    processes = [
        context.Process(target=pack_part, args=(folder, part % 3, unlocked)) for part in range(6)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    if not unlocked:
        assert [process.exitcode for process in processes] == [0] * 6
    pack(packing_of(folder))
    pack(packing_of(tmp_path / "other"))
    assert contents_but_notes(folder) == content(tmp_path / "other")
    assert unlocked or contents_but_notes(folder) == content(folder)


def contents_but_notes(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in content(folder).items() if not name.startswith(".")}


def test_shards_are_found_by_number(tmp_path: Path) -> None:
    for name in ("train100-1", "train02-1", "train11-1", "test00-1", "train00-", "train-1"):
        (tmp_path / f"{name}.tfrec").touch()
        index_path(tmp_path / f"{name}.tfrec").touch()
    names = ["train02-1.tfrec", "train11-1.tfrec", "train100-1.tfrec"]
    assert [path.name for path in shard_files(tmp_path)] == names


def test_manifests_differ_with_the_content_alone(tmp_path: Path) -> None:
    def packed(name: str, **options: Any) -> Manifest:
        return pack(packing_of(tmp_path / name, **options))

    first = packed("a")
    assert packed("b").digest == first.digest
    assert packed("c", source=source_of({1: photograph(99)})).digest != first.digest
    assert packed("d", source=source_of(fold=list("0123401234"))).digest != first.digest
