"""Training from shards of which some records cannot be read, with and without a decoded cache."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dr.config import TrainConfig
from dr.shards.opening import open_shards
from dr.shards.records import CorruptRecord
from dr.training.cross_validation import cross_validate

BAD = (3, 17, 40)


@pytest.fixture
def damaged(tiny_shards: Path, tmp_path: Path) -> Path:
    """A copy of the tiny shards in which a byte of each record of `BAD` is flipped."""
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_shards, folder)
    shards = open_shards(folder)
    for record in BAD:
        path = shards.files[int(shards.shard[record])]
        data = bytearray(path.read_bytes())
        data[int(shards.offset[record]) + 200] ^= 16
        path.write_bytes(data)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("cache", ["none", "decoded"])
def test_by_default_it_ends_naming_shard_record_and_offset(
    damaged: Path, tiny_config: Callable[..., TrainConfig], cache: str
) -> None:
    with pytest.raises(CorruptRecord, match=r"train00-60\.tfrec: record \d+.* at byte \d+"):
        cross_validate(tiny_config(f"shards={damaged}", f"loader.cache={cache}"))


@pytest.mark.parametrize("cache", ["none", "decoded"])
def test_with_skip_they_are_counted_named_and_missing_in_the_predictions(
    damaged: Path,
    tiny_config: Callable[..., TrainConfig],
    caplog: pytest.LogCaptureFixture,
    cache: str,
) -> None:
    caplog.set_level("INFO")
    config = tiny_config(
        f"shards={damaged}", "loader.on_corrupt=skip", f"loader.cache={cache}", "batch_size=4"
    )
    outcome = cross_validate(config)
    names = open_shards(damaged).table["name"]
    predicted = [
        row["name"]
        for fold in range(3)
        for row in rows(outcome.folder / f"fold-{fold}/predictions.csv")
    ]
    assert sorted(predicted) == sorted(set(names) - {names[record] for record in BAD})
    assert outcome.result["skipped"] == 3
    assert outcome.result["pooled"]["records"] == 57
    folds = outcome.result["folds"].values()
    assert sum(entry["skipped"] for entry in folds) == 3
    history = [
        row for fold in range(3) for row in rows(outcome.folder / f"fold-{fold}/history.csv")
    ]
    assert sum(int(row["unscored"]) for row in history) == 2 * 3
    assert all(int(row["skipped"]) + int(row["unscored"]) == 3 for row in history)
    assert "3 unreadable records left out" in caplog.text
    for record in BAD:
        assert caplog.text.count(f"train00-60.tfrec: record {record}, at byte") == 1


def test_a_cache_changes_no_weight_and_is_made_once(
    tiny_config: Callable[..., TrainConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    changes = ("folds=2", "epochs=1", "augment=flips", "image_size=24")
    plain = cross_validate(tiny_config(*changes, f"outputs={tmp_path / 'a'}"))
    cached = cross_validate(
        tiny_config(*changes, f"outputs={tmp_path / 'b'}", "loader.cache=decoded")
    )
    for fold in range(2):
        weights = [
            (outcome.folder / f"fold-{fold}/model.safetensors").read_bytes()
            for outcome in (plain, cached)
        ]
        assert weights[0] == weights[1]
    assert caplog.text.count("decoding 60 of 60 pictures") == 1
    environment = json.loads((cached.folder / "environment.json").read_text())
    assert environment["loader"]["cache"] == "decoded"
    assert environment["loader"]["threads"] == 1
    (folder,) = (tmp_path / "b" / ".cache" / "decoded").glob("[!.]*")
    assert np.fromfile(folder / "pictures.u8", np.uint8).size == 60 * 24 * 24 * 3
