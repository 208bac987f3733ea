import csv
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from dr.config import TrainConfig
from dr.modeling.objectives.classification import CrossEntropy
from dr.scoring.metrics import SCORES, score_predictions
from dr.training import fold as fold_module
from dr.training import folds as folds_module
from dr.training.cross_validation import cross_validate
from dr.training.history import TIMINGS, best_epoch, kept_epoch, read_history
from dr.training.interruption import Interrupted, Stopper

Make = Callable[..., TrainConfig]
LostIn = Callable[[int], AbstractContextManager[None]]
TIMES = set(TIMINGS)


def rows(values: list[float | None], name: str = "qwk") -> list[dict[str, Any]]:
    return [{"loss": 1.0, "qwk": None, name: value} for value in values]


@pytest.mark.parametrize(
    ("changes", "history", "epoch"),
    [
        (["select=last"], rows([0.9, 0.2, 0.3]), 3),
        (["select=best"], rows([0.1, 0.9, 0.3]), 2),
        (["select=best"], rows([0.5, 0.7, 0.7]), 2),
        (["select=best"], rows([None, 0.1, None]), 2),
        (["select=best", "select_metric=loss"], rows([0.9, 0.2, 0.3], "loss"), 2),
    ],
)
def test_the_kept_epoch(
    tiny_config: Make, changes: list[str], history: list[dict[str, Any]], epoch: int
) -> None:
    assert kept_epoch(history, tiny_config(*changes)) == epoch


def test_the_best_epoch_is_the_earliest_of_equals() -> None:
    assert best_epoch([0.1, 0.4, 0.4]) == 2


@pytest.mark.parametrize("select", ["last", "best", "cross"])
def test_a_resumed_run_equals_one_that_was_not_interrupted(
    tiny_config: Make, interrupted_in_epoch: LostIn, tmp_path: Path, select: str
) -> None:
    changes = (f"select={select}", "augment=fundus", "model.drop_rate=0.2", "schedule=cosine")
    changes += ("schedule.max_lr=0.01", "epochs=3", f"folds={3 if select == 'cross' else 2}")
    whole = cross_validate(tiny_config(*changes, f"outputs={tmp_path / 'whole'}"))
    broken = tiny_config(*changes, f"outputs={tmp_path / 'broken'}")
    with interrupted_in_epoch(1):
        cross_validate(broken)
    run = next((tmp_path / "broken").glob("test_*"))
    assert len(read_history(run / "fold-0")) == 1
    torch.rand(7)  # a resumed process has drawn other random numbers before
    resumed = cross_validate(broken)
    assert resumed.folder == run
    assert resumed.result == whole.result
    for fold in whole.result["folds"]:
        same_fold(whole.folder / f"fold-{fold}", run / f"fold-{fold}")


def same_fold(one: Path, other: Path) -> None:
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    assert (one / "predictions.csv").read_bytes() == (other / "predictions.csv").read_bytes()
    weights, again = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    kept = [{key: row[key] for key in row if key not in TIMES} for row in read_history(one)]
    assert kept == [
        {key: row[key] for key in row if key not in TIMES} for row in read_history(other)
    ]


def fail(*given: Any) -> None:
    raise KeyboardInterrupt


def test_a_fold_cut_off_before_its_scores_were_written_is_finished(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tiny_config("folds=2")
    original = fold_module.finish_fold
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_module, "finish_fold", fail)
        with pytest.raises(KeyboardInterrupt):
            cross_validate(config)
    assert fold_module.finish_fold is original
    epochs: list[int] = []
    interrupted = fold_module.train_epoch

    def counted(*given: Any, **named: Any) -> Any:
        epochs.append(named["drawing"].epoch)
        return interrupted(*given, **named)

    monkeypatch.setattr(fold_module, "train_epoch", counted)
    assert cross_validate(config).result["complete"]
    assert epochs == [0, 1]  # fold 1 only


