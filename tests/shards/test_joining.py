import dataclasses
import logging
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr.config import PreparationConfig
from dr.digests import digest_of
from dr.shards.joining import (
    JoinedShards,
    join_shards,
    open_entries,
    parts_of,
    preparation_differences,
    source_numbers,
)
from dr.shards.naming import source_names
from dr.shards.opening import open_shards
from dr.shards.remote_cache import RemoteCache
from dr.shards.shard_set import ShardSet

PLAIN = PreparationConfig(decode="full", crop="none", fit="stretch", filter="none")


def opened(paths: list[str]) -> ShardSet:
    return open_entries(paths, cache=RemoteCache.within("unused", None), key="shards")


@pytest.fixture
def pair(tiny_shards: Path, other_shards: Path) -> JoinedShards:
    joined = opened([str(tiny_shards), str(other_shards)])
    assert isinstance(joined, JoinedShards)
    return joined


def test_record_numbers_run_on_and_read_the_parts_own_records(
    pair: JoinedShards, tiny_shards: Path, other_shards: Path
) -> None:
    parts = [open_shards(tiny_shards), open_shards(other_shards)]
    expected = [part.read(number) for part in parts for number in range(len(part))]
    assert [pair.read(number) for number in range(len(pair))] == expected
    assert pickle.loads(pickle.dumps(pair)).read(60) == expected[60]
    assert pair.digest == digest_of([part.digest for part in parts])
    assert pair.image_size == 24
    assert list(parts_of(pair)) == ["tiny", "other"]
    numbers = source_numbers(pair)
    assert numbers is not None
    assert numbers.tolist() == [0] * 60 + [1] * 40


def test_patients_and_names_are_distinct_and_keep_their_rows(
    pair: JoinedShards, tiny_shards: Path, other_shards: Path
) -> None:
    table = pair.table
    first, second = open_shards(tiny_shards).table, open_shards(other_shards).table
    assert table["source"].tolist() == ["tiny"] * 60 + ["other"] * 40
    own = [*("tiny/" + first["patient"]), *("other/" + second["patient"])]
    assert table["patient"].tolist() == own
    assert table["patient"].nunique() == 30 + 20
    assert table["name"].is_unique
    both = set(second["name"])
    expected = [f"tiny/{name}" if name in both else name for name in first["name"]]
    assert table["name"].tolist() == [*expected, *("other/" + second["name"])]
    assert table["label"].tolist() == [*first["label"], *second["label"]]
    assert table.index.tolist() == list(range(100))


def test_one_folder_is_as_it_was(tiny_shards: Path) -> None:
    alone = opened([str(tiny_shards)])
    assert type(alone) is ShardSet
    assert alone.digest == open_shards(tiny_shards).digest
    assert "source" not in alone.table
    assert source_numbers(alone) is None
    assert list(parts_of(alone)) == ["tiny"]


def test_the_order_of_sources_is_part_of_the_digest(tiny_shards: Path, other_shards: Path) -> None:
    paths = [str(tiny_shards), str(other_shards)]
    one, other = (opened(order) for order in (paths, paths[::-1]))
    assert one.digest != other.digest


def test_the_same_records_twice_are_refused(tiny_shards: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tiny_shards)
    with pytest.raises(ValueError, match=r"shards: .*tiny and .*link hold the same records"):
        opened([str(tiny_shards), str(link)])


def test_columns_that_one_source_lacks_are_empty(pair: JoinedShards) -> None:
    parts = [
        dataclasses.replace(part, table=part.table.drop(columns=columns), _open={})
        for part, columns in zip(pair.parts, (["split"], ["brightness"]), strict=True)
    ]
    table = join_shards(parts, ["a", "b"], key="shards").table
    assert table["split"].tolist() == [""] * 60 + pair.parts[1].table["split"].tolist()
    assert np.isnan(table["brightness"].to_numpy(dtype=float)[60:]).all()


