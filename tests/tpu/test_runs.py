import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from dr.accel.base import Accelerator
from dr.config import TrainConfig
from dr.training import loop
from dr.training.control import FoldControl
from dr.training.cross_validation import Outcome, cross_validate

Make = Callable[..., TrainConfig]
CLOSE = 1e-4
"""Sums of float32 in another order differ by a few 1e-7 of a value; Adam's first steps, which
divide a gradient by its own size, carry that into the weights, and some epochs add it up."""
BIASED = 5e-3
"""XLA's BatchNorm keeps the mean squared deviation of n values, torch's that over n - 1: at 12
pictures whose last maps have 4 x 4 values or fewer it shows where the kept statistics are used."""


class Killed(BaseException):
    """Stands for SIGKILL: nothing on the way can take it for an error."""


@pytest.fixture
def on_tpu(tiny_config: Make) -> Make:
    """`tiny_config` of a network that XLA compiles quickly, on the TPU."""
    import tiny_network  # noqa: F401

    def make(*changes: str) -> TrainConfig:
        base = ("accel=tpu", "accel.threads=null", "accel.channels_last=null")
        config = tiny_config(*base, "model.name=tiny_network", "batch_size=12", *changes)
        return dataclasses.replace(config, fold=[0])

    return make


def on_cpu(config: TrainConfig, outputs: Path) -> TrainConfig:
    accel = dataclasses.replace(config.accel, name="cpu", channels_last=False)
    return dataclasses.replace(config, accel=accel, outputs=str(outputs))


def run(config: TrainConfig) -> Outcome:
    outcome = cross_validate(config)
    assert outcome is not None
    return outcome


def weights(outcome: Outcome, fold: int = 0) -> dict[str, np.ndarray]:
    return load_file(outcome.folder / f"fold-{fold}" / "model.safetensors")


def history(outcome: Outcome, fold: int = 0) -> pd.DataFrame:
    return pd.read_csv(outcome.folder / f"fold-{fold}" / "history.csv")


def predictions(outcome: Outcome, fold: int = 0) -> pd.DataFrame:
    return pd.read_csv(outcome.folder / f"fold-{fold}" / "predictions.csv").set_index("name")


def test_a_run_is_that_of_the_cpu(tpu: Accelerator, on_tpu: Make, tmp_path: Path) -> None:
    changes = ("model.name=test_efficientnet", "schedule.max_lr=0.0005", "epochs=3")
    config = on_tpu(*changes)
    found, plain = run(config), run(on_cpu(config, tmp_path / "cpu"))
    losses, expected = history(found), history(plain)
    np.testing.assert_allclose(losses["train_loss"], expected["train_loss"], rtol=CLOSE)
    np.testing.assert_allclose(losses["loss"], expected["loss"], rtol=BIASED)
    here, there = predictions(found), predictions(plain)
    assert len(here) == 20
    assert sorted(here.index) == sorted(set(there.index))
    assert (here["label"] == there["label"][here.index]).all()
    np.testing.assert_allclose(here["score"], there["score"][here.index], atol=4 * BIASED)


