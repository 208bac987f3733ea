import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from dr.config import TrainConfig
from dr.scoring.metrics import SCORES, score_predictions
from dr.training import fold as fold_module
from dr.training.cross_validation import cross_validate
from dr.training.history import TIMINGS, best_epoch, kept_epoch, read_history

Make = Callable[..., TrainConfig]
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


def interrupt_in_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Let the second batch's step of `epoch` (from 0) fail as a lost machine would."""
    original = fold_module.train_epoch

    def broken(learner: Any, loader: Any, **given: Any) -> Any:
        def done(count: int) -> None:
            given["done"](count)
            if given["drawing"].epoch == epoch:
                raise KeyboardInterrupt

        return original(learner, loader, **{**given, "done": done})

    monkeypatch.setattr(fold_module, "train_epoch", broken)


@pytest.mark.parametrize("select", ["last", "best", "cross"])
def test_a_resumed_run_equals_one_that_was_not_interrupted(
    tiny_config: Make, tmp_path: Path, select: str
) -> None:
    changes = (f"select={select}", "augment=fundus", "model.drop_rate=0.2", "schedule=cosine")
    changes += ("schedule.max_lr=0.01", "epochs=3", f"folds={3 if select == 'cross' else 2}")
    whole = cross_validate(tiny_config(*changes, f"outputs={tmp_path / 'whole'}"))
    broken = tiny_config(*changes, f"outputs={tmp_path / 'broken'}")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_in_epoch(patch, 1)
        with pytest.raises(KeyboardInterrupt):
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


def test_a_loss_that_is_not_finite_stops_with_advice(tiny_config: Make) -> None:
    with pytest.raises(ValueError, match=r"loss became nan in epoch \d; lower schedule.max_lr"):
        cross_validate(tiny_config("schedule.max_lr=1e30", "optimizer=sgd"))
