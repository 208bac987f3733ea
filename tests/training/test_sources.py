"""Runs that join several sources of shards."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import cohen_kappa_score

from dr.accel.choice import choose_accelerator
from dr.config import TrainConfig
from dr.digests import digest_of
from dr.prediction.folds import load_run
from dr.train import describe
from dr.training import fold as fold_module
from dr.training import loop as loop_module
from dr.training.cross_validation import cross_validate
from dr.training.identity import decisive_settings, scientific_settings
from dr.training.mixing import mixed_sum

Make = Callable[..., TrainConfig]
CHANCES = ["p0", "p1", "p2", "p3", "p4"]


def both(tiny: Path, other: Path) -> str:
    return f"shards=[{tiny},{other}]"


def test_sources_are_trained_on_together_and_scored_apart(
    tiny_config: Make, tiny_shards: Path, other_shards: Path
) -> None:
    config = tiny_config(both(tiny_shards, other_shards), "epochs=3", "batch_size=20")
    outcome = cross_validate(config)
    folds = pd.read_csv(outcome.folder / "folds.csv")
    assert list(folds) == ["name", "patient", "label", "fold", "source"]
    share = pd.crosstab(folds["fold"], folds["source"])
    assert (share.max() - share.min() <= 2).all()
    tables = [pd.read_csv(path) for path in sorted(outcome.folder.glob("fold-*/predictions.csv"))]
    columns = ["name", "patient", "fold", "label", "score", *CHANCES]
    assert all(list(table) == columns for table in tables)
    table = pd.concat(tables).merge(folds[["name", "source"]], on="name", validate="1:1")
    assert len(table) == 100
    assert list(outcome.result["sources"]) == ["tiny", "other"]
    for source, scores in outcome.result["sources"].items():
        own = table[table["source"] == source]
        grades = own[CHANCES].to_numpy().argmax(axis=1)
        assert scores["records"] == len(own)
        kappa = cohen_kappa_score(own["label"], grades, weights="quadratic")
        assert scores["qwk"] == pytest.approx(kappa)
        assert scores["accuracy"] == pytest.approx((own["label"] == grades).mean())
    data = outcome.result["data"]
    assert (data["name"], data["records"], data["patients"]) == ("tiny + other", 100, 50)
    assert [source["records"] for source in data["sources"]] == [60, 40]
    shown = describe("run", outcome.result)
    qwk = outcome.result["sources"]["other"]["qwk"]
    assert f"source other: QWK {qwk:.4f}" in shown
    assert len(load_run(outcome.folder, choose_accelerator(config.accel)).models) == 3


def test_one_source_has_neither_column_nor_scores_of_its_own(tiny_config: Make) -> None:
    outcome = cross_validate(tiny_config("epochs=1", "fold=0"))
    assert list(pd.read_csv(outcome.folder / "folds.csv")) == ["name", "patient", "label", "fold"]
    assert "sources" not in outcome.result
    assert "sources" not in outcome.result["data"]
    assert "test" not in outcome.result


def test_a_list_of_one_folder_is_that_folder(tiny_config: Make, tiny_shards: Path) -> None:
    alone = cross_validate(tiny_config("epochs=1", "fold=0"))
    listed = cross_validate(tiny_config("epochs=1", "fold=0", f"shards=[{tiny_shards}]"))
    assert listed.folder == alone.folder


def test_weights_decide_what_an_epoch_draws(
    tiny_config: Make,
    tiny_shards: Path,
    other_shards: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plans: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    original = fold_module.train_epoch

    def watched(*given: object, **named: object) -> object:
        plans.append(np.concatenate(named["plan"]))  # type: ignore[arg-type]
        return original(*given, **named)  # type: ignore[arg-type]

    def trained_on(objective: object, logits: object, target: torch.Tensor, mix: object) -> object:
        labels.append(target.numpy())
        return mixed_sum(objective, logits, target, mix)  # type: ignore[arg-type]

    monkeypatch.setattr(fold_module, "train_epoch", watched)
    monkeypatch.setattr(loop_module, "mixed_sum", trained_on)
    sources = both(tiny_shards, other_shards)
    weights = "source_weights={tiny:1,other:3}"
    with caplog.at_level(logging.INFO):
        outcome = cross_validate(tiny_config(sources, weights, "fold=0"))
    assert [len(plan) for plan in plans] == [60, 60]
    records = [plan % 100 for plan in plans]
    assert [int((own >= 60).sum()) for own in records] == [45, 45]
    assert all(plan.max() >= 100 for plan in plans)  # the 26 records of a source come again
    table = pd.read_csv(outcome.folder / "folds.csv")
    known = table["label"].to_numpy()[np.concatenate(records)]
    assert np.array_equal(np.concatenate(labels), known)
    assert "source other: 45 of 60 records an epoch" in caplog.text
    held_out = table["fold"] == 0
    assert not held_out[np.concatenate(records)].any()
    stored = yaml.safe_load((outcome.folder / "config.yaml").read_text())
    assert stored["source_weights"] == {"tiny": 1, "other": 3}


def identity(config: TrainConfig) -> str:
    return digest_of(
        decisive_settings(config, data="d", image_size=32, precision="float32", channels_last=True)
    )


def test_weights_are_the_run_whatever_their_form_and_scale(tiny_config: Make) -> None:
    sources = "shards=[/a,/b]"
    unweighted = identity(tiny_config(sources))
    assert unweighted == identity(tiny_config())
    assert not {"source_weights", "test", "shards"} & set(scientific_settings(tiny_config()))
    one = identity(tiny_config(sources, "source_weights=[1,3]"))
    assert one == identity(tiny_config(sources, "source_weights=[0.5,1.5]"))
    assert one == identity(tiny_config(sources, "source_weights={b:3,a:1}"))
    assert len({unweighted, one, identity(tiny_config(sources, "source_weights=[3,1]"))}) == 3


def test_sources_that_do_not_go_together_leave_nothing_behind(
    tiny_config: Make, tiny_shards: Path, other_shards: Path, tmp_path: Path
) -> None:
    (tmp_path / "copy").symlink_to(tiny_shards)
    with pytest.raises(ValueError, match="hold the same records"):
        cross_validate(tiny_config(both(tiny_shards, tmp_path / "copy")))
    with pytest.raises(ValueError, match=r"source_weights=.*give 0 of an epoch's 60 records"):
        cross_validate(tiny_config(both(tiny_shards, other_shards), "source_weights=[1,1e6]"))
    with pytest.raises(ValueError, match="preparation: differs from"):
        cross_validate(tiny_config(both(tiny_shards, other_shards), "preparation.jpeg_quality=50"))
    assert not list((tmp_path / "outputs").glob("*"))


def test_records_drawn_again_are_read_from_the_decoded_cache_too(
    tiny_config: Make, tiny_shards: Path, other_shards: Path, tmp_path: Path
) -> None:
    changes = [both(tiny_shards, other_shards), "source_weights=[1,4]", "fold=0", "epochs=1"]
    changes += ["augment=fundus", "image_size=24"]
    whole, cached = (
        cross_validate(
            tiny_config(*changes, f"loader.cache={cache}", f"outputs={tmp_path / cache}")
        )
        for cache in ("none", "decoded")
    )
    assert cached.folder.name == whole.folder.name
    predictions = [run.folder / "fold-0" / "predictions.csv" for run in (whole, cached)]
    assert predictions[0].read_bytes() == predictions[1].read_bytes()