def test_shards_without_manifest_join_and_are_named(
    tiny_shards: Path, other_shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in other_shards.glob("train*"):
        (bare / path.name).write_bytes(path.read_bytes())
    with caplog.at_level(logging.WARNING):
        joined = opened([str(tiny_shards), str(bare)])
    assert "bare came without a manifest" in caplog.text
    assert "hold pictures of 24, 32 px" in caplog.text
    assert joined.table["patient"].iloc[-1] == "bare/19"
    assert joined.table["flags"].tolist()[60:] == [""] * 40


def test_other_filters_are_refused_and_other_framing_is_said(
    tiny_shards: Path,
    make_shards: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    filtered = dataclasses.replace(PLAIN, filter="unsharp")
    folder = make_shards(tmp_path / "sharp", seed=3, patients=5, preparation=filtered)
    with pytest.raises(ValueError, match=r"tiny and sharp .*filter: none, unsharp.*prepare them"):
        opened([str(tiny_shards), str(folder)])
    framed = dataclasses.replace(PLAIN, jpeg_quality=80, crop_threshold=9)
    folder = make_shards(tmp_path / "framed", seed=3, patients=5, preparation=framed)
    with caplog.at_level(logging.WARNING):
        opened([str(tiny_shards), str(folder)])
    said = "shards: tiny and framed were prepared differently: jpeg_quality: 94, 80"
    assert said in caplog.messages


def prepared(pair: JoinedShards, image_size: int = 512, **changes: object) -> ShardSet:
    manifest = pair.parts[0].manifest
    assert manifest is not None
    settings = dataclasses.replace(PreparationConfig(), **changes)  # type: ignore[arg-type]
    made = dataclasses.replace(manifest, preparation=settings, image_size=image_size)
    return dataclasses.replace(pair.parts[0], manifest=made, _open={})


def test_only_settings_with_an_effect_differ(pair: JoinedShards) -> None:
    def differing(one: ShardSet, other: ShardSet) -> set[str]:
        return set(preparation_differences(one, other))

    assert differing(prepared(pair), prepared(pair, image_size=256)) == set()
    assert differing(prepared(pair), prepared(pair, filter_sigma=3.0)) == {"filter_sigma"}
    plain = prepared(pair, filter="none")
    assert differing(plain, prepared(pair, filter="none", filter_sigma=3.0)) == set()
    assert differing(plain, prepared(pair)) == {"filter", "filter_sigma", "filter_relative"}
    absolute = prepared(pair, filter_relative=False)
    smaller = prepared(pair, filter_relative=False, image_size=256)
    assert differing(absolute, smaller) == {"filter_at_size"}


@given(st.lists(st.sampled_from(["/a/x", "/b/x", "/c/x-1", "/d/x-2/", "s3://e/x", "y", "/"])))
def test_names_of_sources_are_distinct_and_end_their_paths(entries: list[str]) -> None:
    names = source_names(entries)
    assert len(set(names)) == len(names) == len(entries)
    for entry, name in zip(entries, names, strict=True):
        last = entry.rstrip("/").rpartition("/")[2] or "root"
        assert name == last or name.startswith(f"{last}-")


def test_names_of_sources_are_numbered_only_where_they_are_equal() -> None:
    assert source_names(["/a/x", "/b/y/"]) == ["x", "y"]
    assert source_names(["/a/x", "/b/x", "s3://c/x-1"]) == ["x-2", "x-3", "x-1"]


def test_shards_that_have_to_be_fetched_are_fetched_by_their_own_part(pair: JoinedShards) -> None:
    first, second = pair.parts
    lacking = tuple(Path("/nowhere") / path.name for path in second.files)
    asked: list[int] = []

    def fetch(shard: int) -> Path:
        asked.append(shard)
        return second.files[shard]

    remote = dataclasses.replace(second, files=lacking, fetch=fetch, _open={})
    joined = join_shards([first, remote], ["a", "b"], key="shards")
    assert joined.read(59).image == first.read(59).image
    assert not asked
    assert joined.read(60).image == second.read(0).image
    turned = join_shards([remote, first], ["b", "a"], key="shards")
    assert turned.read(0).image == second.read(0).image
    assert turned.read(40).image == first.read(0).image
    assert set(asked) == {0}
