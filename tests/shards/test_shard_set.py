"""Reading by number where index, shard or system do not do what they should."""

import errno
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dr.shards.index import index_path, read_index, scan_frames
from dr.shards.opening import open_shards
from dr.shards.records import CorruptRecord, Record
from dr.shards.shard_set import ShardSet

SECOND = "train01-25.tfrec"
READS: dict[str, Callable[[ShardSet, int], bytes]] = {
    "read": lambda shards, number: shards.read(number).image,
    "read_image": lambda shards, number: bytes(shards.read_image(number)),
}


@pytest.fixture(params=sorted(READS))
def read(request: pytest.FixtureRequest) -> Callable[[ShardSet, int], bytes]:
    return READS[request.param]


@pytest.fixture(scope="module")
def records(packed: Path) -> list[Record]:
    shards = open_shards(packed)
    return [shards.read(number) for number in range(60)]


def write_stale(shard: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    stale = change(read_index(shard).copy())
    index_path(shard).write_text("".join(f"{start} {length}\n" for start, length in stale))


def moved(index: np.ndarray) -> np.ndarray:
    """Every inner boundary one byte early: the index still covers the shard."""
    ends = index.sum(axis=1)
    ends[:-1] -= 1
    starts = np.concatenate([[0], ends[:-1]])
    return np.stack([starts, ends - starts], axis=1)


def shifted(index: np.ndarray) -> np.ndarray:
    """The first frame halved and the last two made one: between them whole frames, misnumbered."""
    half = index[0, 1] // 2
    first = [[0, half], [half, index[0, 1] - half]]
    last = [[index[-2, 0], index[-2:, 1].sum()]]
    return np.concatenate([first, index[1:-2], last])


@pytest.mark.parametrize("change", [moved, shifted])
@pytest.mark.parametrize("first", [25, 26, 37, 48, 49])
def test_a_stale_index_that_covers_the_shard_never_yields_another_record(
    folder: Path,
    records: list[Record],
    change: Callable[[np.ndarray], np.ndarray],
    first: int,
    read: Callable[[ShardSet, int], bytes],
) -> None:
    write_stale(folder / SECOND, change)
    shards = open_shards(folder)
    assert read(shards, first) == records[first].image
    assert [read(shards, number) for number in range(60)] == [r.image for r in records]
    assert np.array_equal(read_index(folder / SECOND), scan_frames(folder / SECOND))


def test_many_threads_meet_a_stale_index(folder: Path, records: list[Record]) -> None:
    write_stale(folder / SECOND, shifted)
    shards = open_shards(folder)
    numbers = np.random.default_rng(0).integers(25, 50, 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(shards.read, numbers)) == [records[number] for number in numbers]


def test_a_stale_index_in_a_folder_that_is_read_only_is_mended_in_memory(
    folder: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stale(folder / SECOND, moved)
    stale = index_path(folder / SECOND).read_text()

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("dr.shards.index.write_whole", refuse)
    shards = open_shards(folder)
    assert shards.read(30) == records[30]
    assert index_path(folder / SECOND).read_text() == stale


def test_a_corrupt_record_beside_a_right_index_stays_one(
    folder: Path, records: list[Record], read: Callable[[ShardSet, int], bytes]
) -> None:
    shards = open_shards(folder)
    offset = int(shards.offset[30])
    damage(folder / SECOND, offset + 40)
    place = rf"{SECOND}: record 5 \(30 of all\), at byte {offset}: the CRC of its data"
    for _ in range(2):
        with pytest.raises(CorruptRecord, match=place):
            read(shards, 30)
    assert read(shards, 31) == records[31].image


def damage(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def test_a_shard_that_shrinks_after_opening(
    folder: Path, records: list[Record], read: Callable[[ShardSet, int], bytes]
) -> None:
    shards = open_shards(folder)
    shards.read(25)
    os.truncate(folder / SECOND, int(shards.offset[30]) + 100)
    assert read(shards, 29) == records[29].image
    with pytest.raises(CorruptRecord, match=r"record 5 \(30 of all\), .*cut off: \d+ of \d+ bytes"):
        read(shards, 30)
    with pytest.raises(CorruptRecord, match=r"record 6 \(31 of all\), .*cut off after 0 bytes"):
        read(shards, 31)


def test_a_shard_that_another_took_the_place_of(
    folder: Path, read: Callable[[ShardSet, int], bytes]
) -> None:
    """The same lengths and right CRCs, but other records: the names tell."""
    shards = open_shards(folder)
    path = folder / SECOND
    frames = [path.read_bytes()[start : start + n] for start, n in scan_frames(path)]
    order = sorted(range(25), key=lambda number: (len(frames[number]), number))
    path.write_bytes(b"".join(frames[number] for number in order))
    index_path(path).unlink()
    moved_ones = [number for number in range(25) if order[number] != number]
    fresh = open_shards(folder)
    assert len(moved_ones) > 3
    for number in moved_ones[:3]:
        expected = str(shards.table["name"].iloc[25 + number])
        with pytest.raises(CorruptRecord, match=rf"where {expected} is expected"):
            read(fresh, 25 + number)


def test_a_shard_that_is_gone_is_named(
    folder: Path, read: Callable[[ShardSet, int], bytes]
) -> None:
    shards = open_shards(folder)
    (folder / SECOND).unlink()
    with pytest.raises(OSError, match=SECOND):
        read(shards, 30)


def test_a_system_that_cannot_read_is_no_corruption(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = open_shards(folder)

    def fail(*_: Any) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(OSError, match=rf"Input/output error: '.*{SECOND}: record 5"):
        shards.read(30)


def test_a_mended_index_survives_pickling(folder: Path, records: list[Record]) -> None:
    write_stale(folder / SECOND, shifted)
    shards = open_shards(folder)
    copy: ShardSet = pickle.loads(pickle.dumps(shards))
    assert shards.read(30) == copy.read(30) == records[30]
    assert pickle.loads(pickle.dumps(shards)).read(31) == records[31]
