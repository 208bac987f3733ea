"""Everything that can be wrong with a folder of shards, planted and found."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from dr import inspect
from dr.checks import check_inspect
from dr.config import InspectConfig
from dr.digests import digest_of_file
from dr.shards.index import index_path, read_index
from dr.shards.manifest import DUPLICATES, MANIFEST, RECORDS, SIGNATURES
from dr.shards.records import Record, encode_example, write_frame
from dr.shards.verification import Verification, count_records, verify_shards

SECOND = "train01-25.tfrec"


def wrong(found: Verification) -> list[str]:
    """The problems, without the folder; the digests' own are told by a test of theirs."""
    assert found.wrong == len(found.problems)
    texts = [problem.replace(f"{found.folder}/", "") for problem in found.problems]
    return [text for text in texts if "SHA-256" not in text]


def flip(path: Path, *places: int) -> None:
    content = bytearray(path.read_bytes())
    for place in places:
        content[place] ^= 16
    path.write_bytes(content)


def rewrite(path: Path, change: Callable[[list[Record]], list[Record]]) -> None:
    """Write a shard anew with its index, and have the manifest know it."""
    from dr.shards.records import decode_example, open_frame

    content = path.read_bytes()
    frames = [content[start : start + length] for start, length in read_index(path)]
    records = change([decode_example(open_frame(frame)) for frame in frames])
    with path.open("wb") as file:
        for record in records:
            write_frame(file, encode_example(record))
    index_path(path).unlink()
    read_index(path)
    edit(path.parent, {"shards": with_digest(path)})


def with_digest(path: Path) -> Callable[[Any], Any]:
    digest = digest_of_file(path)
    return lambda shards: [
        {**one, "sha256": digest} if one["file"] == path.name else one for one in shards
    ]


def edit(folder: Path, changes: dict[str, Any]) -> None:
    values = json.loads((folder / MANIFEST).read_text())
    for key, change in changes.items():
        values[key] = change(values[key]) if callable(change) else change
    (folder / MANIFEST).write_text(json.dumps(values))


def test_a_good_folder_has_nothing_wrong(packed: Path) -> None:
    counted: list[int] = []
    found = verify_shards(packed, threads=2, progress=counted.append)
    assert (found.wrong, found.problems, found.notes) == (0, [], [])
    assert (len(found.records), found.shards, sum(counted)) == (60, 3, 60)
    assert found.bytes == sum(path.stat().st_size for path in packed.glob("*.tfrec"))
    table = pd.read_csv(packed / RECORDS, dtype={"patient": str})
    assert [record.name for record in found.records] == table["name"].tolist()
    assert [record.label for record in found.records] == table["label"].tolist()
    assert {record.size for record in found.records} == {(32, 32)}
    assert count_records(packed) == 60


def test_every_broken_record_is_named_with_the_index_to_go_by(folder: Path) -> None:
    path = folder / SECOND
    index = read_index(path)
    starts = index[:, 0].tolist()
    flip(path, starts[3] + 2, starts[4] + 9, starts[10] + 60, index[20].sum() - 1)
    found = verify_shards(folder)
    assert wrong(found) == [
        f"{SECOND}: record 3, at byte {starts[3]}: the CRC of its length does not match",
        f"{SECOND}: record 4, at byte {starts[4]}: the CRC of its length does not match",
        f"{SECOND}: record 10, at byte {starts[10]}: the CRC of its data does not match",
        f"{SECOND}: record 20, at byte {starts[20]}: the CRC of its data does not match",
    ]
    assert len(found.records) == 56
    assert found.problems[0] == f"{folder / SECOND}: its SHA-256 is not the manifest's; " + (
        "it was changed"
    )


def test_without_an_index_the_first_broken_length_ends_the_shard(folder: Path) -> None:
    path = folder / SECOND
    start = int(read_index(path)[3, 0])
    flip(path, start)
    index_path(path).unlink()
    found = verify_shards(folder)
    assert wrong(found) == [
        f"{SECOND}: record 3, at byte {start}: the CRC of its length does not match",
        f"{SECOND}: holds 4 records, and 25 are expected",
    ]
    assert found.notes == [f"{index_path(path)}: is missing; opening the shards writes it"]
    assert len(found.records) == 38


def test_a_cut_shard_is_named_where_it_is_cut(folder: Path) -> None:
    path = folder / SECOND
    start, length = read_index(path)[24].tolist()
    os.truncate(path, start + 50)
    assert wrong(verify_shards(folder)) == [
        f"{SECOND}: record 24, at byte {start}: the frame is cut off: "
        f"50 of {length} bytes are there"
    ]


