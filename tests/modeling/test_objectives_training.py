import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dr.accel.choice import choose_accelerator
from dr.config import OBJECTIVES, AccelConfig, TrainConfig
from dr.loading.decoding import decode_at
from dr.modeling.objectives.base import class_weights
from dr.prediction.folds import load_run
from dr.shards.opening import open_shards
from dr.training.cross_validation import cross_validate
from dr.training.history import read_history

Make = Callable[..., TrainConfig]
CHANCES = ["p0", "p1", "p2", "p3", "p4"]
CPU = AccelConfig(name="cpu", precision="float32", channels_last=False)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_tiny_run_learns_and_its_weights_reproduce_its_predictions(
    tiny_config: Make, tiny_shards: Path, name: str
) -> None:
    outcome = cross_validate(
        tiny_config(f"objective={name}", "folds=2", "epochs=8", "schedule.max_lr=0.02")
    )
    assert outcome.result["pooled"]["qwk"] > 0.3
    table = pd.read_csv(outcome.folder / "fold-1" / "predictions.csv").set_index("name")
    trained = load_run(outcome.folder, choose_accelerator(CPU))
    alone = dataclasses.replace(trained, models=trained.models[1:])
    shards = open_shards(tiny_shards)
    place = {record: row for row, record in enumerate(shards.table["name"])}
    pictures = [decode_at(shards.read(place[record]).image, size=32) for record in table.index]
    scores, probabilities = alone.grade(np.stack(pictures))
    np.testing.assert_allclose(scores, table["score"], atol=1e-4)
    np.testing.assert_allclose(probabilities, table[CHANCES], atol=1e-4)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_training_is_weighted_by_the_frequencies_of_the_training_labels(
    tiny_config: Make, make_shards: Callable[..., Path], tmp_path: Path, strength: float
) -> None:
    shards = make_shards(tmp_path / "uneven", seed=5, patients=13)
    config = tiny_config(
        f"shards={shards}",
        "objective=regression",
        f"objective.class_weights={strength}",
        "schedule.max_lr=1e-12",
        "folds=1",
        "batch_size=26",
        "epochs=1",
    )
    (row,) = read_history(cross_validate(config).folder / "fold-0")
    counts = np.array([6, 6, 6, 4, 4])
    share = class_weights(counts, strength=strength) * counts / 26
    # A new head puts out almost 0, so that a record's loss is its grade's square: 5 to 6 in all.
    assert row["train_loss"] == pytest.approx(share @ np.arange(5) ** 2, abs=0.1)
