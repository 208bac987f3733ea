"""Photographs of different patients that are copies of each other, and the patients they link.

A copy in another fold is scored on what was trained on. Copies are the same bytes, or the same
picture: stored anew, smaller, brighter. Rotated, mirrored or clearly cropped ones are not found.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dr.digests import digest_of_file
from dr.fundus.signature import ALIKE, NORM
from dr.shards.manifest import DUPLICATES, SIGNATURES

if TYPE_CHECKING:
    import pandas as pd

    from dr.shards.shard_set import ShardSet

_log = logging.getLogger(__name__)
COLUMNS = (
    "name",
    "patient",
    "label",
    "other_name",
    "other_patient",
    "other_label",
    "match",
    "similarity",
)
_TILE = 2048


class Duplicate(NamedTuple):
    """Two records, by number; `match` is `bytes` or `picture`, `similarity` at most 1."""

    first: int
    second: int
    match: str
    similarity: float


def find_duplicates(signatures: NDArray[np.void], patients: Sequence[str]) -> list[Duplicate]:
    """Pairs of records of different patients that are copies, in the order of their numbers.

    `signatures` are `dr.fundus.signature.SIGNATURE` [N], `patients` [N]. Of many copies of one
    photograph as many pairs are given as link them all. The time grows with the square of N, the
    memory with N.
    """
    _, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    digests = np.ascontiguousarray(signatures["photograph"]).view("V16").ravel()
    _, firsts, photograph = np.unique(digests, return_index=True, return_inverse=True)
    found = [
        Duplicate(int(first), int(second), "bytes", 1.0)
        for second, first in enumerate(firsts[photograph])
        if patient[first] != patient[second]
    ]
    found += _find_pictures(signatures["picture"], patient, np.sort(firsts))
    return sorted(found)


def _find_pictures(
    pictures: NDArray[np.int8], patient: NDArray[np.intp], records: NDArray[np.intp]
) -> Iterator[Duplicate]:
    """Alike pairs among `records`, which differ in their bytes."""
    group = np.arange(len(pictures))
    for rows, columns in _tiles(records):
        # Sums of whole numbers below 2**24 are exact in float32, in whatever order.
        products = _floats(pictures, rows) @ _floats(pictures, columns).T
        if products.max() < ALIKE * NORM**2:
            continue
        alike = (products >= ALIKE * NORM**2) & (rows[:, None] < columns)
        alike &= patient[rows, None] != patient[columns]
        alike &= group[rows, None] != group[columns]
        for row, column in np.argwhere(alike):
            first, second = int(rows[row]), int(columns[column])
            if group[first] != group[second]:
                group[group == group[second]] = group[first]
                similarity = min(1.0, float(products[row, column]) / NORM**2)
                yield Duplicate(first, second, "picture", round(similarity, 3))


def _tiles(
    records: NDArray[np.intp],
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    for top in range(0, len(records), _TILE):
        for left in range(top, len(records), _TILE):
            yield records[top : top + _TILE], records[left : left + _TILE]


def _floats(pictures: NDArray[np.int8], records: NDArray[np.intp]) -> NDArray[np.float32]:
    return pictures[records].astype(np.float32)


def describe_duplicates(
    duplicates: Sequence[Duplicate], table: "pd.DataFrame"
) -> list[dict[str, object]]:
    """A row of `duplicates.csv` for each pair; `table` has name, patient and label by record."""
    rows = []
    for first, second, match, similarity in duplicates:
        row: dict[str, object] = {}
        for prefix, record in (("", first), ("other_", second)):
            entry = table.iloc[record]
            row |= {f"{prefix}{key}": entry[key] for key in ("name", "patient", "label")}
        rows.append(row | {"match": match, "similarity": similarity})
    return rows


def linked_patients(shards: "ShardSet") -> list[tuple[str, str]] | None:
    """Pairs of patients of whom `shards` hold copies of one photograph, by their names there.

    Of several joined shards, copies across them too. None where it is not known: shards that were
    not made by this project's `dr.prepare`, or by one that did not look for copies.
    """
    from dr.shards.joining import parts_of

    parts = list(parts_of(shards).values())
    if not all(are_signed(part) for part in parts):
        return None
    if len(parts) == 1:
        return _stored_links(parts[0])
    _log.info("shards: looking for photographs that are in several of them")
    signatures = np.concatenate([read_signatures(part) for part in parts])
    patients = shards.table["patient"].tolist()
    found = find_duplicates(signatures, patients)
    return [(patients[pair.first], patients[pair.second]) for pair in found]


def are_signed(shards: "ShardSet") -> bool:
    """Whether the signatures of the records of one folder are there to be read."""
    if shards.manifest is None or not shards.manifest.signatures_sha256:
        return False
    return shards.fetch is None or (shards.folder / SIGNATURES).is_file()


def _stored_links(shards: "ShardSet") -> list[tuple[str, str]]:
    import pandas as pd

    assert shards.manifest is not None
    sha256 = shards.manifest.duplicates_sha256
    if not sha256:
        return []
    path = shards.folder / DUPLICATES
    _check_digest(path, sha256)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return list(zip(table["patient"], table["other_patient"], strict=True))


def read_signatures(shards: "ShardSet") -> NDArray[np.void]:
    """The signatures of the records of one folder, `dr.fundus.signature.SIGNATURE` [records].

    Raises ValueError where the file is missing or not the one that was written.
    """
    assert shards.manifest is not None
    path = shards.folder / SIGNATURES
    _check_digest(path, shards.manifest.signatures_sha256)
    signatures: NDArray[np.void] = np.load(path, mmap_mode="r", allow_pickle=False)
    return signatures


def _check_digest(path: Path, sha256: str) -> None:
    if not path.is_file() or digest_of_file(path) != sha256:
        raise ValueError(f"{path}: is missing or changed since the preparation; prepare it anew")
