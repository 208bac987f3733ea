"""Verifying a folder of shards: every byte of it, and everything that is wrong."""

import os
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from dr.config import GRADES
from dr.digests import digest_of_file
from dr.fundus.decode import UnreadablePhotograph, decode_photograph, read_header
from dr.shards.index import index_path, named_starts, stored_index
from dr.shards.manifest import DUPLICATES, MANIFEST, RECORDS, SIGNATURES, Manifest, read_manifest
from dr.shards.opening import check_manifest, describe, read_table
from dr.shards.packing import shard_files
from dr.shards.records import (
    FRAME_OVERHEAD,
    CorruptRecord,
    Record,
    decode_example,
    frame_length,
    open_frame,
)

if TYPE_CHECKING:
    import pandas as pd

KEPT = 10_000
"""Problems kept in words; further ones are counted."""

_HEADER = 12
_COMPARED = ("name", "patient", "side", "label")


@dataclass(frozen=True, kw_only=True)
class FoundRecord:
    """A record that is whole: where its frame lies, and what it holds.

    `size` is the height and width of its picture in pixels, None where it cannot be decoded.
    """

    path: Path
    offset: int
    length: int
    name: str
    patient: str
    label: int
    flags: str
    size: tuple[int, int] | None


@dataclass(kw_only=True)
class Verification:
    """What a folder of shards holds, and what is wrong with it.

    `problems` name shard and record: the first `KEPT` of `wrong` in all. `notes` are worth knowing
    and not wrong. `bytes` is the size of all shards.
    """

    folder: Path
    manifest: Manifest | None = None
    shards: int = 0
    bytes: int = 0
    records: list[FoundRecord] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: int = 0

    def add(self, problem: str) -> None:
        """Count a problem, and keep its words."""
        self.wrong += 1
        if len(self.problems) < KEPT:
            self.problems.append(problem)


class _Shard(NamedTuple):
    """A shard as the manifest or its name has it; `first` counts the records before it."""

    path: Path
    records: int
    sha256: str | None
    first: int


class _Frame(NamedTuple):
    """A frame's number in its shard, its offset, and its bytes or why they are none."""

    number: int
    offset: int
    content: bytes | CorruptRecord

    @property
    def length(self) -> int:
        """Its length in bytes, 0 where it is none."""
        return 0 if isinstance(self.content, CorruptRecord) else len(self.content)


class _Checked(NamedTuple):
    """What checking one frame found."""

    record: FoundRecord | None
    problems: list[str]


def _ignore(count: int) -> None:
    """Nobody watches the progress."""


def count_records(folder: Path) -> int:
    """How many records a folder claims to hold; 0 where that does not show."""
    with suppress(ValueError, OSError, TypeError):
        manifest = read_manifest(folder)
        return sum(shard.records for shard in _shards(folder, manifest))
    return 0


