"""Searches whose trainings are made up: a fold's score is what a function says of its config."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dr.compose import compose
from dr.config import SearchConfig, TrainConfig
from dr.digests import digest_of
from dr.training.cross_validation import Outcome

SPACE = (
    "space=none",
    "space.schedule.max_lr={low: 1e-4, high: 1e-2, log: true}",
    "space.model.drop_rate={low: 0, high: 0.5}",
)


class FakeTrainer:
    """`cross_validate`, but for the training: it keeps the folds it was asked for, in order."""

    def __init__(self, score: Callable[[TrainConfig, int], float | None]) -> None:
        self.score = score
        self.asked: list[tuple[TrainConfig, int]] = []

    def __call__(self, config: TrainConfig) -> Outcome:
        (fold,) = config.fold
        self.asked.append((config, fold))
        setting = digest_of([config.schedule.max_lr, config.model.drop_rate])[:8]
        folder = Path(config.outputs) / f"run_{setting}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "result.json"
        folds: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        folds[str(fold)] = {"qwk": self.score(config, fold), "loss": 1.0}
        path.write_text(json.dumps(folds))
        return Outcome(
            folder=folder, result={"folds": folds, "planned_folds": list(range(config.folds))}
        )


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., SearchConfig]:
    """`make("trials=5", ...)`: a search of rate and drop rate in `tmp_path`, changed."""

    def make(*changes: str) -> SearchConfig:
        space = () if any(change.startswith("space") for change in changes) else SPACE
        rest = [f"outputs={tmp_path / 'outputs'}", "data.patients=7"]
        return compose("search", SearchConfig, [*space, *rest, *changes])

    return make


@pytest.fixture
def fake() -> Callable[..., FakeTrainer]:
    """`fake(score)`: trainings whose folds score what `score(config, fold)` says."""
    return FakeTrainer
