"""Each numbered case of `dr.training.resuming`, and the settings a fold goes on with."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dr.accel.choice import choose_accelerator
from dr.checks import check_train
from dr.compose import compose_rerun
from dr.config import TrainConfig
from dr.training import fold as fold_module
from dr.training.checkpoint import CHECKPOINT, PREVIOUS, load_checkpoint
from dr.training.cross_validation import cross_validate
from dr.training.history import read_history
from dr.training.interruption import Interrupted
from dr.training.resuming import check_settings, go_on_with, settings_in_force
from dr.training.run_folder import locked

Make = Callable[..., TrainConfig]
QUICK = ("folds=2", "epochs=2")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def trained(config: TrainConfig) -> Path:
    outcome = cross_validate(config)
    assert outcome is not None
    return outcome.folder


def stopped(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, *, saves: int) -> Path:
    """A run that was asked to stop when its first fold had been saved `saves` times."""
    count = 0
    save = fold_module.save_checkpoint

    def counted(folder: Path, state: dict[str, Any]) -> None:
        nonlocal count
        save(folder, state)
        count += 1
        if count == saves:
            raise Interrupted("stopped, the state is saved", 143)

    with monkeypatch.context() as patch:
        patch.setattr(fold_module, "save_checkpoint", counted)
        with pytest.raises(Interrupted, match="the same command"):
            cross_validate(config)
    return next(Path(config.outputs).glob("test_*"))


def runs(config: TrainConfig) -> list[str]:
    return sorted(path.name for path in Path(config.outputs).glob("test_*"))


def test_1_a_rerun_begins_anew_unless_told_where_to_go_on(
    tiny_config: Make, tmp_path: Path
) -> None:
    first = trained(tiny_config("epochs=1", "folds=2", "fold=0"))
    again = compose_rerun(first, TrainConfig, ["fold=[0,1]"])
    assert trained(again) == first.with_name(f"{first.name}-2")
    onward = compose_rerun(first, TrainConfig, ["fold=[0,1]", f"resume={first}"])
    assert onward.resume == str(first)
    assert trained(onward) == first
    assert json.loads((first / "result.json").read_text())["complete"]
    assert len(runs(again)) == 2


def test_2_never_makes_a_new_folder_and_says_how_to_go_on(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(*QUICK, "resume=never")
    first = stopped(config, monkeypatch, saves=1)
    with (
        monkeypatch.context() as patch,
        pytest.raises(Interrupted, match=r"-2: stop; the same command with resume=.*-2 goes on"),
    ):
        patch.setattr(fold_module, "train_epoch", raising(Interrupted("stop", 75)))
        cross_validate(config)
    assert runs(config) == [first.name, f"{first.name}-2"]


def raising(error: Exception) -> Callable[..., None]:
    def fail(*given: Any, **named: Any) -> None:
        raise error

    return fail


def test_3_a_folder_goes_on_wherever_it_lies(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tiny_config(*QUICK)
    moved = tmp_path / "elsewhere (=1)"
    shutil.move(stopped(config, monkeypatch, saves=1), moved)
    onward = tiny_config(*QUICK, f"resume={moved}")
    assert check_train(onward) == []
    assert trained(onward) == moved
    assert runs(config) == []
    assert len(read_history(moved / "fold-0")) == 2


def test_3_another_run_is_refused_with_every_difference(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped(tiny_config(*QUICK, "optimizer.betas=[0.9,0.98]"), monkeypatch, saves=1)
    other = tiny_config("folds=3", "epochs=2", "optimizer=sgd", "seed=4", f"resume={folder}")
    with pytest.raises(ValueError, match=rf"resume={folder}: is another run") as caught:
        cross_validate(other)
    text = str(caught.value)
    assert "\n  folds: 2 before, 3 now" in text
    assert "\n  seed: 0 before, 4 now" in text
    assert "\n  optimizer.name: adamw before, sgd now" in text
    assert "\n  optimizer.betas: [0.9, 0.98] before, absent now" in text
    assert "epochs" not in text
    layout = tiny_config(
        *QUICK, "optimizer.betas=[0.9,0.98]", f"resume={folder}", "accel.channels_last=true"
    )
    with pytest.raises(ValueError, match=r"differs:\n  accel.channels_last: False before, True"):
        cross_validate(layout)


@pytest.mark.parametrize("result", [None, "{", "[]", "{}"])
def test_3_no_run_folder_is_refused(tiny_config: Make, tmp_path: Path, result: str | None) -> None:
    folder = tmp_path / "nothing"
    folder.mkdir()
    config = tiny_config(f"resume={folder}")
    if result is None:
        assert [problem.key for problem in check_train(config)] == ["resume"]
    else:
        (folder / "result.json").write_text(result)
    with pytest.raises(ValueError, match=rf"resume={folder}: is no run folder"):
        cross_validate(config)


def test_4_to_6_and_8_auto_makes_goes_on_and_skips(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(*QUICK, "save_minutes=0")
    folder = stopped(config, monkeypatch, saves=4)  # three steps and an epoch's end
    packed = load_checkpoint(folder / "fold-0")
    assert packed is not None
    assert json.loads(packed["state"])["epoch"] == 1
    assert trained(config) == folder
    assert runs(config) == [folder.name]
    assert not list(folder.glob("fold-*/checkpoint*"))
    weights = (folder / "fold-0" / "model.safetensors").read_bytes()
    (folder / "fold-1" / "scores.json").unlink()
    (folder / "fold-0" / CHECKPOINT).write_bytes(b"left by a kill")
    result = json.loads((folder / "result.json").read_text()) | {"complete": False}
    (folder / "result.json").write_text(json.dumps(result))
    assert trained(config) == folder
    assert "fold 0: trained already, not trained again" in caplog.text
    assert not (folder / "fold-0" / CHECKPOINT).exists()
    assert weights == (folder / "fold-0" / "model.safetensors").read_bytes()
    (folder / "curves.png").unlink()
    monkeypatch.setattr(fold_module, "train_epoch", raising(AssertionError("trains")))
    assert trained(config) == folder
    assert (folder / "curves.png").is_file()
    assert "THIS RUN IS FINISHED, nothing is trained" in caplog.text


def test_7_a_fold_in_use_is_refused(tiny_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(*QUICK)
    folder = stopped(config, monkeypatch, saves=1)
    monkeypatch.setattr("dr.training.run_folder.LOCK_WAIT_S", 0.1)
    with locked(folder / "fold-0", what="fold 0"):
        with pytest.raises(ValueError, match=r"fold-0: fold 0 is being trained by process \d+ on"):
            cross_validate(config)
        trained(tiny_config(*QUICK, "fold=1"))
    assert json.loads((folder / "result.json").read_text())["folds"].keys() == {"1"}


def test_8_the_one_before_a_damaged_checkpoint_serves(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    changes = (*QUICK, "fold=0", "save_minutes=0", "augment=fundus", "model.drop_rate=0.2")
    whole = trained(tiny_config(*changes, f"outputs={tmp_path / 'whole'}"))
    folder = stopped(tiny_config(*changes), monkeypatch, saves=3)
    (folder / "fold-0" / CHECKPOINT).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"checkpoint\.pt: cannot be read .*resume_from=previous"):
        cross_validate(tiny_config(*changes))
    assert (folder / "fold-0" / PREVIOUS).is_file()
    assert trained(tiny_config(*changes, "resume_from=previous")) == folder
    name = "fold-0/model.safetensors"
    assert (folder / name).read_bytes() == (whole / name).read_bytes()


def settings(tiny_config: Make, *changes: str) -> dict[str, Any]:
    config = tiny_config(*changes)
    return settings_in_force(choose_accelerator(config.accel), config)


def test_the_same_settings_differ_in_nothing(tiny_config: Make, threads: None) -> None:
    now = settings(tiny_config)
    assert json.loads(json.dumps(now)) == now
    assert check_settings(now, now) == []


def test_settings_that_change_the_bits_are_listed_at_once(tiny_config: Make, threads: None) -> None:
    now = settings(tiny_config)
    stored = now | {"threads": 7, "ranks": 4, "processor": "AVX2", "torch": "2.0", "accumulate": 2}
    assert check_settings(stored, now) == [
        "accumulate: 2 before, 1 now",
        f"processor: AVX2 before, {now['processor']} now",
        "ranks: 4 before, 1 now",
        "threads: 7 before, 1 now",
        f"torch: 2.0 before, {now['torch']} now",
    ]
    elsewhere = stored | {"device": "cuda"}
    assert not any(line.startswith("threads") for line in check_settings(elsewhere, now))


def test_settings_of_another_run_are_refused_with_all_that_differs(
    tiny_config: Make, threads: None
) -> None:
    now = settings(tiny_config)
    stored = now | {"precision": "bfloat16", "ranks": 2}
    text = (
        r"another run than this one \(precision\): precision: bfloat16 before, float32 now; ranks"
    )
    with pytest.raises(ValueError, match=text):
        check_settings(stored, now)


@pytest.mark.parametrize(
    ("asked", "stored", "ranks", "in_force", "lines"),
    [
        ("null", 2, 1, 2, []),
        ("1", 2, 1, 1, ["threads: 2 before, 1 now"]),
        ("2", 2, 1, 2, []),
        ("null", 2, 4, 1, ["ranks: 4 before, 1 now", "threads: 2 before, 1 now"]),
    ],
)
def test_automatic_threads_stay_and_asked_ones_are_taken(
    tiny_config: Make,
    threads: None,
    asked: str,
    stored: int,
    ranks: int,
    in_force: int,
    lines: list[str],
) -> None:
    torch.set_num_threads(1)
    now = settings(tiny_config, f"accel.threads={asked}")
    before = {**now, "threads": stored, "ranks": ranks}
    assert go_on_with(before, now) == lines
    assert torch.get_num_threads() == in_force


def test_a_fold_goes_on_with_the_threads_it_was_begun_with(
    tiny_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    threads: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopped(tiny_config(*QUICK, "fold=0", "accel.threads=2"), monkeypatch, saves=1)
    torch.set_num_threads(1)
    with caplog.at_level(logging.WARNING):
        trained(tiny_config(*QUICK, "fold=0", "accel.threads=null"))
    assert torch.get_num_threads() == 2
    assert "other settings" not in caplog.text


def test_other_settings_are_said(
    tiny_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    threads: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopped(tiny_config(*QUICK, "fold=0", "accel.threads=2"), monkeypatch, saves=1)
    trained(tiny_config(*QUICK, "fold=0", "accel.threads=1"))
    text = "fold 0: goes on with other settings, so not to the same bits as without"
    assert f"{text}: threads: 2 before, 1 now" in caplog.text
