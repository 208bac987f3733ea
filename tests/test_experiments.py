import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dr.checks import check_train
from dr.compose import compose, conf_folder
from dr.config import Adam, MedMNISTData, RampDecay, TableData, TrainConfig
from dr.training.cross_validation import cross_validate
from dr.training.schedules import learning_rate

EXPERIMENTS = sorted(path.stem for path in (conf_folder() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_composes_without_a_problem(name: str) -> None:
    config = compose("train", TrainConfig, [f"experiment={name}"])
    own = {problem.key for problem in check_train(config)}
    assert own <= {"data.images", "data.labels"}  # a user's own paths


def test_the_seed_experiment_is_its_recipe() -> None:
    config = compose("train", TrainConfig, ["experiment=seed_2020"])
    assert (
        dataclasses.asdict(config.preparation).items()
        >= {
            "decode": "full",
            "crop": "gray",
            "crop_threshold": 7,
            "fit": "stretch",
            "filter": "unsharp",
            "filter_sigma": 10.0,
            "filter_relative": False,
            "jpeg_quality": 94,
            "jpeg_chroma": "420",
        }.items()
    )
    assert (config.model.name, config.objective.name) == ("tf_efficientnet_b4", "cross_entropy")
    assert isinstance(config.optimizer, Adam)
    assert (config.optimizer.eps, config.optimizer.weight_decay) == (1e-7, 0)
    assert (config.image_size, config.batch_size, config.epochs) == (512, 24, 25)
    assert (config.folds, config.seed) == (5, 42)
    assert (config.select, config.select_metric) == ("best", "loss")
    flip, rotation = config.augment.transforms
    assert flip["name"] == "HorizontalFlip"
    assert (rotation["name"], rotation["limit"]) == ("Rotate", [-0.4 * 360, 0.4 * 360])


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (1, 5e-6),
        (2, 1e-5),
        (5, 2.5e-5),
        (6, 3e-5),
        (8, 3e-5),
        (9, 2.42e-5),
        (10, 1.956e-5),
        (13, 1.050272e-5),
        (18, 4.113851e-6),
        (25, 1.653022e-6),
    ],
)
def test_the_seed_experiment_has_the_rates_that_were_logged(epoch: int, rate: float) -> None:
    schedule = compose("train", TrainConfig, ["experiment=seed_2020"]).schedule
    assert isinstance(schedule, RampDecay)
    for within in (0, 9):
        step = (epoch - 1) * 10 + within
        found = learning_rate(schedule, step=step, steps_per_epoch=10, epochs=25)
        assert found == pytest.approx(rate, rel=1e-6)


def source_overrides(name: str, table: TableData, folder: Path) -> list[str]:
    """The experiment's own kind of source, made up and tiny."""
    if not isinstance(compose("train", TrainConfig, [f"experiment={name}"]).data, MedMNISTData):
        return ["data=eyepacs", f"data.images={table.images}", f"data.labels={table.labels}"]
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 30), ("val", 20)):
        arrays[f"{split}_images"] = random.integers(0, 256, (count, 28, 28, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count, dtype=np.uint8)[:, None] % 5
    np.savez(folder / "tiny.npz", **arrays)
    return [f"data.images={folder / 'tiny.npz'}"]


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_experiment_runs_from_its_photographs(
    name: str, tiny_source: TableData, tmp_path: Path
) -> None:
    small = ["image_size=32", "epochs=1", "batch_size=10", "folds=2", "fold=0"]
    small += ["model.name=test_efficientnet", "model.weights=none", "accel=cpu"]
    source = source_overrides(name, tiny_source, tmp_path)
    config = compose(
        "train",
        TrainConfig,
        [f"experiment={name}", *source, *small, f"outputs={tmp_path / 'runs'}"],
    )
    outcome = cross_validate(config)
    assert outcome.result["folds"]["0"]["records"] == (20 if config.fold_column else 30)
