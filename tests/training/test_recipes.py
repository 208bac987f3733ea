"""Settings of a training that must reach it whole, from the config to the kept weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dr.config import TrainConfig
from dr.training.cross_validation import cross_validate
from dr.training.history import read_history

Make = Callable[..., TrainConfig]
Row = dict[str, Any]


@pytest.fixture
def history_of(tiny_config: Make, tmp_path: Path) -> Callable[..., list[Row]]:
    """`history_of("epochs=1", ...)`: the rows of fold 0 of such a training."""

    def train(*changes: str) -> list[Row]:
        folder = f"outputs={tmp_path / str(len(list(tmp_path.iterdir())))}"
        outcome = cross_validate(tiny_config("fold=0", *changes, folder))
        assert outcome is not None
        return read_history(outcome.folder / "fold-0")

    return train


def test_label_smoothing_is_in_the_training_loss_alone(
    tiny_config: Make, history_of: Callable[..., list[Row]]
) -> None:
    one_step = ("batch_size=40", "epochs=1")
    (none,), (some,), (more,) = (
        history_of(*one_step, f"objective.label_smoothing={smoothing}")
        for smoothing in (0.0, 0.2, 0.4)
    )
    slope = more["train_loss"] - none["train_loss"]
    assert some["train_loss"] == pytest.approx(none["train_loss"] + slope / 2, rel=1e-6)
    assert abs(slope) > 1e-4
    outcome = cross_validate(tiny_config("fold=0", "objective.label_smoothing=0.4"))
    assert outcome is not None
    table = pd.read_csv(outcome.folder / "fold-0" / "predictions.csv")
    chances = table[["p0", "p1", "p2", "p3", "p4"]].to_numpy()
    losses = -np.log(chances[np.arange(len(table)), table["label"]])
    assert outcome.result["folds"]["0"]["loss"] == pytest.approx(losses.mean(), abs=1e-4)


def losses_of(rows: list[Row]) -> list[float]:
    return [row[name] for row in rows for name in ("train_loss", "loss")]


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_drop_path_is_drawn_anew_each_step_and_again_by_the_same_seed(
    history_of: Callable[..., list[Row]], devices: int
) -> None:
    # With a rate of zero all that may differ from step to step is what drop path draws.
    still = (
        "model.name=test_vit",
        "schedule.max_lr=1e-30",
        "batch_size=40",
        "epochs=3",
        f"accel.devices={devices}",
    )
    rows = [history_of(*still, "model.drop_path_rate=0.9") for _ in range(2)]
    assert losses_of(rows[0]) == losses_of(rows[1])
    drawn = [row["train_loss"] for row in rows[0]]
    assert max(drawn) - min(drawn) > 1e-4
    plain = [row["train_loss"] for row in history_of(*still)]
    assert max(plain) - min(plain) < 1e-5


RECIPE = [
    "objective.label_smoothing=0.1",
    "objective.class_weights=0.7",
    "optimizer=sgd",
    "optimizer.clip_norm=1.0",
    "optimizer.freeze_epochs=1",
    "optimizer.layer_decay=0.7",
    "ema_decay=0.9",
]


def test_a_recipe_is_the_same_on_two_ranks(
    history_of: Callable[..., list[Row]], make_shards: Callable[..., Path], tmp_path: Path
) -> None:
    shards = make_shards(tmp_path / "uneven", seed=4, patients=33)
    common = (f"shards={shards}", "batch_size=11", "schedule.max_lr=0.01", *RECIPE)
    one, two = (history_of(*common, f"accel.devices={devices}") for devices in (1, 2))
    assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-4)
    assert len(set(losses_of(one))) == 4
