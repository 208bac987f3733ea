import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from dr.config import PreparationConfig, PrepareConfig, TableData, TrainConfig
from dr.shards.prepare import prepare
from dr.training.source import training_shards

Make = Callable[..., TrainConfig]
PLAIN = PreparationConfig(decode="full", crop="none", fit="stretch", filter="none")


def from_source(make: Make, data: TableData, cache: Path) -> TrainConfig:
    return dataclasses.replace(
        make(), shards=None, data=data, preparation=PLAIN, cache=str(cache), workers=1
    )


def test_a_source_is_prepared_once_into_the_cache(
    tiny_config: Make, tiny_source: TableData, tiny_shards: Path, tmp_path: Path
) -> None:
    config = from_source(tiny_config, tiny_source, tmp_path / "cache")
    shards = training_shards(config)
    assert shards.digest == training_shards(tiny_config()).digest
    assert shards.folder.parent == tmp_path / "cache"
    times = {path: path.stat().st_mtime_ns for path in shards.folder.iterdir()}
    assert training_shards(config).folder == shards.folder
    assert times == {path: path.stat().st_mtime_ns for path in shards.folder.iterdir()}


@pytest.mark.parametrize("change", [{"image_size": 16}, {"preparation": PreparationConfig()}])
def test_another_preparation_lies_in_another_folder(
    tiny_config: Make, tiny_source: TableData, tmp_path: Path, change: dict[str, object]
) -> None:
    config = from_source(tiny_config, tiny_source, tmp_path)
    other = dataclasses.replace(config, **change)  # type: ignore[arg-type]
    assert training_shards(other).folder != training_shards(config).folder
    assert len(list(tmp_path.glob("shards-*"))) == 2


def test_preparing_tells_what_the_source_notes(
    tiny_source: TableData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = PrepareConfig(
        data=dataclasses.replace(tiny_source, name_pattern=None),
        preparation=PLAIN,
        shards=str(tmp_path / "shards"),
        workers=1,
    )
    with caplog.at_level(logging.WARNING):
        manifest = prepare(config)
    assert (manifest.records, manifest.image_size) == (60, 32)
    assert manifest.label_counts == [12] * 5
    assert "patient" in caplog.text


def test_a_missing_column_of_labels_is_named(
    tiny_config: Make, tiny_source: TableData, tmp_path: Path
) -> None:
    data = dataclasses.replace(tiny_source, label_column="grade")
    with pytest.raises(ValueError, match=r"label_column='?grade"):
        training_shards(from_source(tiny_config, data, tmp_path))
    assert not list(tmp_path.glob("shards-*"))
