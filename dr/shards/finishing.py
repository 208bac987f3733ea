"""The end of a preparation: the notes of its slices become the tables and the manifest."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dr.config import GRADES, PreparationConfig
from dr.digests import digest_of, digest_of_file
from dr.files import write_csv, write_whole
from dr.fundus.signature import SIGNATURE
from dr.shards.duplicates import COLUMNS, Duplicate, describe_duplicates, find_duplicates
from dr.shards.labels import LabelSource
from dr.shards.manifest import (
    DUPLICATES,
    RECORDS,
    REJECTED,
    SIGNATURES,
    Manifest,
    ShardFile,
    write_manifest,
)

if TYPE_CHECKING:
    import pandas as pd

_OWN = ("name", "patient", "side", "label")


def note_path(folder: Path, number: int) -> Path:
    """What a finished slice leaves: its shard, the rows kept and those rejected, as JSON."""
    return folder / f".slice{number:02d}.json"


def signatures_path(folder: Path, number: int) -> Path:
    """The signatures of the rows that a slice kept, `SIGNATURE` [rows] as .npy."""
    return folder / f".slice{number:02d}.npy"


def read_note(folder: Path, number: int) -> dict[str, Any]:
    """The note of a finished slice."""
    note: dict[str, Any] = json.loads(note_path(folder, number).read_text(encoding="utf-8"))
    return note


def write_signatures(path: Path, signatures: Sequence[bytes]) -> None:
    """Write one `SIGNATURE` after the other as .npy, whole or not at all."""
    write_whole(path, _npy_header(len(signatures)) + b"".join(signatures))


def finish(
    folder: Path,
    source: LabelSource,
    *,
    slices: int,
    identity: Mapping[str, Any],
    preparation: PreparationConfig,
    image_size: int,
) -> Manifest:
    """Write the tables, the signatures and last the manifest of a folder whose slices are done."""
    rejected = _write_rejected(folder, slices)
    shards = [ShardFile(**note["shard"]) for note in _notes(folder, slices) if note["shard"]]
    records = sum(shard.records for shard in shards)
    if not records:
        raise ValueError(f"shards={folder}: none of {rejected} photographs could be read")
    labels, flagged = _write_records(folder, slices, source)
    _join_signatures(folder, slices, records)
    found = _write_duplicates(folder, slices)
    records_sha256 = digest_of_file(folder / RECORDS)
    manifest = Manifest(
        kind=source.kind,
        source=identity["source"],
        recipe=identity["recipe"],
        preparation=preparation,
        image_size=image_size,
        records=records,
        rejected=rejected,
        label_counts=labels,
        flagged=flagged,
        shards=shards,
        records_sha256=records_sha256,
        digest=digest_of([records_sha256, *(shard.sha256 for shard in shards)]),
        duplicates=found,
        signatures_sha256=digest_of_file(folder / SIGNATURES),
        duplicates_sha256=digest_of_file(folder / DUPLICATES) if found else "",
    )
    write_manifest(folder, manifest)
    return manifest


def _notes(folder: Path, slices: int) -> Iterator[dict[str, Any]]:
    """One at a time, so that memory does not grow with the number of photographs."""
    for number in range(slices):
        yield read_note(folder, number)


def _write_rejected(folder: Path, slices: int) -> int:
    rejected = [row for note in _notes(folder, slices) for row in note["rejected"]]
    if rejected:
        write_csv(folder / REJECTED, list(rejected[0]), rejected)
    return len(rejected)


def _write_records(
    folder: Path, slices: int, source: LabelSource
) -> tuple[list[int], dict[str, int]]:
    labels: Counter[int] = Counter()
    flagged: Counter[str] = Counter()
    extra = [column for column in source.table.columns if column not in _OWN]

    def rows() -> Iterator[dict[str, Any]]:
        for note in _notes(folder, slices):
            for entry in note["kept"]:
                labels[entry["label"]] += 1
                flagged.update(entry["flags"].split())
                yield entry | {name: source.table[name].iat[entry["row"]] for name in extra}

    first = next(entry for note in _notes(folder, slices) for entry in note["kept"])
    write_csv(folder / RECORDS, [*first, *extra], rows())
    return [labels[grade] for grade in range(GRADES)], dict(flagged)


def _join_signatures(folder: Path, slices: int, records: int) -> None:
    path = folder / SIGNATURES
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with aside.open("wb") as file:
        file.write(_npy_header(records))
        for number in range(slices):
            file.write(np.load(signatures_path(folder, number), allow_pickle=False).tobytes())
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _npy_header(rows: int) -> bytes:
    import io

    header = io.BytesIO()
    description = np.lib.format.dtype_to_descr(SIGNATURE)
    values = {"descr": description, "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(header, values)
    return header.getvalue()


def _write_duplicates(folder: Path, slices: int) -> dict[str, int]:
    table = _names(folder, slices)
    signatures: NDArray[np.void] = np.load(folder / SIGNATURES, mmap_mode="r", allow_pickle=False)
    found = find_duplicates(signatures, table["patient"].tolist())
    if not found:
        return {}
    write_csv(folder / DUPLICATES, COLUMNS, describe_duplicates(found, table))
    return _count(found, table["patient"].tolist())


def _names(folder: Path, slices: int) -> "pd.DataFrame":
    import pandas as pd

    columns = ("name", "patient", "label")
    kept = ({key: e[key] for key in columns} for n in _notes(folder, slices) for e in n["kept"])
    return pd.DataFrame(kept)


def _count(found: Sequence[Duplicate], patients: Sequence[str]) -> dict[str, int]:
    matches = Counter(pair.match for pair in found)
    linked = {patients[record] for pair in found for record in pair[:2]}
    return {
        "bytes": matches["bytes"],
        "picture": matches["picture"],
        "patients": len(linked),
    }