def verify_shards(
    folder: Path, *, threads: int | None = None, progress: Callable[[int], None] = _ignore
) -> Verification:
    """Read every byte of a folder of shards, and compare all that says something about it.

    That is: both CRCs of every frame; the index with the frames; the SHA-256 of shards and table,
    and all counts, with the manifest; each record with its row of the table; and that each picture
    decodes, at the manifest's size. `progress` is called with the number of records done since its
    last call. Raises ValueError where there is nothing to verify: no folder, no shard, a manifest
    that cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"shards={folder}: there is no such folder; name a folder of shards")
    manifest = read_manifest(folder)
    if manifest is not None:
        check_manifest(folder, manifest)
    found = Verification(folder=folder, manifest=manifest)
    if manifest is None:
        _compare_lost_manifest(found)
    table = None if manifest is None else _table(found, manifest)
    shards = _shards(folder, manifest)
    if not shards:
        raise ValueError(f"shards={folder}: holds no train*.tfrec; make shards with dr.prepare")
    if (folder / ".preparing.json").exists():
        found.notes.append(f"{folder}: its preparation did not finish; run it again")
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        for shard in shards:
            _verify_shard(found, shard, table, pool, progress)
    _compare_files(found, shards)
    _compare_names(found)
    if manifest is not None and table is not None:
        _compare_counts(found, manifest, table)
    return found


def _compare_lost_manifest(found: Verification) -> None:
    """Tables that only a preparation leaves tell that there was a manifest."""
    left = [name for name in (RECORDS, SIGNATURES, DUPLICATES) if (found.folder / name).is_file()]
    if left and not (found.folder / ".preparing.json").exists():
        found.add(f"{found.folder / MANIFEST}: is missing, though {left[0]} is there")


def _shards(folder: Path, manifest: Manifest | None) -> list[_Shard]:
    claims: list[tuple[Path, int, str | None]]
    if manifest is None:
        files = shard_files(folder)
        claims = [(path, int(path.stem.rpartition("-")[2]), None) for path in files]
    else:
        claims = [(folder / one.file, one.records, one.sha256) for one in manifest.shards]
    firsts = accumulate((records for _, records, _ in claims), initial=0)
    return [_Shard(*claim, first) for claim, first in zip(claims, firsts, strict=False)]


def _table(found: Verification, manifest: Manifest) -> "pd.DataFrame | None":
    digests = {
        RECORDS: manifest.records_sha256,
        SIGNATURES: manifest.signatures_sha256,
        DUPLICATES: manifest.duplicates_sha256,
    }
    for name, digest in digests.items():
        _compare_digest(found, found.folder / name, digest)
    path = found.folder / RECORDS
    try:
        return read_table(path) if path.is_file() else None
    except ValueError as error:
        found.add(str(error))
        return None


def _compare_digest(found: Verification, path: Path, digest: str) -> None:
    if not digest:
        return
    if not path.is_file():
        found.add(f"{path}: is missing")
    elif digest_of_file(path) != digest:
        found.add(f"{path}: its SHA-256 is not the manifest's; it was changed")


def _verify_shard(
    found: Verification,
    shard: _Shard,
    table: "pd.DataFrame | None",
    pool: ThreadPoolExecutor,
    progress: Callable[[int], None],
) -> None:
    if shard.sha256 is not None:
        _compare_digest(found, shard.path, shard.sha256)
    if not shard.path.is_file():
        return
    found.shards += 1
    found.bytes += shard.path.stat().st_size
    rows = [] if table is None else _rows(table, shard)
    size = found.manifest.image_size if found.manifest else None
    places = []
    for frame, checked in _checked(shard, rows, size, pool):
        places.append((frame.offset, frame.length))
        if checked.record is not None:
            found.records.append(checked.record)
        for problem in checked.problems:
            where = f"{shard.path}: record {frame.number}, at byte {frame.offset}"
            found.add(f"{where}: {problem}")
        progress(1)
    _compare_places(found, shard, places)


def _rows(table: "pd.DataFrame", shard: _Shard) -> list[dict[str, Any]]:
    part = table.iloc[shard.first : shard.first + shard.records]
    return [{str(key): value for key, value in row.items()} for row in part.to_dict("records")]


def _checked(
    shard: _Shard, rows: list[dict[str, Any]], size: int | None, pool: ThreadPoolExecutor
) -> Iterator[tuple[_Frame, _Checked]]:
    """Each frame of a shard with what checking it found, in order, a few checked ahead."""
    waiting: deque[tuple[_Frame, Future[_Checked]]] = deque()
    for frame in _frames(shard.path):
        row = rows[frame.number] if frame.number < len(rows) else None
        waiting.append((frame, pool.submit(_check, shard, frame, row, size)))
        if len(waiting) > 32:
            first, future = waiting.popleft()
            yield first, future.result()
    for frame, future in waiting:
        yield frame, future.result()


def _frames(path: Path) -> Iterator[_Frame]:
    """Every frame that can be found, over broken ones by help of the index."""
    size, offset, number = path.stat().st_size, 0, 0
    starts: list[int] | None = None
    with path.open("rb") as file:
        while offset < size:
            file.seek(offset)
            header = file.read(_HEADER)
            try:
                length = frame_length(header) + FRAME_OVERHEAD
                there = min(length, size - offset)
                yield _Frame(number, offset, _whole(header + file.read(there - _HEADER), length))
                offset, number = offset + length, number + 1
            except CorruptRecord as error:
                yield _Frame(number, offset, error)
                starts = _usable_starts(path, file) if starts is None else starts
                number = bisect_right(starts, offset)
                offset = starts[number] if number < len(starts) else size


def _whole(frame: bytes, length: int) -> bytes | CorruptRecord:
    if len(frame) == length:
        return frame
    return CorruptRecord(f"the frame is cut off: {len(frame)} of {length} bytes are there")


def _usable_starts(path: Path, file: BinaryIO) -> list[int]:
    """The offsets in a shard's index, up to the last at which a frame does begin."""
    size = path.stat().st_size
    starts = [start for start in named_starts(path).tolist() if start < size]
    while starts and not _begins(file, starts[-1]):
        starts.pop()
    return starts