def test_an_index_that_does_not_fit_is_named(folder: Path) -> None:
    index = read_index(folder / SECOND)
    index[0, 1] -= 1
    index[1] += [-1, 1]
    text = "".join(f"{start} {length}\n" for start, length in index)
    index_path(folder / SECOND).write_text(text)
    index_path(folder / "train00-25.tfrec").write_text("0 1\n")
    assert wrong(verify_shards(folder)) == [
        "train00-25.tfindex: does not fit the shard; delete it, opening the shards writes it anew",
        "train01-25.tfindex: does not fit the shard; delete it, opening the shards writes it anew",
    ]


def picture(size: int) -> bytes:
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return bytes(cv2.imencode(".jpg", image)[1])


def test_pictures_that_do_not_decode_are_named(folder: Path) -> None:
    damaged = picture(32)[:-40] + b"\xff\xd9"
    changes = {2: b"GIF89a", 5: picture(48), 7: damaged, 9: picture(32)[:60], 11: b""}

    def change(records: list[Record]) -> list[Record]:
        return [
            Record(**{**vars(record), "image": changes.get(number, record.image)})
            for number, record in enumerate(records)
        ]

    rewrite(folder / SECOND, change)
    found = verify_shards(folder)
    texts = [text.partition(", at byte ")[::2] for text in wrong(found)]
    assert [(place, text.partition(": ")[2].partition(" (")[0]) for place, text in texts] == [
        (f"{SECOND}: record 2", "its picture: is no JPEG, it begins with 47 49 46 38"),
        (f"{SECOND}: record 5", "its picture: has 48 x 48 pixels, and the manifest says 32"),
        (f"{SECOND}: record 7", texts[2][1].partition(": ")[2].partition(" (")[0]),
        (f"{SECOND}: record 9", texts[3][1].partition(": ")[2].partition(" (")[0]),
        (f"{SECOND}: record 11", "its picture: is no JPEG, it begins with nothing"),
    ]
    assert all("its picture: the JPEG is damaged" in text for _, text in texts[2:4])
    assert [record.size is None for record in found.records].count(True) == 5
    assert not [problem for problem in found.problems if "SHA-256" in problem]


def test_records_that_are_not_the_tables_are_named(folder: Path) -> None:
    def change(records: list[Record]) -> list[Record]:
        changed = {"label": (records[3].label + 1) % 5, "side": 1 - records[3].side}
        records[3] = Record(**{**vars(records[3]), **changed})
        records[8] = Record(**{**vars(records[8]), "name": records[9].name})
        records[12] = Record(**{**vars(records[12]), "label": 7})
        return records

    table = pd.read_csv(folder / RECORDS, dtype=str)
    rows = table.iloc[25:50].reset_index()
    rewrite(folder / SECOND, change)
    texts = [text.partition(", at byte ")[::2] for text in wrong(verify_shards(folder))]
    side, label = int(rows["side"][3]), int(rows["label"][3])
    assert [(place, text.partition(": ")[2]) for place, text in texts] == [
        (f"{SECOND}: record 3", f"its side is {1 - side}, and {side} in records.csv"),
        (f"{SECOND}: record 3", f"its label is {(label + 1) % 5}, and {label} in records.csv"),
        (
            f"{SECOND}: record 8",
            f"its name is {rows['name'][9]}, and {rows['name'][8]} in records.csv",
        ),
        (f"{SECOND}: record 12", f"its label is 7, and {rows['label'][12]} in records.csv"),
        (f"{SECOND}: record 12", "its label is 7; grades are 0 to 4"),
        (f"{folder}: 2 records have the name {rows['name'][9]}", ""),
    ]


def test_counts_and_digests_that_do_not_agree_are_named(folder: Path) -> None:
    table = pd.read_csv(folder / RECORDS, dtype=str, keep_default_na=False)
    table["flags"] = ["blurred"] + [""] * 59
    table.loc[0, "label"] = "1"
    table.to_csv(folder / RECORDS, index=False)
    edit(
        folder,
        {"records": 61, "flagged": {"blurred": 2}, "label_counts": lambda counts: [9, *counts[1:]]},
    )
    found = verify_shards(folder)
    first = found.problems[0]
    assert first == f"{folder / RECORDS}: its SHA-256 is not the manifest's; it was changed"
    assert wrong(found)[0].endswith("its label is 0, and 1 in records.csv")
    assert wrong(found)[1:] == [
        f"{folder}: records is 61 in the manifest, 60 in records.csv",
        f"{folder}: label_counts is [9, 12, 12, 12, 12] in the manifest, "
        "[11, 13, 12, 12, 12] in records.csv",
        f"{folder}: flagged is {{'blurred': 2}} in the manifest, {{'blurred': 1}} in records.csv",
        f"{folder}: the manifest counts 61 records, its shards 60",
    ]


