"""`debug=one_batch`: the whole way of a run, with one batch of each, before hours are spent on it.

What would crash at the end of the first epoch, or of the run, crashes within a minute.
"""

import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dr.config import Constant, LoggerConfig, TrainConfig
from dr.files import make_writable_folder
from dr.training.checkpoint import WEIGHTS
from dr.training.cross_validation import Outcome, cross_validate
from dr.training.debugging import Finding
from dr.training.keeping import load_kept_model
from dr.training.schedules import learning_rate

_EPOCHS = 2
"""So that what changes between epochs (frozen layers, picture sizes) does."""
_STAGES = {
    "start": "opening the data, making folds, building the network once",
    "building": "building what learns",
    "training": "training",
    "evaluation": "evaluation",
    "saving": "saving",
    "gathering": "scores, test set and curves",
    "rest": "all else",
}


def train_one_batch(config: TrainConfig) -> Finding:
    """Train, score, save, and compare a run of one batch an epoch and evaluation.

    It lies in a hidden folder of `outputs` that is gone afterwards. At most two epochs of each
    fold asked for, at the first rate of the schedule; nothing is logged elsewhere, and no cache of
    decoded pictures is built. Raises ValueError for anything that cannot be trained as asked.
    """
    with _throwaway(Path(config.outputs)) as outputs:
        outcome = cross_validate(_shortened(config, outputs), batches=1)
        if outcome is None:
            return Finding("")
        stages, started = _stages(outcome), time.perf_counter()
        _load(config, outcome)
        _compare(outputs)
    stages["loading the kept weights, comparing runs"] = time.perf_counter() - started
    folds = ", ".join(outcome.result["folds"])
    lines = [f"one_batch: the whole way works (fold {folds}, one batch of each)"]
    lines += [f"  {seconds:8.2f} s  {stage}" for stage, seconds in stages.items()]
    total = sum(stages.values())
    return Finding("\n".join([*lines, f"  {total:8.2f} s  in all; its files are gone again"]))


@contextmanager
def _throwaway(outputs: Path) -> Iterator[Path]:
    there = outputs.is_dir()
    make_writable_folder(outputs, key="outputs")
    folder = Path(tempfile.mkdtemp(prefix=".one-batch-", dir=outputs))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not there:
            with suppress(OSError):
                outputs.rmdir()


def _shortened(config: TrainConfig, outputs: Path) -> TrainConfig:
    epochs = min(config.epochs, _EPOCHS)
    rate = learning_rate(config.schedule, step=0, steps_per_epoch=1, epochs=config.epochs)
    frozen = config.optimizer.freeze_epochs
    frozen = epochs if frozen >= config.epochs else min(frozen, 1)
    return dataclasses.replace(
        config,
        epochs=epochs,
        schedule=Constant(max_lr=rate),
        optimizer=dataclasses.replace(config.optimizer, freeze_epochs=frozen),
        loader=dataclasses.replace(config.loader, cache="none"),
        logger=LoggerConfig(),
        outputs=str(outputs),
        resume="never",
        debug=None,
    )


def _load(config: TrainConfig, outcome: Outcome) -> None:
    """Load what was kept as dr.predict does."""
    for path in outcome.folder.glob(f"fold-*/{WEIGHTS}"):
        load_kept_model(path, config, image_size=outcome.result["data"]["image_size"])


def _compare(outputs: Path) -> None:
    from dr.reporting.comparison import compare
    from dr.reporting.runs import read_runs
    from dr.reporting.text_table import render_table

    render_table(compare(read_runs(outputs)), width=None, encoding="utf-8")


def _stages(outcome: Outcome) -> dict[str, float]:
    """The seconds of each stage of all folds, as the run's own file tells them."""
    environment = json.loads((outcome.folder / "environment.json").read_text())
    seconds: dict[str, float] = environment["timings"][-1]
    return {spelled: seconds.get(stage, 0.0) for stage, spelled in _STAGES.items()}
