import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dr import find_lr as door
from dr.checks import check_find_lr
from dr.compose import compose
from dr.config import FindLrConfig, TrainConfig
from dr.training.lr_range import LrRange, find_lr, smooth, suggest

STEPS = 100
RATES = np.geomspace(1e-7, 10, STEPS)


def tried(losses: np.ndarray) -> LrRange:
    return smooth(RATES, losses, width=STEPS / 25)


def valley(noise: float, seed: int) -> np.ndarray:
    """Loss 1.6 at small rates, steepest at 1e-3, lowest at about 1e-2, then diverging."""
    log = np.log10(RATES)
    fall = 1 / (1 + np.exp(-4 * (log + 3)))
    return 1.6 - fall + 3 * np.maximum(log + 2, 0) ** 2 + noise * normal(seed)


def normal(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=STEPS)


@pytest.mark.parametrize("noise", [0.0, 0.03, 0.1])
def test_the_steepest_and_the_lowest_rate_of_a_known_curve_are_found(noise: float) -> None:
    for seed in range(20):
        found = suggest(tried(valley(noise, seed)), steps=STEPS)
        assert found is not None
        assert abs(np.log10(found.steepest) + 3) < 0.4
        assert abs(np.log10(found.lowest) + 2) < 0.5
        assert found.steepest < found.lowest


def test_noise_alone_suggests_nothing() -> None:
    suggested = [suggest(tried(1.6 + 0.1 * normal(seed)), steps=STEPS) for seed in range(300)]
    assert sum(found is not None for found in suggested) <= 3


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_a_loss_that_only_stays_or_rises_suggests_nothing(slope: float) -> None:
    assert suggest(tried(np.linspace(1.0, 1.0 + slope, STEPS)), steps=STEPS) is None


def test_a_diverging_end_does_not_reach_back_and_is_left_out_where_not_finite() -> None:
    losses = valley(0.0, 0)
    wild = losses.copy()
    wild[-5:] = [1e9, 1e30, np.inf, np.nan, np.nan]
    calm = suggest(tried(losses), steps=STEPS)
    found = tried(wild)
    assert len(found.rates) == len(found.losses) == len(found.smoothed) == STEPS - 3
    assert suggest(found, steps=STEPS) == calm


def test_a_loss_that_is_never_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite at lowest_lr"):
        tried(np.full(STEPS, np.nan))


@pytest.fixture
def lr_config(tiny_overrides: list[str], tmp_path: Path) -> FindLrConfig:
    overrides = [*tiny_overrides, "steps=40", "lowest_lr=1e-5", f"out={tmp_path / 'lr.png'}"]
    config = compose("find_lr", FindLrConfig, overrides)
    assert check_find_lr(config) == []
    return config


def test_the_door_writes_a_picture_and_its_numbers_and_no_run(
    lr_config: FindLrConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = door.main(lr_config)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"steepest descent: schedule.max_lr={rate:.2g}"
    assert said[2:] == [str(tmp_path / "lr.png"), str(tmp_path / "lr.csv")]
    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "lr.csv").open() as file:
        rows = list(csv.DictReader(file))
    rates = [float(row["learning_rate"]) for row in rows]
    np.testing.assert_allclose(rates, np.geomspace(1e-5, 10, 40)[: len(rates)], rtol=1e-5)
    assert min(rates) < rate < max(rates)
    assert not list((tmp_path / "outputs").glob("[!.]*"))
    with pytest.raises(ValueError, match=r"lr\.png is there already; add overwrite=true"):
        door.main(lr_config)


@pytest.mark.parametrize(
    "changes", [["optimizer=sgd", "objective=regression"], ["optimizer.freeze_epochs=1"]]
)
def test_a_test_is_the_same_at_the_same_seed(tiny_overrides: list[str], changes: list[str]) -> None:
    overrides = [*tiny_overrides, "steps=20", *changes]
    config = compose("find_lr", FindLrConfig, overrides)
    one, again = find_lr(config), find_lr(config)
    np.testing.assert_array_equal(one.losses, again.losses)
    other = find_lr(dataclasses.replace(config, seed=1))
    assert not np.array_equal(one.losses[:10], other.losses[:10])


def test_a_range_without_a_descent_is_drawn_and_refused(
    lr_config: FindLrConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low = dataclasses.replace(lr_config, lowest_lr=1e-12, highest_lr=1e-11, steps=20)
    with pytest.raises(ValueError, match=r"falls at no rate from 1e-12 to 1e-11 \(see .*lr\.png"):
        door.main(low)
    assert (tmp_path / "lr.png").is_file()
    assert capsys.readouterr().out == ""


def test_the_config_is_that_of_a_training() -> None:
    overrides = ["experiment=retinamnist", "optimizer=sgd"]
    found = compose("find_lr", FindLrConfig, overrides)
    training = compose("train", TrainConfig, overrides)
    for field in dataclasses.fields(TrainConfig):
        assert getattr(found, field.name) == getattr(training, field.name)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["lowest_lr=0"], "lowest_lr"),
        (["highest_lr=1e-9"], "highest_lr"),
        (["highest_lr=inf"], "highest_lr"),
        (["steps=19"], "steps"),
        (["accel.devices=2"], "accel.devices"),
        (["fold=[0,1]"], "fold"),
        (["rerun=/run"], "rerun"),
        (["out=a.jpg"], "out"),
        (["overwrite=true"], "overwrite"),
        (["batch_size=0"], "batch_size"),
    ],
)
def test_what_a_range_test_cannot_do_is_one_problem(overrides: list[str], key: str) -> None:
    found = check_find_lr(compose("find_lr", FindLrConfig, overrides))
    assert [problem.key for problem in found] == [key]
