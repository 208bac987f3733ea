import dataclasses
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from dr.config import PreparationConfig, TableData
from dr.fundus.synthetic import draw_photographs
from dr.shards.labels import read_label_source
from dr.shards.opening import open_shards
from dr.shards.overlap import find_overlap
from dr.shards.packing import Packing, pack
from dr.shards.shard_set import ShardSet


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    shares = [0.5, 0.2, 0.1, 0.1, 0.1]
    return draw_photographs(folder, patients=4, seed=1, grade_shares=shares, label_noise=0.0)


def packed(images: Path, labels: Path, folder: Path) -> ShardSet:
    data = TableData(images=str(images), labels=str(labels))
    source = read_label_source(data, cache=folder.parent)
    preparation = PreparationConfig()
    pack(Packing(source=source, preparation=preparation, image_size=64, folder=folder, workers=1))
    return open_shards(folder)


def test_copies_are_found_by_their_bytes_and_by_their_look(
    photographs: Path, tmp_path: Path
) -> None:
    labels = photographs / "trainLabels.csv"
    originals = sorted((photographs / "train").iterdir())
    trained = packed(photographs / "train", labels, tmp_path / "trained")
    (tmp_path / "images").mkdir()
    header = labels.read_text().splitlines()[0]
    named = originals[2].stem
    (tmp_path / "labels.csv").write_text("\n".join([header, "x,0", "y,1", f"{named},2"]) + "\n")
    (tmp_path / "images" / "x.jpeg").write_bytes(originals[0].read_bytes())
    picture = cv2.imread(str(originals[1]))
    smaller = cv2.resize(picture, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(tmp_path / "images" / "y.jpeg"), smaller)
    cv2.imwrite(str(tmp_path / "images" / f"{named}.jpeg"), cv2.flip(picture, 0))
    outside = packed(tmp_path / "images", tmp_path / "labels.csv", tmp_path / "outside")
    overlap = find_overlap(outside, trained)
    assert (overlap.same.tolist(), overlap.alike.tolist(), overlap.by_name) == ([0], [1, 2], False)
    assert len(find_overlap(trained, outside).same) == 1


def test_other_photographs_do_not_overlap_though_their_names_do(
    tiny_shards: Path, outside_shards: Path, make_shards: Callable[..., Path], tmp_path: Path
) -> None:
    overlap = find_overlap(open_shards(outside_shards), open_shards(tiny_shards))
    assert len(overlap.same) == 0
    again = make_shards(tmp_path / "again", seed=2, patients=10, image_size=16)
    same = find_overlap(open_shards(again), open_shards(outside_shards)).same
    assert np.array_equal(same, np.arange(20))


def test_without_signatures_names_and_patients_are_compared(
    tiny_shards: Path, other_shards: Path
) -> None:
    unsigned = dataclasses.replace(open_shards(tiny_shards), manifest=None, _open={})
    overlap = find_overlap(unsigned, open_shards(other_shards))
    assert overlap.by_name
    assert len(overlap.same) == 0
    expected = [int(name.partition("_")[0]) < 20 for name in unsigned.table["name"]]
    assert np.array_equal(overlap.alike, np.flatnonzero(expected))
