"""A million records: what opening them costs, in a process of its own, and that they are right."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from dr.shards.index import scan_frames
from dr.shards.opening import open_shards

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    """`benchmarks/scale.py`."""
    spec = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks" / "scale.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmarks_folder_opens_as_the_table_has_it(scale: ModuleType, tmp_path: Path) -> None:
    folder = scale.write_index_folder(tmp_path, shards=3, records=20)
    shards = open_shards(folder)
    table = pd.read_csv(folder / "records.csv", dtype={"patient": str})
    assert shards.table["name"].tolist() == table["name"].tolist()
    assert shards.table["label"].tolist() == table["label"].tolist()
    assert shards.shard.tolist() == np.repeat([0, 1, 2], 20).tolist()
    index = np.loadtxt(folder / "train01-20.tfindex", dtype=np.int64)
    assert np.array_equal(np.stack([shards.offset, shards.length], axis=1)[20:40], index)


def test_the_benchmarks_pictures_are_read(scale: ModuleType, tmp_path: Path) -> None:
    folder = scale.write_pictures_folder(tmp_path, 5, scale.pictures(2))
    shards = open_shards(folder)
    assert (len(shards), shards.image_size) == (5, 512)
    assert len(scan_frames(folder / "train00-5.tfrec")) == 5


@pytest.mark.slow
def test_a_million_records_open_within_200_megabytes(scale: ModuleType, tmp_path: Path) -> None:
    folder = scale.write_index_folder(tmp_path, shards=500, records=2000)
    measured = scale.measure_opening(folder)
    index = np.loadtxt(folder / "train499-2000.tfindex", dtype=np.int64)
    last = (folder / "records.csv").read_text()[-200:].splitlines()[-1].split(",")[1]
    assert measured["records"] == 1_000_000
    assert measured["last"] == [last, *index[-1].tolist()]
    assert measured["peak_megabytes"] < 200
    assert measured["megabytes"] < 200
