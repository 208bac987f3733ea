"""An outside test set, scored beside the folds."""

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from dr.accel.choice import choose_accelerator
from dr.config import PreparationConfig, TrainConfig
from dr.modeling.objectives import build_objective
from dr.prediction.folds import load_run
from dr.shards.opening import open_shards
from dr.train import describe
from dr.training import fold as fold_module
from dr.training.cross_validation import Outcome, cross_validate

Make = Callable[..., TrainConfig]
CHANCES = ["p0", "p1", "p2", "p3", "p4"]


def tables_of(outcome: Outcome) -> list[pd.DataFrame]:
    return [
        pd.read_csv(path) for path in sorted(outcome.folder.glob("fold-*/test_predictions.csv"))
    ]


def fail(*given: object, **named: object) -> None:
    raise AssertionError("nothing may be trained")


@pytest.mark.parametrize("objective", ["cross_entropy", "regression"])
def test_every_fold_and_their_mean_are_scored(
    tiny_config: Make, outside_shards: Path, objective: str
) -> None:
    config = tiny_config(f"test={outside_shards}", f"objective={objective}", "epochs=3")
    outcome = cross_validate(config)
    test = outcome.result["test"]
    shards = open_shards(outside_shards)
    assert (test["name"], test["digest"], test["records"]) == ("outside", shards.digest, 20)
    tables = tables_of(outcome)
    assert [entry["fold"] for entry in test["folds"]] == [0, 1, 2]
    for entry, table in zip(test["folds"], tables, strict=True):
        assert table["name"].tolist() == shards.table["name"].tolist()
        assert table["label"].tolist() == shards.table["label"].tolist()
        assert set(table["fold"]) == {entry["fold"]}
        grades = table[CHANCES].to_numpy().argmax(axis=1)
        kappa = cohen_kappa_score(table["label"], grades, weights="quadratic")
        assert entry["qwk"] == pytest.approx(kappa)
    _, chances = build_objective(config.objective).combine(
        torch.tensor(np.stack([table["score"] for table in tables])),
        torch.tensor(np.stack([table[CHANCES] for table in tables])),
    )
    grades = chances.numpy().argmax(axis=1)
    expected = cohen_kappa_score(shards.table["label"], grades, weights="quadratic")
    assert test["ensemble"]["qwk"] == pytest.approx(expected)
    assert test["ensemble"]["records"] == 20
    shown = describe("run", outcome.result)
    assert f"mean of all folds: QWK {test['ensemble']['qwk']:.4f}" in shown