def _begins(file: BinaryIO, offset: int) -> bool:
    file.seek(offset)
    try:
        frame_length(file.read(_HEADER))
    except CorruptRecord:
        return False
    return True


def _check(shard: _Shard, frame: _Frame, row: dict[str, Any] | None, size: int | None) -> _Checked:
    try:
        record = _decode(frame)
    except CorruptRecord as error:
        return _Checked(None, [str(error)])
    held = describe(record, shard.first + frame.number)
    problems = _differences(held, row or {})
    if not 0 <= record.label < GRADES:
        problems.append(f"its label is {record.label}; grades are 0 to {GRADES - 1}")
    shape = None
    try:
        shape = _decoded_size(record.image, size)
    except UnreadablePhotograph as error:
        problems.append(f"its picture: {error}")
    found = FoundRecord(
        path=shard.path,
        offset=frame.offset,
        length=frame.length,
        name=held["name"],
        patient=held["patient"],
        label=record.label,
        flags=str((row or {}).get("flags", "")),
        size=shape,
    )
    return _Checked(found, problems)


def _decode(frame: _Frame) -> Record:
    if isinstance(frame.content, CorruptRecord):
        raise frame.content
    return decode_example(open_frame(frame.content))


def _differences(held: dict[str, Any], row: dict[str, Any]) -> list[str]:
    return [
        f"its {key} is {held[key]}, and {row[key]} in {RECORDS}"
        for key in _COMPARED
        if key in row and held[key] != row[key]
    ]


def _decoded_size(image: bytes, size: int | None) -> tuple[int, int]:
    if not image.startswith(b"\xff\xd8\xff"):
        raise UnreadablePhotograph(f"is no JPEG, it begins with {image[:4].hex(' ') or 'nothing'}")
    header = read_header(image)
    if size is not None and (header.height, header.width) != (size, size):
        raise UnreadablePhotograph(
            f"has {header.width} x {header.height} pixels, and the manifest says {size}"
        )
    decode_photograph(image, header)
    return header.height, header.width


def _compare_places(found: Verification, shard: _Shard, places: list[tuple[int, int]]) -> None:
    if len(places) != shard.records:
        found.add(f"{shard.path}: holds {len(places)} records, and {shard.records} are expected")
    path = index_path(shard.path)
    if not path.is_file():
        found.notes.append(f"{path}: is missing; opening the shards writes it")
        return
    whole = len(places) == shard.records and all(length for _, length in places)
    index = stored_index(shard.path)
    if whole and (index is None or not np.array_equal(index, np.array(places).reshape(-1, 2))):
        found.add(f"{path}: does not fit the shard; delete it, opening the shards writes it anew")


def _compare_files(found: Verification, shards: list[_Shard]) -> None:
    known = {shard.path for shard in shards}
    for path in shard_files(found.folder):
        if path not in known:
            found.notes.append(f"{path}: is not in the manifest, and not read")


def _compare_names(found: Verification) -> None:
    names = Counter(record.name for record in found.records)
    for name, count in names.items():
        if count > 1:
            found.add(f"{found.folder}: {count} records have the name {name}")


def _compare_counts(found: Verification, manifest: Manifest, table: "pd.DataFrame") -> None:
    labels = np.bincount(table["label"].clip(0, GRADES), minlength=GRADES).tolist()
    flags = Counter(flag for text in table.get("flags", ()) for flag in str(text).split())
    claims = {
        "records": (manifest.records, len(table)),
        "label_counts": (manifest.label_counts, labels[:GRADES]),
        "flagged": (manifest.flagged, dict(flags)),
    }
    for key, (claimed, counted) in claims.items():
        if claimed != counted:
            found.add(f"{found.folder}: {key} is {claimed} in the manifest, {counted} in {RECORDS}")
    listed = sum(shard.records for shard in manifest.shards)
    if listed != manifest.records:
        found.add(
            f"{found.folder}: the manifest counts {manifest.records} records, its shards {listed}"
        )
