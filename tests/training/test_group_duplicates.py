"""Copies of photographs in a training: warned about, or kept in one fold."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from dr.config import PreparationConfig, TableData, TrainConfig
from dr.digests import digest_of
from dr.shards.labels import read_label_source
from dr.shards.packing import Packing, pack
from dr.training.cross_validation import cross_validate
from dr.training.identity import decisive_settings

Make = Callable[..., TrainConfig]
COPIES = {"0_left": "10_left", "1_right": "21_right", "25_left": "10_right"}


@pytest.fixture(scope="module")
def copied_shards(
    tiny_photographs: Path, tiny_source: TableData, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny shards, three of whose patients' photographs are other patients' too."""
    folder = tmp_path_factory.mktemp("copied")
    images = Path(shutil.copytree(tiny_photographs, folder / "images"))
    for name, other in COPIES.items():
        shutil.copy(images / f"{name}.png", images / f"{other}.png")
    tiny_source = TableData(
        images=str(images), labels=tiny_source.labels, name_pattern=tiny_source.name_pattern
    )
    source = read_label_source(tiny_source, cache=folder)
    preparation = PreparationConfig(decode="full", crop="none", fit="stretch", filter="none")
    shards = folder / "shards"
    pack(Packing(source=source, preparation=preparation, image_size=32, folder=shards, workers=1))
    return shards


def folds_of(folder: Path) -> dict[str, int]:
    table = pd.read_csv(folder / "folds.csv", dtype={"patient": str})
    return dict(zip(table["patient"], table["fold"], strict=True))


def test_patients_who_share_a_photograph_share_a_fold(
    tiny_config: Make, copied_shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = [f"shards={copied_shards}", "epochs=1", "fold=0"]
    plain = cross_validate(tiny_config(*options))
    fold = folds_of(plain.folder)
    links = [("0", "10"), ("1", "21"), ("25", "10")]
    parted = [pair for pair in links if fold[pair[0]] != fold[pair[1]]]
    assert parted
    assert f"{len(parted)} pairs of copied photographs have patients in" in caplog.text
    caplog.clear()
    grouped = cross_validate(tiny_config(*options, "group_duplicates=true"))
    fold = folds_of(grouped.folder)
    assert all(fold[one] == fold[other] for one, other in links)
    assert grouped.folder != plain.folder
    assert "group_duplicates" not in caplog.text


def test_grouping_is_part_of_what_a_run_is(tiny_config: Make) -> None:
    known = {"data": "d", "image_size": 32, "precision": "float32", "channels_last": False}
    grouped = digest_of(decisive_settings(tiny_config("group_duplicates=true"), **known))
    assert grouped != digest_of(decisive_settings(tiny_config(), **known))


def test_grouping_without_copies_says_that_it_does_nothing(
    tiny_config: Make, caplog: pytest.LogCaptureFixture
) -> None:
    cross_validate(tiny_config("epochs=1", "fold=0", "group_duplicates=true"))
    assert "group_duplicates=true: has no effect" in caplog.text