def test_a_test_set_changes_no_fold_and_may_come_after_the_training(
    tiny_config: Make, outside_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = cross_validate(
        tiny_config(f"test={outside_shards}", "folds=2", f"outputs={tmp_path / 'together'}")
    )
    plain = cross_validate(tiny_config("folds=2"))
    assert plain.folder.name == together.folder.name
    without = {key: value for key, value in together.result.items() if key != "test"}
    assert without == plain.result
    monkeypatch.setattr(fold_module, "train_epoch", fail)
    later = cross_validate(tiny_config("folds=2", f"test={outside_shards}"))
    assert later.folder == plain.folder
    assert later.result == together.result
    for one, other in zip(tables_of(later), tables_of(together), strict=True):
        pd.testing.assert_frame_equal(one, other)
    times = {path: path.stat().st_mtime_ns for path in later.folder.rglob("*")}
    assert cross_validate(tiny_config("folds=2", f"test={outside_shards}")) == later
    assert cross_validate(tiny_config("folds=2")) == later
    assert times == {path: path.stat().st_mtime_ns for path in later.folder.rglob("*")}


def test_folds_are_scored_one_by_one_and_the_last_brings_the_mean(
    tiny_config: Make, outside_shards: Path
) -> None:
    test = f"test={outside_shards}"
    first = cross_validate(tiny_config("folds=2", "epochs=1", test, "fold=1")).result["test"]
    assert [entry["fold"] for entry in first["folds"]] == [1]
    assert first["ensemble"] is None
    last = cross_validate(tiny_config("folds=2", "epochs=1", test, "fold=0")).result["test"]
    assert [entry["fold"] for entry in last["folds"]] == [0, 1]
    assert last["folds"][1] == first["folds"][0]
    assert last["ensemble"] is not None


def test_another_test_set_takes_the_place_of_the_first(
    tiny_config: Make, outside_shards: Path, other_shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = cross_validate(tiny_config("folds=2", "epochs=1", f"test={outside_shards}"))
    with caplog.at_level(logging.WARNING):
        part = cross_validate(tiny_config("folds=2", "epochs=1", f"test={other_shards}", "fold=0"))
    assert "test=other takes the place of outside" in caplog.text
    assert "THIS RUN IS FINISHED" in caplog.text
    assert [entry["records"] for entry in part.result["test"]["folds"]] == [40]
    assert part.result["test"]["ensemble"] is None
    both = f"test=[{other_shards},{outside_shards}]"
    joined = cross_validate(tiny_config("folds=2", "epochs=1", both)).result["test"]
    assert (joined["name"], joined["ensemble"]["records"]) == ("other + outside", 60)
    again = cross_validate(tiny_config("folds=2", "epochs=1", f"test={outside_shards}"))
    assert again.result == first.result


def test_a_fold_cut_off_while_it_was_scored_is_scored_again(
    tiny_config: Make, outside_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dr.training import outside

    config = tiny_config("folds=2", "epochs=1", f"test={outside_shards}")
    whole = cross_validate(config)
    for path in whole.folder.glob("fold-*/test_scores.json"):
        path.unlink()
    (whole.folder / "fold-1" / "test_predictions.csv").write_text("cut off")
    result = json.loads((whole.folder / "result.json").read_text())
    result["test"] |= {"folds": [], "ensemble": None}
    (whole.folder / "result.json").write_text(json.dumps(result))
    scored: list[int] = []
    original = outside._score
    monkeypatch.setattr(
        outside,
        "_score",
        lambda test, fold, *rest: scored.append(fold) or original(test, fold, *rest),
    )
    assert cross_validate(config).result == whole.result
    assert scored == [0, 1]


def test_a_model_trained_on_everything_has_the_test_score_alone(
    tiny_config: Make, outside_shards: Path
) -> None:
    result = cross_validate(tiny_config("folds=1", f"test={outside_shards}")).result
    assert result["pooled"] is None
    ensemble, fold = result["test"]["ensemble"], result["test"]["folds"][0]
    assert {key: fold[key] for key in ensemble} == ensemble
    assert "there is no score but the test set's" in describe("run", result)


def test_select_cross_scores_the_weights_it_kept(tiny_config: Make, outside_shards: Path) -> None:
    config = tiny_config("select=cross", f"test={outside_shards}", "schedule.max_lr=0.05")
    outcome = cross_validate(config)
    assert len(outcome.result["test"]["folds"]) == 3
    assert outcome.result["test"]["ensemble"] is not None


def test_test_sets_that_cannot_be_trusted_are_refused_or_said(
    tiny_config: Make,
    tiny_shards: Path,
    outside_shards: Path,
    make_shards: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    copy = tmp_path / "copy"
    copy.symlink_to(tiny_shards)
    with pytest.raises(ValueError, match=r"test=.*copy: holds the same records as shards=.*tiny"):
        cross_validate(tiny_config(f"test={copy}"))
    plain = PreparationConfig(decode="full", crop="none", fit="stretch", filter="none")
    soft = make_shards(
        tmp_path / "soft",
        seed=4,
        patients=5,
        preparation=dataclasses.replace(plain, jpeg_quality=60),
    )
    with pytest.raises(ValueError, match=r"test=.*soft: was prepared diff.*jpeg_quality: 94, 60"):
        cross_validate(tiny_config(f"test={soft}"))
    smaller = make_shards(tmp_path / "smaller", seed=0, patients=5, image_size=24)
    with pytest.raises(
        ValueError, match=r"smaller: \d+ of its 10 photographs are in shards=.*tiny"
    ):
        cross_validate(tiny_config(f"test={smaller}"))
    with pytest.raises(ValueError, match=r"test=.*nowhere: there is no such folder"):
        cross_validate(tiny_config("test=/nowhere"))
    assert not list((tmp_path / "outputs").glob("*"))
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in outside_shards.glob("train*"):
        (bare / path.name).write_bytes(path.read_bytes())
    with caplog.at_level(logging.WARNING):
        outcome = cross_validate(tiny_config(f"test={bare}", "epochs=1", "fold=0"))
    assert outcome.result["test"]["shared"] == 20
    told = describe("run", outcome.result)
    assert "test set bare, 20 of its records seem to be among those trained on" in told
    assert "20 of its 20 records have the name and patient of one of shards=" in caplog.text
    assert "whether it was prepared as the training is not known" in caplog.text


@pytest.mark.parametrize("average", ["null", "0.9"])
def test_the_weights_that_are_scored_are_those_that_are_kept(
    tiny_config: Make, outside_shards: Path, average: str
) -> None:
    """Seen from the other side: what the run's folder holds grades the same pictures alike."""
    config = tiny_config(f"test={outside_shards}", f"ema_decay={average}", "folds=2")
    outcome = cross_validate(config)
    accelerator = choose_accelerator(config.accel)
    run = load_run(outcome.folder, accelerator)
    shards = open_shards(outside_shards)
    pictures = np.stack([run.pixels(shards.read(number).image) for number in range(len(shards))])
    for fold, model in enumerate(run.models):
        _, chances = dataclasses.replace(run, models=(model,)).grade(pictures)
        found = pd.read_csv(outcome.folder / f"fold-{fold}" / "test_predictions.csv")
        np.testing.assert_allclose(found[[f"p{grade}" for grade in range(5)]], chances, atol=1e-5)
