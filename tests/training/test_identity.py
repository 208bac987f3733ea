from typing import Any

import pytest

from dr.compose import compose
from dr.config import TrainConfig
from dr.digests import digest_of
from dr.training.identity import decisive_settings, run_name

IN_FORCE: dict[str, Any] = {
    "data": "d",
    "image_size": 32,
    "precision": "float32",
    "channels_last": True,
}


def identity(*overrides: str, **changes: Any) -> str:
    config = compose("train", TrainConfig, overrides)
    return digest_of(decisive_settings(config, **{**IN_FORCE, **changes}))


BASE = identity()


@pytest.mark.parametrize(
    "override",
    [
        "augment=none",
        "augment.transforms=[{name: HorizontalFlip, p: 0.4}]",
        "augment.where=device",
        "augment.mixup=0.2",
        "augment.cutmix=0.2",
        "balance=0.5",
        "start_image_size=16",
        "grow_percent=50",
        "model=effnet_b0",
        "model.weights=none",
        "model.drop_rate=0.21",
        "objective=regression",
        "optimizer=adam",
        "optimizer.weight_decay=0.02",
        "optimizer.betas=[0.9,0.99]",
        "schedule=cosine",
        "schedule.max_lr=2e-3",
        "schedule.ramp_epochs=1",
        "schedule.by=epoch",
        "batch_size=33",
        "epochs=6",
        "folds=4",
        "fold_column=split",
        "seed=1",
        "select=best",
        "select_metric=loss",
    ],
)
def test_a_scientific_setting_makes_another_run(override: str) -> None:
    assert identity(override) != BASE


@pytest.mark.parametrize(
    "change",
    [{"data": "e"}, {"image_size": 64}, {"precision": "bfloat16"}, {"channels_last": False}],
    ids=str,
)
def test_data_size_precision_and_layout_make_another_run(change: dict[str, Any]) -> None:
    assert identity(**change) != BASE


@pytest.mark.parametrize(
    "override",
    [
        "outputs=/elsewhere",
        "cache=/elsewhere",
        "loader.threads=3",
        "loader.prefetch=9",
        "fold=1",
        "fold=[0,2]",
        "workers=3",
        "resume=never",
        "rerun=/runs/x",
        "accel=cuda",
        "accel.threads=1",
        "accel.devices=2",
        "accel.precision=float32",
        "accel.channels_last=true",
        "image_size=32",
        "shards=/moved",
        "test=/elsewhere",
        "source_weights=null",
        "data=eyepacs",
        "preparation=seed",
        "on_error=skip",
        "batch_size=32",
    ],
)
def test_what_does_not_decide_the_result_makes_no_other_run(override: str) -> None:
    assert identity(override) == BASE


def test_the_name_is_model_schedule_and_identity() -> None:
    config = compose("train", TrainConfig, ["model.name='hf-hub:x/y z'"])
    assert run_name(config, "0123456789") == "hf-hub_x_y_z_ramp_decay_01234567"
