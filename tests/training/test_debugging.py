import dataclasses
import gzip
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from dr import train as door
from dr.accel.choice import choose_accelerator
from dr.checks import check_find_lr, check_train
from dr.compose import compose
from dr.config import AccelConfig, FindLrConfig, TrainConfig
from dr.training import one_batch, overfitting, profiling
from dr.training.cross_validation import Outcome
from dr.training.history import read_history
from dr.training.overfitting import Bounds, overfit
from dr.training.profiling import StageClock
from dr.training.trial import trial_job
from tests.conftest import PLAIN, tiny_data, write_tiny_photographs

Make = Callable[..., TrainConfig]


@pytest.mark.parametrize(
    "objective",
    [
        "cross_entropy",
        "focal",
        "soft_ordinal",
        "regression",
        "huber",
        "coral",
        "corn",
        "cumulative",
    ],
)
def test_one_batch_is_learned_by_heart_with_every_objective(
    tiny_config: Make, capsys: pytest.CaptureFixture[str], objective: str
) -> None:
    rate = 0.05 if objective in ("coral", "cumulative") else 0.01
    chosen = [f"objective={objective}", f"schedule.max_lr={rate}"]
    config = tiny_config(*chosen, "debug=overfit", "augment=fundus")
    assert check_train(config) == []
    assert door.main(config) is None
    text = capsys.readouterr().out
    assert "overfit: learned: loss" in text
    assert "accuracy 1.0000, QWK 1.0000 on its 10 records (2, 2, 2, 2, 2 of the grades" in text
    assert not Path(config.outputs).exists()


LABELS = np.array([0, 0, 0, 1, 1, 2, 3, 4])


def bounds(config: TrainConfig) -> Bounds:
    with choose_accelerator(config.accel) as accelerator:
        return overfitting._bounds(trial_job(config, accelerator), LABELS)


def test_the_bounds_are_those_of_entropy_and_variance(tiny_config: Make) -> None:
    shares = np.bincount(LABELS) / len(LABELS)
    entropy = -(shares * np.log(shares)).sum()
    found = bounds(tiny_config())
    assert found.least == pytest.approx(0, abs=1e-3)
    assert found.blind == pytest.approx(entropy, rel=1e-4)
    found = bounds(tiny_config("objective=regression"))
    assert found.least == pytest.approx(0, abs=1e-6)
    assert found.blind == pytest.approx(LABELS.var(), rel=1e-4)
    for objective in ("coral", "cumulative", "corn"):
        found = bounds(tiny_config(f"objective={objective}"))
        assert found.least == pytest.approx(0, abs=0.01), objective
    assert bounds(tiny_config("objective=cumulative")).blind == pytest.approx(entropy, rel=1e-3)


def test_the_least_loss_of_soft_labels_is_their_entropy(tiny_config: Make) -> None:
    distances = (np.arange(5)[:, None] - LABELS) ** 2
    soft = np.exp(-distances) / np.exp(-distances).sum(axis=0)
    entropy = -(soft * np.log(soft)).sum(axis=0).mean()
    found = bounds(tiny_config("objective=soft_ordinal"))
    assert found.least == pytest.approx(entropy, rel=1e-4)
    assert found.goal == pytest.approx(entropy + 0.2 * (found.blind - entropy), rel=1e-4)


