"""Opening a folder of shards: this project's, or the seed's own."""

import logging
import re
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

_log = logging.getLogger(__name__)
_SIDES = {0: "left", 1: "right"}


def open_shards(folder: Path) -> ShardSet:
    """Open a folder of shards: this project's, or the seed's own without manifest.

    Raises ValueError naming the folder or shard and what is wrong: no folder, no shards, a
    preparation that did not finish, a shard missing or cut off, a label out of range.
    """
    if not folder.is_dir():
        raise ValueError(f"shards={folder}: there is no such folder; make it with dr.prepare")
    manifest = read_manifest(folder)
    if manifest is None:
        return _open_foreign(folder)
    files = tuple(folder / shard.file for shard in manifest.shards)
    indexes = [
        _index(path, shard.records) for path, shard in zip(files, manifest.shards, strict=True)
    ]
    return _assemble(
        folder, files, indexes, _read_table(folder, manifest), manifest.image_size, manifest
    )


def _index(path: Path, records: int) -> NDArray[np.int64]:
    if not path.is_file():
        raise ValueError(f"{path}: is missing, though the manifest names it; prepare it anew")
    index = read_index(path)
    if len(index) != records:
        raise ValueError(f"{path}: holds {len(index)} records, and {records} are expected")
    return index


def _read_table(folder: Path, manifest: Manifest) -> "pd.DataFrame":
    import pandas as pd

    path = folder / RECORDS
    if not path.is_file() or digest_of_file(path) != manifest.records_sha256:
        raise ValueError(f"{path}: is missing or changed since the preparation; prepare it anew")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table.astype({"side": "int64", "label": "int64"}).drop(columns="row")


def _open_foreign(folder: Path) -> ShardSet:
    from dr.shards.packing import shard_files

    files = tuple(shard_files(folder))
    if not files:
        unfinished = (folder / ".preparing.json").exists()
        hint = "an unfinished preparation: run it again" if unfinished else "no train*.tfrec"
        raise ValueError(f"shards={folder}: holds {hint}; make shards with dr.prepare")
    if (folder / ".preparing.json").exists():
        raise ValueError(f"shards={folder}: its preparation did not finish; run it again")
    _log.info("%s: no %s; reading names and labels from the shards", folder, MANIFEST)
    indexes = [_index(path, int(path.stem.rpartition("-")[2])) for path in files]
    bare = _assemble(folder, files, indexes, None, 0, None)
    return _scan(bare)


def _assemble(
    folder: Path,
    files: tuple[Path, ...],
    indexes: list[NDArray[np.int64]],
    table: "pd.DataFrame | None",
    image_size: int,
    manifest: Manifest | None,
) -> ShardSet:
    import pandas as pd

    frames = np.concatenate(indexes)
    if table is not None:
        _check_labels(folder, table)
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
    )


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

    from dr.fundus.decode import UnreadablePhotograph, read_header

    if not len(bare):
        raise ValueError(f"shards={bare.folder}: its shards hold no record; prepare it anew")
    rows = [_row(bare.read(number), number) for number in range(len(bare))]
    try:
        header = read_header(bare.read(0).image)
    except UnreadablePhotograph as error:
        raise ValueError(f"{bare.files[bare.shard[0]]}: record 0: {error}") from error
    image_size = max(header.height, header.width)
    table = pd.DataFrame(rows)
    _check_labels(bare.folder, table)
    digest = digest_of([digest_of_file(path) for path in bare.files])
    return dataclasses.replace(bare, table=table, image_size=image_size, digest=digest)


def _row(record: Record, number: int) -> dict[str, Any]:
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
