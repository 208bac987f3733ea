"""Folders of three small shards, to be damaged."""

import shutil
from pathlib import Path

import pytest

from dr.config import PreparationConfig, TableData
from dr.shards.labels import read_label_source
from dr.shards.packing import Packing, pack


@pytest.fixture(scope="session")
def packed(tiny_source: TableData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_photographs` in shards of 25, 25 and 10 records; never changed."""
    folder = tmp_path_factory.mktemp("packed") / "packed"
    source = read_label_source(tiny_source, cache=folder.parent)
    preparation = PreparationConfig(decode="full", crop="none", fit="stretch", filter="none")
    packing = Packing(
        source=source,
        preparation=preparation,
        image_size=32,
        folder=folder,
        workers=1,
        rows_a_shard=25,
    )
    pack(packing)
    return folder


@pytest.fixture
def folder(packed: Path, tmp_path: Path) -> Path:
    """A copy of `packed`."""
    return Path(shutil.copytree(packed, tmp_path / "copy"))
