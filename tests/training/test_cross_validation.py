import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import cohen_kappa_score

from dr.compose import compose_rerun
from dr.config import TableData, TrainConfig
from dr.reporting.cohorts import cohorts
from dr.reporting.runs import read_runs
from dr.training.cross_validation import cross_validate
from dr.training.history import read_history
from dr.training.run_folder import locked

Make = Callable[..., TrainConfig]
CHANCES = ["p0", "p1", "p2", "p3", "p4"]


def pooled_table(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_csv(path) for path in sorted(folder.glob("fold-*/predictions.csv"))])


@pytest.mark.parametrize("objective", ["cross_entropy", "regression"])
def test_a_tiny_model_learns_and_the_pooled_score_is_that_of_the_union(
    tiny_config: Make, objective: str
) -> None:
    outcome = cross_validate(tiny_config(f"objective={objective}", "epochs=10"))
    table = pooled_table(outcome.folder)
    assert sorted(table["name"]) == sorted(pd.read_csv(outcome.folder / "folds.csv")["name"])
    grades = table[CHANCES].to_numpy().argmax(axis=1)
    kappa = cohen_kappa_score(table["label"], grades, weights="quadratic")
    pooled = outcome.result["pooled"]
    assert pooled["qwk"] == pytest.approx(kappa)
    assert pooled["accuracy"] == pytest.approx((table["label"] == grades).mean())
    assert pooled["records"] == 60
    assert kappa > 0.5
    folds = [entry["qwk"] for entry in outcome.result["folds"].values()]
    assert outcome.result["mean"]["qwk"] == pytest.approx(np.mean(folds))
    assert outcome.result["sd"]["qwk"] == pytest.approx(np.std(folds, ddof=1))


def test_the_grades_of_all_folds_stand_in_the_order_of_the_folds_file(tiny_config: Make) -> None:
    folder = cross_validate(tiny_config("epochs=1")).folder
    table = pooled_table(folder).set_index("name")
    names = pd.read_csv(folder / "folds.csv")["name"]
    expected = table.loc[names, CHANCES].to_numpy().argmax(axis=1)
    grades = np.load(folder / "out_of_fold.npy")
    assert grades.dtype == np.uint8
    assert grades.tolist() == expected.tolist()
    (from_file,), problems = cohorts(read_runs(folder.parent))
    (folder / "out_of_fold.npy").unlink()
    (from_tables,), _ = cohorts(read_runs(folder.parent))
    assert problems == {}
    assert from_file.grades.tolist() == from_tables.grades.tolist() == [grades.tolist()]


def test_the_folder_holds_what_it_promises(tiny_config: Make, tmp_path: Path) -> None:
    config = tiny_config("epochs=1")
    outcome = cross_validate(config)
    visible = {path.name for path in outcome.folder.iterdir() if not path.name.startswith(".")}
    assert {"config.yaml", "environment.json", "folds.csv", "result.json"} < visible
    assert {"fold-0", "fold-1", "fold-2"} < visible
    assert not list(outcome.folder.rglob("*.tmp"))
    fold = {path.name for path in (outcome.folder / "fold-0").iterdir()}
    assert fold >= {"history.csv", "predictions.csv", "model.safetensors"}
    assert "checkpoint.pt" not in fold
    stored = yaml.safe_load((outcome.folder / "config.yaml").read_text())
    assert stored == dataclasses.asdict(config)
    outside = [path.name for path in outcome.folder.parent.iterdir()]
    assert [name for name in outside if not name.startswith(".")] == [outcome.folder.name]
    folds = pd.read_csv(outcome.folder / "folds.csv")
    assert (folds.groupby("patient")["fold"].nunique() == 1).all()
    environment = json.loads((outcome.folder / "environment.json").read_text())
    assert (environment["precision"], environment["threads"]) == ("float32", 1)


