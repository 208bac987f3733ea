"""Mixing, balance and growing pictures in whole trainings of the tiny data set."""

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dr.accel.cpu import CPU
from dr.config import AccelConfig, AugmentConfig, ObjectiveConfig, TrainConfig
from dr.loading.batches import Batch
from dr.modeling.objectives import build_objective
from dr.shards.labels import read_label_source
from dr.shards.packing import Packing, pack
from dr.training.cross_validation import cross_validate
from dr.training.experiment import check_experiment
from dr.training.history import TIMINGS, read_history
from dr.training.interruption import Interrupted, Stopper
from dr.training.learner import Learner
from dr.training.loop import train_step
from dr.training.trial import trial_job
from tests.conftest import PLAIN, SIZE, tiny_data, write_tiny_photographs

Make = Callable[..., TrainConfig]
RECIPE = ("augment=flips", "augment.mixup=0.4", "augment.cutmix=1", "balance=0.7")
GROWING = ("start_image_size=16", "grow_percent=50", "epochs=4")
EVERYTHING = (*RECIPE, *GROWING, "folds=2", "model.drop_rate=0.2")


@pytest.fixture(scope="session")
def skewed_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 records, 36 of them of grade 0, 12 each of grades 3 and 4."""
    folder = tmp_path_factory.mktemp("skewed")
    labels = write_tiny_photographs(folder / "photographs")
    table = pd.read_csv(labels)
    table["level"] = table["level"].where(table["level"] > 2, 0)
    table.to_csv(labels, index=False)
    source = read_label_source(tiny_data(folder / "photographs"), cache=folder)
    packing = Packing(
        source=source, preparation=PLAIN, image_size=SIZE, folder=folder / "shards", workers=1
    )
    pack(packing)
    return folder / "shards"


def left_behind(folder: Path) -> dict[str, Any]:
    """Weights and predictions to the bit, and the history less its times."""
    found: dict[str, Any] = {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in ("fold-*/model.safetensors", "fold-*/predictions.csv")
        for path in sorted(folder.glob(pattern))
    }
    for fold in (0, 1):
        found[f"history {fold}"] = [
            {key: value for key, value in row.items() if key not in TIMINGS}
            for row in read_history(folder / f"fold-{fold}")
        ]
    return found


def stops_after(patch: pytest.MonkeyPatch, calls: int) -> None:
    """Let a training be asked to stop when it has asked itself `calls` times."""
    left = iter(range(calls))
    patch.setattr(Stopper, "reason", lambda self: 0 if next(left, None) is not None else _TERM)


_TERM = int(signal.SIGTERM)


def test_a_training_with_all_of_it_resumes_to_the_bit(
    tiny_config: Make, skewed_shards: Path, tmp_path: Path
) -> None:
    """Stopped within small and full-sized epochs, in an evaluation, and in the second fold."""
    changes = (*EVERYTHING, f"shards={skewed_shards}")
    whole = cross_validate(tiny_config(*changes, f"outputs={tmp_path / 'whole'}"))
    broken = tiny_config(*changes, f"outputs={tmp_path / 'broken'}")
    for calls in (1, 4, 9, 12):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
            stops_after(patch, calls)
            cross_validate(broken)
    resumed = cross_validate(broken)
    assert whole is not None
    assert resumed is not None
    expected, found = left_behind(whole.folder), left_behind(resumed.folder)
    assert len(expected) == 6
    assert found == expected


def test_epochs_are_trained_at_their_size_and_scored_at_the_full_one(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    original = Learner.inputs

    def noted(self: Learner, batch: Batch, *given: Any) -> torch.Tensor:
        sizes.append(batch.images.shape[1])
        return original(self, batch, *given)

    monkeypatch.setattr(Learner, "inputs", noted)
    cross_validate(tiny_config(*GROWING, "fold=0"))
    training, scoring = 4, 2
    small, full = [16] * training + [32] * scoring, [32] * (training + scoring)
    assert sizes == small + full * 3


def test_a_decoded_cache_of_each_size_changes_nothing(
    tiny_config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [
        cross_validate(
            tiny_config(*GROWING, "folds=2", f"loader.cache={cache}", f"outputs={tmp_path / cache}")
        )
        for cache in ("none", "decoded")
    ]
    first, second = (left_behind(run.folder) for run in runs if run is not None)
    assert first == second
    made = sorted(
        path.name.split("px")[0] for path in tmp_path.glob("decoded/.cache/decoded/[0-9]*")
    )
    assert made == ["16", "32"]
    assert "keeps the pictures at each of 16, 32 px, 0.0 GB in all" in caplog.text


def test_a_network_of_one_size_cannot_grow(tiny_config: Make, tmp_path: Path) -> None:
    model = "model.name=vit_tiny_patch16_224"
    with pytest.raises(ValueError, match=r"start_image_size=16: vit_tiny_\w+ doesn't take 16 px"):
        cross_validate(tiny_config(*GROWING, model))
    assert not (tmp_path / "outputs").exists()
    check_experiment(tiny_config(model))


def test_growth_is_checked_beside_the_size_of_the_shards(tiny_config: Make) -> None:
    with pytest.raises(ValueError, match=r"start_image_size=32: must be below image_size=32"):
        check_experiment(tiny_config("start_image_size=32"))


def test_augmentation_is_checked_at_every_size(tiny_config: Make) -> None:
    crop = "augment.transforms=[{name: RandomCrop, height: 32, width: 32}]"
    check_experiment(tiny_config(crop))
    with pytest.raises(ValueError, match=r"augment.transforms\[0\].*fails on a \(16, 16, 3\)"):
        check_experiment(tiny_config(crop, *GROWING))


@pytest.mark.parametrize("setting", ["accel.compile=true", "accel=tpu"])
def test_growth_says_that_a_compiler_has_more_to_do(
    tiny_config: Make, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_experiment(tiny_config(*GROWING, setting))
    assert "compiled for each of 16, 32 px" in caplog.text


@pytest.mark.parametrize(("balance", "counts"), [(0.0, [24, 8, 8]), (1.0, [14, 13, 13])])
def test_balance_evens_out_what_a_fold_trains_on(
    tiny_config: Make,
    skewed_shards: Path,
    balance: float,
    counts: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    config = tiny_config(f"shards={skewed_shards}", f"balance={balance}")
    job = trial_job(config, CPU(AccelConfig(name="cpu")))
    drawn = np.concatenate(job.plan(0))
    assert np.bincount(job.labels[drawn % 60]).tolist() == [counts[0], 0, 0, *counts[1:]]
    assert len(np.unique(drawn)) == 40
    assert ("grade 4: 13 of 40 records an epoch, each 1.62 times" in caplog.text) == (balance > 0)


def test_balance_holds_within_each_of_several_sources(
    tiny_config: Make, tiny_shards: Path, skewed_shards: Path
) -> None:
    both = (f"shards=[{skewed_shards},{tiny_shards}]", "source_weights=[1,2]")
    job = trial_job(tiny_config(*both, "balance=1"), CPU(AccelConfig(name="cpu")))
    drawn = np.concatenate(job.plan(0)) % 120
    skewed, even = drawn[drawn < 60], drawn[drawn >= 60]
    assert sorted(np.bincount(job.labels[skewed], minlength=5)) == [0, 0, 9, 9, 9]
    assert sorted(np.bincount(job.labels[even])) == [10, 10, 11, 11, 11]


@pytest.fixture
def batch() -> Iterator[Batch]:
    random = np.random.default_rng(3)
    yield Batch(random.integers(0, 256, (12, 8, 8, 3), np.uint8), np.arange(12))


def plain_learner(accumulate: int, **mixing: float) -> Learner:
    torch.manual_seed(0)
    objective = build_objective(
        ObjectiveConfig(name="cross_entropy", class_weights=0.5), label_counts=[9, 3, 2, 1, 1]
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    return Learner(
        model=model,
        objective=objective,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        accelerator=CPU(AccelConfig(name="cpu", precision="float32", channels_last=False)),
        mean=torch.full((1, 3, 1, 1), 0.5),
        std=torch.full((1, 3, 1, 1), 0.25),
        mixing=AugmentConfig(**mixing),
        accumulate=accumulate,
    )


def step_of(learner: Learner, batch: Batch, step: int = 0) -> tuple[float, torch.Tensor]:
    labels = np.array([0, 1, 2, 3, 4, 0, 0, 1])
    figures = train_step(
        learner, batch, labels=labels, drawing=None, learning_rate=0.1, key=(0, 0, 0, step)
    )
    return figures.loss, torch.cat([value.flatten() for value in learner.model.parameters()])


@pytest.mark.parametrize("mixing", [{"mixup": 0.5}, {"cutmix": 1.0}], ids=str)
def test_micro_batches_mix_as_the_whole_batch_does(mixing: dict[str, float], batch: Batch) -> None:
    loss, weights = step_of(plain_learner(1, **mixing), batch)
    for accumulate in (2, 3):
        parts_loss, parts_weights = step_of(plain_learner(accumulate, **mixing), batch)
        assert parts_loss == pytest.approx(loss, rel=1e-6)
        torch.testing.assert_close(parts_weights, weights, rtol=1e-5, atol=1e-6)


def test_mixing_depends_on_the_step_and_without_it_nothing_changes(batch: Batch) -> None:
    unmixed, _ = step_of(plain_learner(1), batch)
    losses = [step_of(plain_learner(1, mixup=0.5), batch, step)[0] for step in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert unmixed not in losses
    none, _ = step_of(plain_learner(1, mixup=0.0, cutmix=0.0), batch, 5)
    assert none == unmixed
