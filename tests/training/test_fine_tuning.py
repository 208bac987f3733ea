import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from dr.accel.choice import choose_accelerator
from dr.checks import check_train
from dr.compose import compose, compose_rerun, hydra_arguments
from dr.config import AccelConfig, FindLrConfig, TrainConfig
from dr.prediction.folds import load_run
from dr.reporting.comparison import compare
from dr.reporting.runs import read_runs
from dr.training.cross_validation import Outcome, cross_validate
from dr.training.experiment import check_experiment
from dr.training.fine_tuning import KEPT, open_source
from dr.training.lr_range import find_lr
from tests.conftest import PLAIN, TINY

Make = Callable[..., TrainConfig]
STILL = ("epochs=1", "schedule.max_lr=1e-30", "optimizer.weight_decay=0")
"""A training that leaves the weights as they are; the statistics of normalisation move."""


def trained(config: TrainConfig) -> Outcome:
    outcome = cross_validate(config)
    assert outcome is not None
    return outcome


@pytest.fixture(scope="module")
def source(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 3 folds, in a folder whose name needs quoting."""
    outputs = tmp_path_factory.mktemp("before") / "a=b (1) é"
    overrides = [*TINY, "epochs=1", f"shards={tiny_shards}", f"outputs={outputs}"]
    return trained(compose("train", TrainConfig, overrides)).folder


def weights(folder: Path, fold: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"fold-{fold}" / "model.safetensors")


def learned(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    counted = ("running_mean", "running_var", "num_batches_tracked")
    return {name: value for name, value in state.items() if not name.endswith(counted)}


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    assert one.keys() == other.keys()
    return {
        name
        for name, value in learned(one).items()
        if value.shape != other[name].shape or not torch.allclose(value, other[name], atol=1e-12)
    }


def test_each_fold_starts_from_the_same_fold_of_the_source(tiny_config: Make, source: Path) -> None:
    outcome = trained(tiny_config(f"model.weights=run:{source}", *STILL))
    for fold in range(3):
        own = weights(outcome.folder, fold)
        assert differing(own, weights(source, fold)) == set()
        assert "classifier.weight" in differing(own, weights(source, (fold + 1) % 3))


@pytest.mark.parametrize(
    ("objective", "whole"),
    [("focal", True), ("soft_ordinal", True), ("regression", False), ("coral", False)],
)
def test_the_head_comes_along_where_its_outputs_mean_the_same(
    tiny_config: Make, source: Path, caplog: pytest.LogCaptureFixture, objective: str, whole: bool
) -> None:
    config = tiny_config(f"model.weights=run:{source}", f"objective={objective}", "fold=0", *STILL)
    with caplog.at_level(logging.INFO):
        outcome = trained(config)
    assert ("its head as well" if whole else "its head starts anew") in caplog.text
    found = differing(weights(outcome.folder, 0), weights(source, 0))
    assert found == (set() if whole else {"classifier.weight", "classifier.bias"})


def test_heads_of_one_shape_but_other_meaning_start_anew(tiny_config: Make, tmp_path: Path) -> None:
    coral = trained(tiny_config("objective=coral", "fold=0", "epochs=1"))
    config = tiny_config(f"model.weights=run:{coral.folder}", "objective=cumulative", "fold=0")
    source = open_source(config)
    assert source is not None
    assert not source.start(0, config.objective).head
    assert source.start(0, tiny_config("objective=coral").objective).head


def test_the_identity_is_that_of_the_source_wherever_it_lies(
    tiny_config: Make, source: Path, tmp_path: Path
) -> None:
    config = tiny_config(f"model.weights=run:{source}", "fold=0", "epochs=1")
    first = trained(config)
    moved = shutil.copytree(source, tmp_path / "moved")
    assert trained(tiny_config(f"model.weights=run:{moved}/", "fold=0", "epochs=1")) == first
    other = trained(tiny_config("seed=1", "fold=0", "epochs=1"))
    again = trained(tiny_config(f"model.weights=run:{other.folder}", "fold=0", "epochs=1"))
    assert again.folder.name != first.folder.name
    plain = trained(tiny_config("fold=0", "epochs=1"))
    assert plain.folder.name != first.folder.name


def test_a_run_needs_its_source_no_more(
    tiny_config: Make, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = shutil.copytree(source, tmp_path / "gone")
    first = trained(tiny_config(f"model.weights=run:{gone}", "epochs=1"))
    shutil.rmtree(gone)
    accelerator = choose_accelerator(AccelConfig(name="cpu"))
    assert len(load_run(first.folder, accelerator).models) == 3
    assert compare(read_runs(first.folder.parent)).rows[0].summary.state == "complete"
    again = trained(compose_rerun(first.folder, TrainConfig, []))
    assert again.folder.name == f"{first.folder.name}-2"
    assert again.result == first.result
    third = trained(compose_rerun(again.folder, TrainConfig, []))
    assert third.result == first.result
    config = tiny_config(f"model.weights=run:{gone}", "epochs=1", f"resume={first.folder}")
    assert trained(config).folder == first.folder
    with pytest.raises(ValueError, match="is another run") as raised:
        cross_validate(dataclasses.replace(config, seed=3))
    assert [line.strip() for line in str(raised.value).splitlines()[1:]] == [
        "seed: 0 before, 3 now"
    ]
    with pytest.raises(ValueError, match=r"holds no config.yaml; name the folder of a finished"):
        cross_validate(tiny_config(f"model.weights=run:{gone}", "epochs=1"))


def test_kept_weights_take_no_room_and_a_changed_source_is_noticed(
    tiny_config: Make, source: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(source, tmp_path / "copy")
    first = trained(tiny_config(f"model.weights=run:{copy}", "fold=0", "epochs=1"))
    kept = first.folder / KEPT / "fold-0" / "model.safetensors"
    assert kept.samefile(copy / "fold-0" / "model.safetensors")
    assert not (first.folder / KEPT / "fold-1").exists()
    for name in ("scores.json", "trained.json"):
        (first.folder / "fold-0" / name).unlink(missing_ok=True)
    other = (copy / "fold-1" / "model.safetensors").read_bytes()
    (copy / "fold-0" / "model.safetensors").unlink()
    (copy / "fold-0" / "model.safetensors").write_bytes(other)
    with pytest.raises(ValueError, match="not the file any more that this run started from"):
        cross_validate(tiny_config(f"model.weights=run:{copy}", "fold=0", "epochs=1"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["fold_seed=1"], r"patients of this run's fold 0 \(.*fold_seed=0"),
        (["folds=2"], "has 3 folds, this run 2; .*set folds=3"),
        (["folds=1"], "has 3 folds, this run 1"),
        (["model.name=test_resnet"], "model.name=test_efficientnet, this run is model.name=test_r"),
    ],
)
def test_what_does_not_fit_the_source_is_refused(
    tiny_config: Make, source: Path, changes: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cross_validate(tiny_config(f"model.weights=run:{source}", "epochs=1", *changes))


def test_the_named_patients_are_those_of_both(tiny_config: Make, source: Path) -> None:
    with pytest.raises(ValueError, match="patients of this run's fold 0") as raised:
        cross_validate(tiny_config(f"model.weights=run:{source}", "fold_seed=1"))
    table = pd.read_csv(source / "folds.csv", dtype={"patient": str})
    before = dict(zip(table["patient"], table["fold"], strict=True))
    named = str(raised.value).partition("fold 0 (")[2].partition(")")[0].split(", ")
    assert len(named) >= 5
    assert all(before[patient] != 0 for patient in named if patient != "...")


def test_an_unfinished_fold_is_refused_and_a_finished_one_serves(tiny_config: Make) -> None:
    part = trained(tiny_config("fold=1", "epochs=1"))
    weights = f"model.weights=run:{part.folder}"
    with pytest.raises(ValueError, match="its fold 0, 2 is not finished"):
        cross_validate(tiny_config(weights, "epochs=1"))
    assert set(trained(tiny_config(weights, "epochs=1", "fold=1")).result["folds"]) == {"1"}


def elsewhere(run: Path, to: Path) -> Path:
    """A copy of a run whose shards lie nowhere any more."""
    copy = shutil.copytree(run, to)
    result = json.loads((copy / "result.json").read_text())
    result["data"]["shards"] = str(to / "gone")
    (copy / "result.json").write_text(json.dumps(result))
    return copy


def test_a_source_of_one_fold_serves_every_fold_of_other_patients(
    tiny_config: Make, tmp_path: Path, other_shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    everything = trained(tiny_config("folds=1", "epochs=1")).folder
    with pytest.raises(ValueError, match=r"patients of this run's fold 0 .* its fold 0 was"):
        cross_validate(tiny_config(f"model.weights=run:{everything}"))
    others = [f"shards={other_shards}", "batch_size=8", *STILL]
    with caplog.at_level(logging.INFO):
        outcome = trained(tiny_config(f"model.weights=run:{everything}", *others))
    assert "share 40 names, but their photographs differ: other people" in caplog.text
    assert set(outcome.result["folds"]) == {"0", "1", "2"}
    for fold in range(3):
        assert differing(weights(outcome.folder, fold), weights(everything, 0)) == set()
    unknown = elsewhere(everything, tmp_path / "unknown")
    with pytest.raises(ValueError, match="patients of this run's fold 0"):
        cross_validate(tiny_config(f"model.weights=run:{unknown}", *others))
    assert "their photographs cannot be compared: they are taken for the same" in caplog.text


def test_the_same_photographs_prepared_otherwise_are_the_same_patients(
    tiny_config: Make, source: Path, tmp_path: Path, make_shards: Callable[..., Path]
) -> None:
    smaller = make_shards(tmp_path / "smaller", seed=0, image_size=24)
    config = [f"model.weights=run:{source}", f"shards={smaller}"]
    assert trained(tiny_config(*config, "fold=0", *STILL)).result["folds"].keys() == {"0"}
    with pytest.raises(ValueError, match="patients of this run's fold 0"):
        cross_validate(tiny_config(*config, "fold_seed=1"))


def test_another_preparation_is_warned_about(
    tiny_config: Make,
    source: Path,
    tmp_path: Path,
    make_shards: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    filtered = dataclasses.replace(PLAIN, filter="clahe")
    shards = make_shards(tmp_path / "filtered", seed=0, preparation=filtered)
    check_experiment(tiny_config(f"model.weights=run:{source}"))
    assert "prepared differently" not in caplog.text
    check_experiment(tiny_config(f"model.weights=run:{source}", f"shards={shards}"))
    assert "prepared differently (filter: none before, clahe now)" in caplog.text


def test_sources_of_several_shards_are_compared_by_their_own_names(
    tiny_config: Make, tiny_shards: Path, other_shards: Path
) -> None:
    shards = f"shards=[{tiny_shards},{other_shards}]"
    both = trained(tiny_config(shards, "epochs=1", "folds=2", "fold=0"))
    weights = f"model.weights=run:{both.folder}"
    again = [f"shards=[{other_shards},{tiny_shards}]", "folds=2", "fold=0", weights]
    with pytest.raises(ValueError, match="patients of this run's fold 0"):
        cross_validate(tiny_config(*again, "fold_seed=5"))
    table = pd.read_csv(both.folder / "folds.csv", dtype=str)
    mine = table[table["source"] == "tiny"]
    assert mine["patient"].str.startswith("tiny/").all()
    with pytest.raises(ValueError) as raised:
        cross_validate(tiny_config("folds=2", "fold=0", "fold_seed=5", weights))
    named = str(raised.value).partition("fold 0 (")[2].partition(")")[0].split(", ")
    before = dict(zip(mine["patient"], mine["fold"], strict=True))
    assert all(before[f"tiny/{patient}"] != "0" for patient in named if patient != "...")


def test_a_test_set_that_the_source_trained_on_is_refused(
    tiny_config: Make, source: Path, other_shards: Path, tiny_shards: Path, outside_shards: Path
) -> None:
    others = [f"shards={other_shards}", "batch_size=8", "fold=0", *STILL]
    others.append(f"model.weights=run:{source}")
    with pytest.raises(ValueError, match=r"30 patients of test=.* are among those that it was"):
        cross_validate(tiny_config(*others, f"test={tiny_shards}"))
    assert "test" in trained(tiny_config(*others, f"test={outside_shards}")).result


def test_what_the_source_itself_started_from_counts_too(
    tiny_config: Make, source: Path, other_shards: Path
) -> None:
    others = [f"shards={other_shards}", "batch_size=8", *STILL]
    first = trained(tiny_config(*others, "fold=0", f"model.weights=run:{source}")).folder
    second = trained(tiny_config(*others, "fold=0", f"model.weights=run:{first}")).folder
    identity = json.loads((source / "result.json").read_text())["identity"]
    for run in (first, second):
        config = [f"model.weights=run:{run}", "fold=0", *STILL]
        with pytest.raises(ValueError, match=f"started itself from the run {identity[:8]}"):
            cross_validate(tiny_config(*config, "fold_seed=1"))
        assert trained(tiny_config(*config)).result["folds"].keys() == {"0"}


def test_a_range_test_starts_from_the_source_too(
    tiny_overrides: list[str], source: Path, tmp_path: Path
) -> None:
    overrides = [*tiny_overrides, "steps=20", "lowest_lr=1e-9", "highest_lr=1e-8"]
    fresh = find_lr(compose("find_lr", FindLrConfig, overrides))
    learned = find_lr(compose("find_lr", FindLrConfig, [*overrides, f"model.weights=run:{source}"]))
    assert learned.losses.mean() < fresh.losses.mean()
    assert not np.array_equal(learned.losses, fresh.losses)


def test_several_sources_of_a_sweep_are_told_from_a_comma_in_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "a,b (1)"
    folder.mkdir()
    key = f"model.weights=run:{folder}"
    assert hydra_arguments(["-m", key], frozenset()) == ["-m", f"++model.weights='run:{folder}'"]
    several = hydra_arguments(["-m", "model.weights=run:x=1,run:y"], frozenset())
    assert several == ["-m", "++model.weights='run:x=1','run:y'"]


def test_a_run_without_a_folder_is_reported_with_the_other_problems(tiny_config: Make) -> None:
    found = {problem.key for problem in check_train(tiny_config("model.weights=run:", "epochs=0"))}
    assert found == {"model.weights", "epochs"}