@pytest.fixture
def contradicting(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Shards in which the same picture has two different grades."""
    from dr.shards.labels import read_label_source
    from dr.shards.packing import Packing, pack

    photographs = tmp_path / "photographs"
    write_tiny_photographs(photographs)
    picture = cv2.imread(str(photographs / "0_left.png"))
    for patient in range(30):
        for side in ("left", "right"):
            cv2.imwrite(str(photographs / f"{patient}_{side}.png"), picture)
    source = read_label_source(tiny_data(photographs), cache=tmp_path)
    shards = tmp_path / "shards"
    pack(Packing(source=source, preparation=PLAIN, image_size=32, folder=shards, workers=1))
    return shards


def test_what_is_not_learned_ends_with_hints(
    tiny_config: Make,
    contradicting: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(overfitting, "STEPS", 25)
    config = tiny_config(f"shards={contradicting}", "debug=overfit", "optimizer.layer_decay=0.5")
    with pytest.raises(ValueError, match="does not learn one batch by heart") as raised:
        door.main(config)
    assert "overfit: NOT learned: loss" in capsys.readouterr().out
    hints = str(raised.value).splitlines()[1:]
    table = pd.read_csv(contradicting / "records.csv").set_index("name")["label"]
    named = re.findall(r"(\d+_\w+) \((\d)\)", hints[0])
    assert "40 pairs of its pictures are the same" in hints[0]
    assert [table[name] for name, _ in named] == [int(grade) for _, grade in named]
    assert len({grade for _, grade in named}) == 2
    assert any("python -m dr.find_lr" in hint for hint in hints)
    assert any("optimizer.layer_decay" in hint for hint in hints)


@pytest.mark.parametrize(
    ("rate", "hint"), [("1e-9", "another schedule.max_lr than 1e-09"), ("1e18", "a lower schedule")]
)
def test_a_rate_that_is_far_off_is_named(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch, rate: str, hint: str
) -> None:
    monkeypatch.setattr(overfitting, "STEPS", 25)
    found = overfit(tiny_config("debug=overfit", f"schedule.max_lr={rate}", "optimizer=sgd"))
    assert found.problem is not None
    assert hint in found.problem


WAYS = (
    ("select=cross", "ema_decay=0.9", "optimizer.freeze_epochs=1", "fold=all"),
    ("start_image_size=16", "objective=coral", "balance=1", "loader.cache=decoded", "fold=[0,2]"),
)


@pytest.mark.parametrize("changes", WAYS)
def test_one_batch_goes_the_whole_way_and_leaves_nothing(
    tiny_config: Make,
    outside_shards: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    changes: tuple[str, ...],
) -> None:
    seen: list[Outcome] = []
    monkeypatch.setattr(one_batch, "_load", lambda config, outcome: seen.append(_read(outcome)))
    config = tiny_config("debug=one_batch", "epochs=5", f"test={outside_shards}", *changes)
    assert check_train(config) == []
    assert door.main(config) is None
    text = capsys.readouterr().out
    assert "one_batch: the whole way works" in text
    folds = range(3) if "fold=all" in changes else (0, 2)
    assert f"(fold {', '.join(map(str, folds))}, one batch of each)" in text
    seconds = [float(line.split()[0]) for line in text.splitlines()[1:]]
    assert sum(seconds[:-1]) == pytest.approx(seconds[-1], abs=0.1)
    for stage in ("training", "evaluation", "saving", "test set and curves"):
        assert f"s  {stage}" in text or f", {stage}" in text
    for fold in folds:
        history, predictions, test = seen[0].result[f"fold-{fold}"]
        assert len(history) == 2
        assert [row["images_per_second"] * row["seconds"] for row in history] == pytest.approx(
            [10, 10], rel=0.3
        )
        assert len(predictions) == len(test) == 10
    assert not seen[0].folder.exists()
    cached = Path(config.cache)
    assert not [path for path in Path(config.outputs).rglob("*") if cached not in path.parents]


def _read(outcome: Outcome) -> Outcome:
    """What lies in the folder of a run that will be gone."""
    found = {
        path.name: (
            read_history(path),
            pd.read_csv(path / "predictions.csv"),
            pd.read_csv(path / "test_predictions.csv"),
        )
        for path in outcome.folder.glob("fold-*")
        if (path / "predictions.csv").is_file()
    }
    return dataclasses.replace(outcome, result=found)


def test_a_crash_on_the_way_is_raised_and_leaves_nothing_either(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("debug=one_batch")
    kept = Path(config.outputs) / "another run"
    kept.mkdir(parents=True)

    def fail(path: Path) -> None:
        raise ValueError(f"no pen: {path.name}")

    monkeypatch.setattr("dr.reporting.curves.draw_curves", fail)
    with pytest.raises(ValueError, match="no pen: test_efficientnet"):
        door.main(config)
    assert list(Path(config.outputs).iterdir()) == [kept]


def test_a_profile_tells_each_stage_and_writes_a_trace(
    tiny_config: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(profiling, "TIMED", 4)
    config = tiny_config("debug=profile", "augment.mixup=0.2", "ema_decay=0.9")
    for _ in range(2):
        assert door.main(config) is None
    text = capsys.readouterr().out
    first, second = sorted(tmp_path.glob("*.json.gz"), key=lambda path: path.stat().st_mtime)
    assert second.name == first.name.replace(".json", "-2.json")
    assert f"{first.name}: open it" in text and f"{second.name}: open it" in text
    shares = [float(line.split()[-1].rstrip("%")) for line in _stage_lines(text)]
    assert len(shares) == len(profiling._STAGES)
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert "aten::convolution_backward" in text and "waiting for data: " in text
    trace = json.loads(gzip.decompress(first.read_bytes()))
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {f"stage: {stage}" for stage in profiling._STAGES[:-1]} <= names
    assert not [path for path in Path(config.outputs).glob("*") if path.name != ".cache"]


def _stage_lines(text: str) -> list[str]:
    table = text.split("\n\n")[0].splitlines()
    return [line for line in table if line.startswith("  ") and "share" not in line]


def test_a_stage_is_charged_without_those_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    class Owner:
        def outer(self, fail: bool) -> str:
            spend(1)
            self.inner(fail)
            spend(2)
            return "done"

        def inner(self, fail: bool) -> None:
            spend(4)
            if fail:
                raise KeyError

    monkeypatch.setattr(profiling.time, "perf_counter", lambda: now)
    clock = StageClock(choose_accelerator(AccelConfig(name="cpu")))
    owner: Any = Owner()
    clock.watch(owner, {"outer": "a", "inner": "b"})
    spend(100)
    clock.restart()
    spend(8)
    assert owner.outer(fail=False) == "done"
    with pytest.raises(KeyError):
        owner.outer(fail=True)
    spend(16)
    host, device = clock.read()
    assert host == {"the rest": 24, "a": 4, "b": 8}
    assert device == {}


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        (["debug=fit"], {"debug"}),
        (["debug=overfit", "resume=never", "time_limit=1h"], {"resume", "time_limit"}),
        (["debug=overfit", "test=x", "accel.devices=2"], {"test", "accel.devices"}),
        (["debug=profile", "accel=tpu"], {"debug"}),
        (["debug=one_batch", "test=x", "accel.devices=2"], set()),
    ],
)
def test_settings_without_effect_are_refused(
    tiny_config: Make, changes: list[str], keys: set[str]
) -> None:
    config = tiny_config(*changes)
    config = dataclasses.replace(config, accel=dataclasses.replace(config.accel, threads=None))
    assert keys <= {problem.key for problem in check_train(config)}
    assert keys or check_train(config) == []


def test_a_range_test_refuses_debug(tiny_overrides: list[str]) -> None:
    config = compose("find_lr", FindLrConfig, [*tiny_overrides, "debug=overfit"])
    assert [problem.key for problem in check_find_lr(config)] == ["debug"]


def test_debug_starts_from_another_run(tiny_config: Make, caplog: pytest.LogCaptureFixture) -> None:
    from dr.training.cross_validation import cross_validate

    outcome = cross_validate(tiny_config("epochs=20", "fold=0", "schedule.max_lr=0.02"))
    assert outcome is not None
    with caplog.at_level(logging.INFO):
        found = overfit(tiny_config(f"model.weights=run:{outcome.folder}", "debug=overfit"))
    fresh = overfit(tiny_config("debug=overfit"))
    assert found.problem is None
    assert _first_loss(found.text) < _first_loss(fresh.text)


def _first_loss(text: str) -> float:
    return float(text.partition("loss ")[2].split()[0])
