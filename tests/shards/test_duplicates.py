"""Copies of photographs among different patients: found, linked, reported and kept together."""

import csv
import dataclasses
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dr.config import PreparationConfig
from dr.fundus.signature import ALIKE, LENGTH, NORM, SIGNATURE
from dr.shards import duplicates as module
from dr.shards.duplicates import find_duplicates, linked_patients, read_signatures
from dr.shards.joining import join_shards
from dr.shards.labels import LabelSource
from dr.shards.manifest import Manifest, read_manifest
from dr.shards.opening import open_shards
from dr.shards.packing import Packing, pack
from dr.shards.shard_set import ShardSet

PLAIN = PreparationConfig(decode="full", crop="none", fit="stretch", filter="none")


@dataclass(frozen=True)
class InMemory:
    """Photographs as bytes, one a row."""

    items: tuple[bytes, ...]

    def read(self, row: int) -> bytes:
        return self.items[row]

    def fingerprints(self) -> Iterator[str]:
        yield from map(str, self.items)


def picture(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    small = random.integers(0, 255, (24, 24, 3), dtype=np.uint8)
    return cv2.resize(small, (96, 96), interpolation=cv2.INTER_LINEAR)


def png(seed: int) -> bytes:
    return bytes(cv2.imencode(".png", picture(seed))[1])


def stored_anew(seed: int) -> bytes:
    return bytes(cv2.imencode(".jpg", picture(seed), [cv2.IMWRITE_JPEG_QUALITY, 85])[1])


def packed(folder: Path, photographs: list[bytes], patients: list[str]) -> Manifest:
    rows = len(photographs)
    table = pd.DataFrame(
        {
            "name": [f"n{row}" for row in range(rows)],
            "patient": patients,
            "side": np.full(rows, -1),
            "label": np.arange(rows) % 5,
        }
    )
    source = LabelSource(table, "table", (), (), InMemory(tuple(photographs)))
    manifest = pack(
        Packing(
            source=source,
            preparation=PLAIN,
            image_size=64,
            folder=folder,
            workers=1,
            rows_a_shard=4,
        )
    )
    assert manifest is not None
    return manifest


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "duplicates.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_copies_among_different_patients_are_reported(tmp_path: Path) -> None:
    photographs = [png(0), png(1), png(2), png(3), png(1), stored_anew(3), png(6), png(6)]
    patients = ["a", "b", "c", "d", "e", "f", "g", "g"]
    manifest = packed(tmp_path, photographs, patients)
    assert manifest.duplicates == {"bytes": 1, "picture": 1, "patients": 4}
    assert manifest == read_manifest(tmp_path)
    first, second = rows_of(tmp_path)
    assert first == {
        "name": "n1",
        "patient": "b",
        "label": "1",
        "other_name": "n4",
        "other_patient": "e",
        "other_label": "4",
        "match": "bytes",
        "similarity": "1.0",
    }
    assert (second["name"], second["other_name"], second["match"]) == ("n3", "n5", "picture")
    assert ALIKE <= float(second["similarity"]) <= 1
    assert linked_patients(open_shards(tmp_path)) == [("b", "e"), ("d", "f")]


def test_without_copies_there_is_no_report(tmp_path: Path) -> None:
    manifest = packed(tmp_path, [png(seed) for seed in range(6)], list("abcdef"))
    assert (manifest.duplicates, manifest.duplicates_sha256) == ({}, "")
    assert not (tmp_path / "duplicates.csv").exists()
    assert linked_patients(open_shards(tmp_path)) == []
    signatures = read_signatures(open_shards(tmp_path))
    assert (signatures.dtype, len(signatures)) == (SIGNATURE, 6)


def joined(tmp_path: Path, *sources: tuple[list[bytes], list[str]]) -> ShardSet:
    parts = []
    for number, (photographs, patients) in enumerate(sources):
        packed(tmp_path / str(number), photographs, patients)
        parts.append(open_shards(tmp_path / str(number)))
    return join_shards(parts, ["one", "other"], key="shards")


def test_copies_are_found_across_joined_shards(tmp_path: Path) -> None:
    one = ([png(seed) for seed in range(5)], list("abcde"))
    other = ([png(9), stored_anew(2), png(8), png(8)], list("abcd"))
    shards = joined(tmp_path, one, other)
    assert linked_patients(shards) == [("one/c", "other/b"), ("other/c", "other/d")]


def test_shards_without_signatures_are_not_known(tmp_path: Path) -> None:
    packed(tmp_path, [png(seed) for seed in range(5)], list("abcde"))
    shards = open_shards(tmp_path)
    assert shards.manifest is not None
    old = dataclasses.replace(shards.manifest, signatures_sha256="")
    assert linked_patients(dataclasses.replace(shards, manifest=old)) is None
    assert linked_patients(dataclasses.replace(shards, manifest=None)) is None


@pytest.mark.parametrize(
    ("file", "read"), [("duplicates.csv", linked_patients), ("signatures.npy", read_signatures)]
)
def test_a_changed_report_is_refused(
    tmp_path: Path, file: str, read: Callable[[ShardSet], object]
) -> None:
    packed(tmp_path, [png(0), png(1), png(1)], list("abc"))
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{file}: is missing or changed"):
        read(open_shards(tmp_path))


def signatures_of(kinds: list[tuple[int, int]]) -> np.ndarray:
    """For each record the picture (0: nothing to be seen) and the bytes it has."""
    made = np.zeros(len(kinds), SIGNATURE)
    for record, (look, number) in enumerate(kinds):
        values = np.random.default_rng(look).normal(size=LENGTH)
        made["picture"][record] = np.rint(values * NORM / np.linalg.norm(values)) * (look > 0)
        made["photograph"][record, :2] = look, number
    return made


def components(pairs: list[tuple[int, int]], count: int) -> set[frozenset[int]]:
    ends = np.array(pairs, dtype=int).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    _, group = connected_components(graph, directed=False)
    return {frozenset(np.flatnonzero(group == one).tolist()) for one in set(group)}


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=24
    ),
    st.sampled_from([2, 5, 2048]),
)
def test_pairs_link_the_patients_that_comparing_all_with_all_links(
    records: list[tuple[int, int, int]], tile: int
) -> None:
    signatures = signatures_of([record[:2] for record in records])
    patients = [record[2] for record in records]
    looks = [(record[0], record[1] if record[0] == 0 else 0) for record in records]
    expected = [
        (patients[i], patients[j])
        for i in range(len(records))
        for j in range(i)
        if looks[i] == looks[j] and patients[i] != patients[j]
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TILE", tile)
        found = find_duplicates(signatures, [str(patient) for patient in patients])
    assert found == sorted(found)
    assert all(pair.first < pair.second for pair in found)
    assert all(patients[pair.first] != patients[pair.second] for pair in found)
    assert all(looks[pair.first] == looks[pair.second] for pair in found)
    links = [(patients[pair.first], patients[pair.second]) for pair in found]
    assert components(links, 5) == components(expected, 5)


def test_many_copies_of_one_photograph_give_few_pairs() -> None:
    alike = signatures_of([(1, number) for number in range(200)])
    found = find_duplicates(alike, [str(number) for number in range(200)])
    assert len(found) == 199
    assert {pair.match for pair in found} == {"picture"}


def test_the_search_says_when_it_goes_over_several_sources(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sources = [([png(10 * n + seed) for seed in range(3)], list("abc")) for n in range(2)]
    with caplog.at_level(logging.INFO):
        assert linked_patients(joined(tmp_path, *sources)) == []
    assert "looking for photographs that are in several of them" in caplog.text
