"""Runs that are killed or stopped at any moment, and end as if they had not been."""

import json
import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from dr import train
from dr.config import TrainConfig
from dr.training.checkpoint import load_checkpoint
from dr.training.history import TIMINGS, read_history

Make = Callable[..., TrainConfig]

KILLS = 20
CHANGES = (
    "augment=fundus",
    "model.drop_rate=0.2",
    "model.drop_path_rate=0.1",
    "optimizer.clip_norm=1",
    "ema_decay=0.9",
    "folds=2",
    "epochs=3",
    "save_minutes=0",
)
PRECISIONS = {
    "float32": (),
    "bfloat16": ("accel.precision=bfloat16", "accel.channels_last=true"),
}


def start(config: TrainConfig) -> BaseProcess:
    """A process that trains; those after the first need not import anything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dr.training.cross_validation", "albumentations", "timm"])
    process = context.Process(target=train.main, args=(config,))
    process.start()
    return process


def finish(config: TrainConfig) -> None:
    process = start(config)
    process.join()
    assert process.exitcode == 0


def run_of(config: TrainConfig) -> Path | None:
    return next(Path(config.outputs).glob("test_*"), None)


def is_complete(config: TrainConfig) -> bool:
    run = run_of(config)
    result = None if run is None else run / "result.json"
    return result is not None and result.is_file() and json.loads(result.read_text())["complete"]


def position(config: TrainConfig) -> str:
    """How far the fold under way is, as its checkpoint tells: `fold 1, epoch 0, step 2`."""
    run = run_of(config)
    for fold in range(2 if run is not None else 0):
        packed = load_checkpoint(run / f"fold-{fold}")
        if packed is not None:
            state = json.loads(packed["state"])
            return f"fold {fold}, epoch {state['epoch']}, step {state['tally']['step']}"
    return "between folds"


def kill_after(config: TrainConfig, seconds: float) -> None:
    process = start(config)
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def left_behind(config: TrainConfig) -> dict[str, Any]:
    """All that a run leaves but its times: names of files, and what they hold."""
    run = run_of(config)
    assert run is not None
    held: dict[str, Any] = {"result": json.loads((run / "result.json").read_text())}
    for path in sorted(run.glob("fold-*/[!.]*")):
        name = str(path.relative_to(run))
        held[name] = path.read_bytes()
        if path.name == "history.csv":
            rows = read_history(path.parent)
            held[name] = [{key: row[key] for key in row if key not in TIMINGS} for row in rows]
    return held


def same(config: TrainConfig, whole: dict[str, Any]) -> None:
    held = left_behind(config)
    assert held.keys() == whole.keys()
    assert [name for name in held if held[name] != whole[name]] == []


def moments(length: float) -> list[float]:
    """A random moment in each of `KILLS` equal parts of a run's length in seconds."""
    draw = random.Random(20)
    return [length * (part + draw.random()) / KILLS for part in range(KILLS)]


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(
    tiny_config: Make, tmp_path: Path, precision: str
) -> None:
    changes = (*CHANGES, *PRECISIONS[precision])
    finish(tiny_config(*changes, f"outputs={tmp_path / 'warm'}"))
    began = time.monotonic()
    reference = tiny_config(*changes, f"outputs={tmp_path / 'whole'}")
    finish(reference)
    length = time.monotonic() - began
    whole = left_behind(reference)
    positions = []
    for number, moment in enumerate(moments(length)):
        config = tiny_config(*changes, f"outputs={tmp_path / f'killed-{number}'}")
        kill_after(config, moment)
        while is_complete(config):
            moment *= 0.9
            config = tiny_config(*changes, f"outputs={tmp_path / f'killed-{number}-{moment:.3f}'}")
            kill_after(config, moment)
        positions.append(position(config))
        finish(config)
        same(config, whole)
    assert sum("step" in text and "step 0" not in text for text in positions) >= 5
    assert any(text.startswith("fold 0") for text in positions)
    assert any(text.startswith("fold 1") for text in positions)