def test_a_finished_run_is_not_repeated(
    tiny_config: Make, caplog: pytest.LogCaptureFixture
) -> None:
    first = cross_validate(tiny_config("folds=2"))
    times = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    with caplog.at_level(logging.WARNING):
        second = cross_validate(tiny_config("folds=2", "loader.prefetch=1"))
    assert "THIS RUN IS FINISHED" in caplog.text
    assert second == first
    assert times == {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    third = cross_validate(tiny_config("folds=2", "resume=never"))
    assert third.folder.name == f"{first.folder.name}-2"
    assert third.result == first.result


def test_a_rerun_of_a_folder_gives_its_scores_again(tiny_config: Make) -> None:
    first = cross_validate(tiny_config("folds=2", "augment=fundus"))
    again = cross_validate(compose_rerun(first.folder, TrainConfig, []))
    assert again.folder != first.folder
    assert again.result == first.result


def test_folds_trained_one_by_one_share_the_folder_and_equal_all(
    tiny_config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = cross_validate(tiny_config("epochs=1", f"outputs={tmp_path / 'whole'}"))
    first = cross_validate(tiny_config("epochs=1", "fold=0"))
    assert not first.result["complete"]
    assert list(first.result["folds"]) == ["0"]
    cross_validate(tiny_config("epochs=1", "fold=[2]"))
    with caplog.at_level(logging.WARNING):
        last = cross_validate(tiny_config("epochs=1", "fold=[0,1]"))
    assert "fold 0: trained already" in caplog.text
    assert last.folder == first.folder
    assert last.folder.name == whole.folder.name
    assert last.result == whole.result
    assert pooled_table(last.folder).equals(pooled_table(whole.folder))


def test_select_cross_takes_the_epoch_from_the_other_folds_curves(tiny_config: Make) -> None:
    config = tiny_config("select=cross", "epochs=4", "schedule.max_lr=0.05")
    outcome = cross_validate(config)
    curves = {
        fold: np.array([row["qwk"] for row in read_history(outcome.folder / f"fold-{fold}")])
        for fold in range(3)
    }
    for fold, entry in outcome.result["folds"].items():
        others = np.mean([curves[other] for other in range(3) if other != int(fold)], axis=0)
        assert entry["epoch"] == int(others.argmax()) + 1
        assert entry["qwk"] == curves[int(fold)][entry["epoch"] - 1]
        table = pd.read_csv(outcome.folder / f"fold-{fold}" / "predictions.csv")
        grades = table[CHANCES].to_numpy().argmax(axis=1)
        kappa = cohen_kappa_score(table["label"], grades, weights="quadratic")
        assert entry["qwk"] == pytest.approx(kappa)
        assert not (outcome.folder / f"fold-{fold}" / "epochs").exists()
    assert not outcome.result["optimistic"]


def test_select_cross_never_looks_at_the_folds_own_curve(tiny_config: Make, tmp_path: Path) -> None:
    from dr.training.cross_validation import _finish_cross
    from dr.training.history import HISTORY_COLUMNS, write_history
    from dr.training.keeping import EPOCHS
    from dr.training.run_folder import RunFolder

    curves = {0: [0.9, 0.1, 0.1], 1: [0.1, 0.5, 0.4], 2: [0.2, 0.3, 0.5]}
    run = RunFolder(tmp_path, "x")
    for fold, curve in curves.items():
        rows: list[dict[str, Any]] = [
            {**dict.fromkeys(HISTORY_COLUMNS, 1.0), "epoch": epoch + 1, "qwk": qwk}
            for epoch, qwk in enumerate(curve)
        ]
        for epoch in range(1, 4):
            folder = run.fold(fold) / EPOCHS / f"{epoch:04d}"
            folder.mkdir(parents=True)
            (folder / "predictions.csv").write_text(f"epoch\n{epoch}\n")
            (folder / "model.safetensors").write_text(str(epoch))
        write_history(run.fold(fold) / "history.csv", rows)
    _finish_cross(run, tiny_config("select=cross"), [0, 1, 2])
    kept = {fold: (run.fold(fold) / "model.safetensors").read_text() for fold in curves}
    # Means of the others: 0 -> [.15 .4 .45], 1 -> [.55 .2 .3], 2 -> [.5 .3 .25]
    assert kept == {0: "3", 1: "1", 2: "1"}
    assert [json.loads((run.fold(f) / "scores.json").read_text())["qwk"] for f in curves] == [
        0.1,
        0.1,
        0.2,
    ]


def test_one_fold_trains_on_everything_without_a_score(tiny_config: Make) -> None:
    outcome = cross_validate(tiny_config("folds=1", "epochs=1"))
    assert outcome.result["complete"]
    assert outcome.result["pooled"] is None
    assert outcome.result["folds"]["0"]["records"] == 0
    fold = outcome.folder / "fold-0"
    assert (fold / "model.safetensors").is_file()
    assert not (fold / "predictions.csv").exists()


def test_a_column_of_the_label_table_gives_the_split(tiny_config: Make) -> None:
    outcome = cross_validate(tiny_config("fold_column=split"))
    names = pd.read_csv(outcome.folder / "fold-0" / "predictions.csv")["name"]
    assert sorted(names) == sorted(
        f"{p}_{side}" for p in range(20, 30) for side in ("left", "right")
    )
    assert outcome.result["planned_folds"] == [0]
    assert outcome.result["complete"]


def test_a_fold_that_another_process_trains_is_refused(tiny_config: Make) -> None:
    outcome = cross_validate(tiny_config("epochs=1", "fold=0"))
    with (
        locked(outcome.folder / "fold-1", what="fold 1"),
        pytest.raises(ValueError, match="fold 1 is being trained by process"),
    ):
        cross_validate(tiny_config("epochs=1", "fold=1"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["batch_size=41"], "batch_size=41: is larger than the 40 records"),
        (["folds=7"], "folds=7: only 6 patients have grade 0"),
        (["fold_column=nope"], "fold_column=nope: the label table has no such column"),
        (["fold_column=split", "fold=1"], "fold=1: there are folds 0 to 0 only"),
        (["fold_column=split", "select=cross"], "select=cross: needs at least 3 folds"),
        (["shards=/no/such"], "shards=/no/such: there is no such folder"),
        (["model.name=no_such_net"], "model.name='no_such_net': timm has no such model"),
        (["model.weights=/no/such.pth"], "/no/such.pth"),
        (["augment.transforms=[{name: Nope}]"], "Nope"),
        (["accel=tpu", "accel.threads=null"], "accel=tpu: torch-xla is not installed"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_message(
    tiny_config: Make, tmp_path: Path, changes: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        cross_validate(tiny_config(*changes))
    assert not list((tmp_path / "outputs").glob("*"))


def test_outputs_that_cannot_be_written_are_refused(tiny_config: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"outputs=.*file/runs: cannot be written"):
        cross_validate(tiny_config(f"outputs={tmp_path / 'file' / 'runs'}"))


def test_the_folder_of_another_config_is_refused(tiny_config: Make) -> None:
    outcome = cross_validate(tiny_config("fold=0", "epochs=1"))
    path = outcome.folder / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "identity": "0" * 64}))
    with pytest.raises(ValueError, match=r"is the folder of another config .* resume=never"):
        cross_validate(tiny_config("epochs=1"))


def test_shards_that_contradict_data_are_refused(
    tiny_config: Make, tiny_source: TableData, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.csv"
    text = Path(str(tiny_source.labels)).read_text()
    labels.write_text(text.replace("0_left,0", "0_left,4"))
    same = dataclasses.replace(tiny_config("fold=0", "epochs=1"), data=tiny_source)
    assert cross_validate(same).result["folds"]
    other = dataclasses.replace(same, data=dataclasses.replace(tiny_source, labels=str(labels)))
    with pytest.raises(ValueError, match=r"shards=.*not made from the photographs and labels"):
        cross_validate(other)


def test_runs_that_differ_in_seed_alone_share_their_folds(tiny_config: Make) -> None:
    one = cross_validate(tiny_config("epochs=1", "seed=1")).folder
    two = cross_validate(tiny_config("epochs=1", "seed=2")).folder
    other = cross_validate(tiny_config("epochs=1", "seed=1", "fold_seed=1")).folder
    assert one != two
    assert (one / "folds.csv").read_bytes() == (two / "folds.csv").read_bytes()
    assert (one / "folds.csv").read_bytes() != (other / "folds.csv").read_bytes()
    assert pooled_table(one)["score"].tolist() != pooled_table(two)["score"].tolist()


def test_another_preparation_beside_shards_is_refused(tiny_config: Make) -> None:
    with pytest.raises(ValueError, match="preparation: differs from"):
        cross_validate(tiny_config("epochs=1", "preparation.jpeg_quality=50"))


def test_settings_without_effect_are_said(
    tiny_config: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        cross_validate(tiny_config("epochs=1", "fold_column=split", "folds=3", "image_size=40"))
    assert "folds=3 has no effect" in caplog.text
    assert "are enlarged" in caplog.text