def test_files_that_are_missing_or_unknown_are_named(folder: Path) -> None:
    (folder / SECOND).rename(folder / "train07-25.tfrec")
    (folder / RECORDS).unlink()
    found = verify_shards(folder)
    assert wrong(found) == [f"{RECORDS}: is missing", f"{SECOND}: is missing"]
    assert found.notes == [f"{folder / 'train07-25.tfrec'}: is not in the manifest, and not read"]
    assert (found.shards, len(found.records)) == (2, 35)


def test_shards_without_manifest_are_verified_by_themselves(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    missing = f"{MANIFEST}: is missing, though {RECORDS} is there"
    assert wrong(verify_shards(folder)) == [missing]
    for name in (RECORDS, SIGNATURES, DUPLICATES):
        (folder / name).unlink(missing_ok=True)
    found = verify_shards(folder)
    assert (found.wrong, len(found.records), found.manifest) == (0, 60, None)
    assert count_records(folder) == 60
    (folder / SECOND).rename(folder / "train01-24.tfrec")
    index_path(folder / SECOND).rename(folder / "train01-24.tfindex")
    assert wrong(verify_shards(folder)) == [
        "train01-24.tfrec: holds 25 records, and 24 are expected"
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: folder.rename(folder.parent / "moved"), "there is no such folder"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "manifest.json: cannot be read"),
        (lambda folder: edit(folder, {"shards": []}), "names or counts in it cannot be"),
        (lambda folder: [p.unlink() for p in folder.iterdir()], r"holds no train\*\.tfrec"),
    ],
)
def test_where_there_is_nothing_to_verify_that_is_said(
    folder: Path, change: Callable[[Path], object], reason: str
) -> None:
    change(folder)
    with pytest.raises(ValueError, match=reason):
        verify_shards(folder)
    assert count_records(folder) == 0


def test_the_door_prints_what_there_is(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    inspect.main(InspectConfig(shards=str(packed)))
    lines = capsys.readouterr().out.splitlines()
    size = sum(path.stat().st_size for path in packed.glob("*.tfrec")) / 1e6
    assert lines[0] == (
        f"{packed}: 60 records of 30 patients in 3 shards, {size:,.1f} MB, 32 x 32 pixels"
    )
    assert lines[1] == f"grade 0:        12  20.0%  {'#' * 40}"
    assert "source: table, 0 photographs left out when it was prepared" in lines
    assert any(line.startswith("preparation: decode=full crop=none") for line in lines)
    assert lines[-1] == "contact sheet: inspect-packed.png"
    assert [path.name for path in tmp_path.iterdir()] == ["inspect-packed.png"]


def test_the_door_lists_what_is_wrong_and_refuses(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    starts = read_index(folder / SECOND)[:, 0].tolist()
    flip(folder / SECOND, *(start + 70 for start in starts[:5]))
    monkeypatch.setattr(inspect, "SHOWN", 4)
    with pytest.raises(ValueError, match=f"shards={folder}: 6 problems; prepare or copy"):
        inspect.main(InspectConfig(shards=str(folder), sheet_records=0))
    lines = capsys.readouterr().out.splitlines()
    found = [line for line in lines if line.startswith("wrong: ")]
    assert len(found) == 5
    assert found[1].startswith(f"wrong: {folder / SECOND}: record 0, at byte 0: the CRC")
    assert found[-1] == "wrong: 2 more"


def test_a_sheet_that_is_there_already_is_kept(packed: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    sheet.write_text("mine")
    config = InspectConfig(shards=str(packed), sheet=str(sheet))
    with pytest.raises(ValueError, match=r"sheet=.*sheet\.png: is there already"):
        inspect.main(config)
    assert sheet.read_text() == "mine"
    config.overwrite = True
    inspect.main(config)
    assert sheet.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="there is no folder"):
        inspect.main(InspectConfig(shards=str(packed), sheet=str(tmp_path / "no" / "a.png")))


def test_settings_that_cannot_be_are_all_named() -> None:
    config = InspectConfig(
        sheet="a.jpg", sheet_records=0, seed=-1, workers=0, remote_cache_gb=1, overwrite=True
    )
    keys = ["shards", "remote_cache_gb", "seed", "workers", "sheet", "sheet"]
    assert [problem.key for problem in check_inspect(config)] == keys
    assert [p.key for p in check_inspect(InspectConfig(overwrite=True))] == ["shards", "overwrite"]
    assert check_inspect(InspectConfig(shards="a")) == []
