"""Opening a folder of shards: this project's, or the seed's own."""

import logging
import re
import resource
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dr.config import GRADES
from dr.digests import digest_of, digest_of_file
from dr.shards.index import read_index
from dr.shards.manifest import MANIFEST, RECORDS, Manifest, read_manifest
from dr.shards.records import Record
from dr.shards.shard_set import ShardSet

if TYPE_CHECKING:
    import pandas as pd

    from dr.fundus.decode import Header
    from dr.shards.remote import RemoteShards

_log = logging.getLogger(__name__)
_SIDES = {0: "left", 1: "right"}
_JPEG = b"\xff\xd8\xff"
_COLUMNS = ("name", "patient", "side", "label")
_MEASURED = {"brightness": "float32", "sharpness": "float32", "field_share": "float32"}


def open_shards(folder: Path, *, remote: "RemoteShards | None" = None) -> ShardSet:
    """Open a folder of shards: this project's, or the seed's own without manifest.

    With `remote`, `folder` is the one that stands for it here. Raises ValueError naming the folder
    or shard and what is wrong: no folder, no shards, a preparation that did not finish, a shard
    missing or cut off, a label out of range.
    """
    if not folder.is_dir():
        raise ValueError(f"shards={folder}: there is no such folder; make it with dr.prepare")
    manifest = read_manifest(folder)
    if manifest is None:
        return _open_foreign(folder, remote)
    check_manifest(folder, manifest)
    table = read_table(folder / RECORDS, sha256=manifest.records_sha256)
    files = tuple(folder / shard.file for shard in manifest.shards)
    indexes = [
        _index(path, shard.records, number, remote)
        for number, (path, shard) in enumerate(zip(files, manifest.shards, strict=True))
    ]
    return _assemble(folder, files, indexes, table, manifest.image_size, manifest, remote)


def check_manifest(folder: Path, manifest: Manifest) -> None:
    """Make sure that a manifest names files of its folder and counts what can be counted.

    Raises ValueError naming it.
    """
    shards = manifest.shards
    files = [shard.file for shard in shards]
    named = all(isinstance(file, str) and re.fullmatch(r"[^/\0]+", file) for file in files)
    counts = [*(shard.records for shard in shards), manifest.records, manifest.image_size]
    counted = all(type(count) is int and 0 < count < 2**40 for count in counts)
    if not (named and counted and shards and isinstance(manifest.digest, str)):
        raise ValueError(
            f"{folder / MANIFEST}: names or counts in it cannot be; prepare the shards anew"
        )


def _index(
    path: Path, records: int, number: int, remote: "RemoteShards | None"
) -> NDArray[np.int64]:
    if remote is None and not path.is_file():
        raise ValueError(f"{path}: is missing, though the manifest names it; prepare it anew")
    index = read_index(path) if remote is None else remote.index(number)
    if len(index) != records:
        raise ValueError(f"{path}: holds {len(index)} records, and {records} are expected")
    return index


def read_table(path: Path, *, sha256: str | None = None) -> "pd.DataFrame":
    """A row a record from `records.csv`: text, but for the columns that are measured.

    `side` and `label` are int64, brightness, sharpness and field_share float32. Raises ValueError
    naming the file where it is missing, is none, or does not have the digest `sha256`.
    """
    import pandas as pd

    if not path.is_file() or sha256 not in (None, digest_of_file(path)):
        raise ValueError(f"{path}: is missing or changed since the preparation; prepare it anew")
    kinds = defaultdict(lambda: "str", side="int64", label="int64", **_MEASURED)
    try:
        table = pd.read_csv(
            path, usecols=lambda column: column != "row", dtype=kinds, na_filter=False
        )
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); prepare it anew") from error
    lacking = [column for column in _COLUMNS if column not in table]
    if lacking:
        raise ValueError(f"{path}: has no column {lacking[0]}; prepare it anew")
    return table