def test_nothing_compiles_after_the_second_step_and_the_first_evaluation(
    tpu: Accelerator, counters: Any, on_tpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[tuple[str, int]] = []

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            before = counters.compiled
            result = function(*given, **named)
            compiled.append((name, counters.compiled - before))
            return result

        return counted

    monkeypatch.setattr(loop, "train_step", counting("step", loop.train_step))
    monkeypatch.setattr(loop, "_scored", counting("score", loop._scored))
    changes = ("ema_decay=0.9", "schedule=cosine", "optimizer.clip_norm=1", "augment.mixup=0.2")
    drops = ("model.drop_rate=0.3", "model.drop_path_rate=0.3", "save_minutes=0", "epochs=3")
    outcome = run(dataclasses.replace(on_tpu(*changes, *drops), fold=[0, 1]))
    first = [("step", 1), ("step", 1), ("step", 0), ("score", 1), ("score", 0)]
    other = [("step", 0)] * 3 + [("score", 0)] * 2
    assert compiled == first + other * 5
    assert counters.compiled == 3
    assert counters.fallbacks == set()
    names = [*predictions(outcome).index, *predictions(outcome, 1).index]
    assert len(names) == len(set(names)) == 40


@pytest.mark.parametrize("stop", [2, 4])
def test_a_killed_run_goes_on_to_the_same_bits(
    stop: int, tpu: Accelerator, on_tpu: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ("ema_decay=0.9", "schedule=cosine", "optimizer.clip_norm=1", "save_minutes=0")
    config = on_tpu(*changes, "model.drop_rate=0.3", "model.drop_path_rate=0.3")
    whole = run(dataclasses.replace(config, outputs=str(tmp_path / "whole")))
    after_step = FoldControl.after_step

    def killing(self: FoldControl, tally: loop.Tally, reason: int) -> None:
        after_step(self, tally, reason)
        if 3 * self._state.epoch + tally.step == stop:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(FoldControl, "after_step", killing)
        with pytest.raises(Killed):
            run(config)
    resumed = run(config)
    before, now = weights(whole), weights(resumed)
    assert before.keys() == now.keys()
    for name, value in before.items():
        assert np.array_equal(now[name], value), name
    kept = ["train_loss", "loss", "qwk"]
    pd.testing.assert_frame_equal(history(resumed)[kept], history(whole)[kept], check_exact=True)
    pd.testing.assert_frame_equal(predictions(resumed), predictions(whole), check_exact=True)


def test_a_run_goes_on_on_the_cpu(
    tpu: Accelerator, on_tpu: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = on_tpu("save_minutes=0", "optimizer=adamw")
    with monkeypatch.context() as patched:
        patched.setattr(FoldControl, "check", _killed)
        with pytest.raises(Killed):
            run(config)
    plain = on_cpu(config, Path(config.outputs))
    assert len(history(run(plain))) == 2


def _killed(self: FoldControl) -> None:
    raise Killed


def test_what_is_not_finite_stops_the_run_and_keeps_nothing(
    tpu: Accelerator, on_tpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = on_tpu("save_minutes=0")
    build = loop.train_step

    def poisoned(learner: Any, batch: Any, **named: Any) -> Any:
        if named["key"][-1] == 1:
            learner.mean = learner.mean * np.nan
        return build(learner, batch, **named)

    monkeypatch.setattr(loop, "train_step", poisoned)
    with pytest.raises(
        ValueError, match=r"fold 0, epoch 1, step 2: the loss is nan.*_(left|right)"
    ):
        run(config)
    from dr.training.checkpoint import load_checkpoint

    (folder,) = Path(config.outputs).glob("tiny_network_*/fold-0")
    packed = load_checkpoint(folder)
    assert packed is not None
    assert all(np.isfinite(value.numpy()).all() for value in packed["model"].values())


def test_a_batch_that_does_not_split_makes_no_run_folder(
    tpu: Accelerator, on_tpu: Make, devices: int
) -> None:
    config = on_tpu("accel.accumulate=5")
    with pytest.raises(ValueError, match=rf"batch_size=12: must be a multiple of {5 * devices}"):
        run(config)
    assert not list(Path(config.outputs).glob("*_*"))


def test_each_size_of_a_growing_run_compiles_once(
    tpu: Accelerator, counters: Any, on_tpu: Make, caplog: pytest.LogCaptureFixture
) -> None:
    run(on_tpu("start_image_size=16", "epochs=4", "batch_size=8"))
    assert "the network is compiled for each of 16, 32 px" in caplog.text
    first_two_steps, evaluation, the_other_size = 2, 1, 1
    assert counters.compiled == first_two_steps + evaluation + the_other_size


def test_a_trained_run_grades_photographs(
    tpu: Accelerator, counters: Any, on_tpu: Make, tiny_photographs: Path, tmp_path: Path
) -> None:
    from dr.compose import compose
    from dr.config import PredictConfig
    from dr.predict import main

    outcome = run(dataclasses.replace(on_tpu("epochs=1"), fold="all"))
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(tiny_photographs.glob("*.png"))[:7]:
        shutil.copy(path, few)
    graded = []
    for accel in ("tpu", "cpu"):
        out = tmp_path / f"{accel}.csv"
        given = [f"run={outcome.folder}", f"images={few}", f"out={out}", f"accel={accel}"]
        main(compose("predict", PredictConfig, [*given, "accel.precision=float32", "batch_size=4"]))
        graded.append(pd.read_csv(out))
    pd.testing.assert_frame_equal(*graded)
    assert len(graded[0]) == 7
    assert counters.fallbacks == set()