def test_predictions_hold_each_held_out_record_once_and_give_the_scores(
    tiny_config: Make,
) -> None:
    outcome = cross_validate(tiny_config("batch_size=8"))
    folds = pd.read_csv(outcome.folder / "folds.csv", dtype={"patient": str})
    for fold, entry in outcome.result["folds"].items():
        table = pd.read_csv(
            outcome.folder / f"fold-{fold}" / "predictions.csv", dtype={"patient": str}
        )
        expected = folds[folds["fold"] == int(fold)]
        assert len(expected) % 8  # the last batch is not full
        columns = ["name", "patient", "fold", "label"]
        assert sorted(table[columns].values.tolist()) == sorted(expected[columns].values.tolist())
        chances = table[["p0", "p1", "p2", "p3", "p4"]].to_numpy()
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(table["score"], chances @ np.arange(5), atol=1e-4)
        losses = -np.log(chances[np.arange(len(table)), table["label"]])
        scores = score_predictions(labels=table["label"], probabilities=chances, losses=losses)
        assert entry["records"] == len(table)
        assert {key: entry[key] for key in SCORES} == pytest.approx(scores, abs=1e-4)
        with (outcome.folder / f"fold-{fold}" / "history.csv").open() as file:
            history = list(csv.DictReader(file))
        assert [row["epoch"] for row in history] == ["1", "2"]
        assert float(history[-1]["qwk"]) == entry["qwk"]


def test_select_best_keeps_the_best_epoch_and_is_marked_optimistic(tiny_config: Make) -> None:
    config = tiny_config("select=best", "epochs=4", "folds=2", "schedule.max_lr=0.05")
    result = cross_validate(config)
    assert result.result["optimistic"]
    for fold, entry in result.result["folds"].items():
        curve = [row["qwk"] for row in read_history(result.folder / f"fold-{fold}")]
        assert entry["epoch"] == int(np.argmax(curve)) + 1
        assert entry["qwk"] == max(curve)


def test_a_loss_that_is_not_finite_stops_with_place_records_and_advice(tiny_config: Make) -> None:
    where = r"fold 0, epoch 1, step \d: the loss is nan, .* on the records \d+_(left|right), "
    with pytest.raises(ValueError, match=where + r".*; lower schedule\.max_lr"):
        cross_validate(tiny_config("schedule.max_lr=1e30", "optimizer=sgd"))


def poisoned(bad: int) -> Any:
    """A loss that is not finite in call number `bad` of the training, counted from 0."""
    calls = iter(range(1000))
    original = CrossEntropy.training_losses

    def losses(self: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        found = original(self, logits, labels)
        return found * float("nan") if next(calls) == bad else found

    return losses


def test_batches_that_are_not_finite_can_be_left_out(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is left out leaves no trace: neither in the weights nor in running statistics."""
    caplog.set_level("INFO")
    monkeypatch.setattr(CrossEntropy, "training_losses", poisoned(bad=2))
    config = tiny_config("fold=0", "epochs=1", "skip_nonfinite=1")
    outcome = cross_validate(config)
    assert "step 3: the loss is nan" in caplog.text and "(0 more may be)" in caplog.text
    history = read_history(outcome.folder / "fold-0")
    assert history[0]["not_finite"] == 1 and history[0]["train_loss"] < 10
    weights = load_file(outcome.folder / "fold-0" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())
    # num_batches_tracked counts the three other batches of the epoch
    counted = {int(v) for name, v in weights.items() if name.endswith("num_batches_tracked")}
    assert counted == {3}


class Stop(Stopper):
    """Stops as by SIGTERM when it was asked `after` times."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after

    def reason(self) -> int:
        self._left -= 1
        return int(signal.SIGTERM) if self._left < 0 else 0


@pytest.mark.parametrize("after", [0, 1, 3, 4, 5, 9, 13])
def test_a_stop_within_an_epoch_goes_on_to_the_bit(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """4 steps and 2 batches of evaluation an epoch: stops fall into either."""
    changes = ("fold=0", "epochs=3", "augment=fundus", "model.drop_rate=0.3", "optimizer=adamw")
    whole = cross_validate(tiny_config(*changes, f"outputs={tmp_path / 'whole'}"))
    broken = tiny_config(*changes, f"outputs={tmp_path / 'broken'}")
    with monkeypatch.context() as patch:
        patch.setattr(folds_module, "Stopper", lambda limit: Stop(after))
        with pytest.raises(Interrupted, match="SIGTERM") as stopped:
            cross_validate(broken)
    assert stopped.value.exit_code == 143
    again = cross_validate(broken)
    same_fold(whole.folder / "fold-0", again.folder / "fold-0")


def test_accumulation_takes_the_same_step_where_nothing_looks_across_a_batch(
    tiny_config: Make,
) -> None:
    """LayerNorm sees each picture alone, so parts of a batch add up to it."""
    changes = ("fold=0", "model.name=test_vit", "image_size=160", "schedule.max_lr=0.001")
    one = cross_validate(tiny_config(*changes))
    parts = cross_validate(tiny_config(*changes, "accel.accumulate=3"))
    assert one.folder != parts.folder
    losses = [
        [row["train_loss"] for row in read_history(outcome.folder / "fold-0")]
        for outcome in (one, parts)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