def _open_foreign(folder: Path, remote: "RemoteShards | None") -> ShardSet:
    from dr.shards.packing import shard_files

    found = shard_files(folder) if remote is None else [folder / file for file in remote.files]
    files = tuple(found)
    if not files:
        unfinished = (folder / ".preparing.json").exists()
        hint = "an unfinished preparation: run it again" if unfinished else "no train*.tfrec"
        raise ValueError(f"shards={folder}: holds {hint}; make shards with dr.prepare")
    if (folder / ".preparing.json").exists():
        raise ValueError(f"shards={folder}: its preparation did not finish; run it again")
    _log.info("%s: no %s; reading names and labels from the shards", folder, MANIFEST)
    indexes = [
        _index(path, int(path.stem.rpartition("-")[2]), number, remote)
        for number, path in enumerate(files)
    ]
    bare = _assemble(folder, files, indexes, None, 0, None, remote)
    return _scan(bare)


def _assemble(
    folder: Path,
    files: tuple[Path, ...],
    indexes: list[NDArray[np.int64]],
    table: "pd.DataFrame | None",
    image_size: int,
    manifest: Manifest | None,
    remote: "RemoteShards | None",
) -> ShardSet:
    import pandas as pd

    frames = np.concatenate(indexes)
    _make_room_for(len(files))
    if table is not None:
        _check_labels(folder, table)
        if len(table) != len(frames):
            raise ValueError(
                f"{folder / RECORDS}: has {len(table)} rows, and the shards hold {len(frames)} "
                "records; prepare them anew"
            )
    return ShardSet(
        folder=folder,
        files=files,
        shard=np.repeat(np.arange(len(files)), [len(index) for index in indexes]),
        offset=frames[:, 0],
        length=frames[:, 1],
        table=pd.DataFrame() if table is None else table,
        image_size=image_size,
        digest="" if manifest is None else manifest.digest,
        manifest=manifest,
        url=None if remote is None else remote.url,
        fetch=None if remote is None else remote.fetch,
    )


def _make_room_for(files: int) -> None:
    """Let this process keep every shard open: systems start one with room for some 1,000 files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files > soft // 4:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _check_labels(folder: Path, table: "pd.DataFrame") -> None:
    bad = table[(table["label"] < 0) | (table["label"] >= GRADES)]
    if len(bad):
        first = bad.iloc[0]
        raise ValueError(
            f"shards={folder}: record {bad.index[0]} ({first['name']}) has label "
            f"{first['label']}; grades are 0 to {GRADES - 1}"
        )


def _scan(bare: ShardSet) -> ShardSet:
    """Fill in what a manifest would have told, from the records themselves."""
    import dataclasses

    import pandas as pd

    if not len(bare):
        raise ValueError(f"shards={bare.folder}: its shards hold no record; prepare it anew")
    rows = [describe(_read_jpeg(bare, number), number) for number in range(len(bare))]
    header = _read_header(bare, 0)
    image_size = max(header.height, header.width)
    table = pd.DataFrame(rows)
    _check_labels(bare.folder, table)
    digest = digest_of([digest_of_file(bare.path(shard)) for shard in range(len(bare.files))])
    return dataclasses.replace(bare, table=table, image_size=image_size, digest=digest)


def _read_jpeg(bare: ShardSet, number: int) -> Record:
    record = bare.read(number)
    if not record.image.startswith(_JPEG):
        begins = record.image[:4].hex(" ") or "nothing"
        raise ValueError(f"{bare.spell(number)}: its image is no JPEG, it begins with {begins}")
    return record


def _read_header(bare: ShardSet, number: int) -> "Header":
    from dr.fundus.decode import UnreadablePhotograph, read_header

    try:
        return read_header(bare.read(number).image)
    except UnreadablePhotograph as error:
        raise ValueError(f"{bare.spell(number)}: {error}") from error


def describe(record: Record, number: int) -> dict[str, Any]:
    """A record's row of the table, where there is no `records.csv`; `number` counts all records."""
    patient = record.patient or (str(record.patient_id) if record.patient_id >= 0 else "")
    name = record.name
    if not name:
        side = _SIDES.get(record.side)
        name = f"{patient}_{side}" if patient and side else f"record{number}"
    return {
        "name": name,
        "patient": patient or re.sub(r"_(left|right)$", "", name),
        "side": record.side,
        "label": record.label,
    }
