"""`debug=one_batch`: the whole way of a run, with one batch of each, before hours are spent on it.

What would crash at the end of the first epoch, or of the run, crashes within a minute.
"""

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dr.config import Constant, LoggerConfig, TrainConfig
from dr.files import make_writable_folder
from dr.modeling.backbones import build_model
from dr.modeling.objectives import build_objective
from dr.training.checkpoint import WEIGHTS, load_weights_file
from dr.training.cross_validation import Outcome, cross_validate
from dr.training.debugging import Finding
from dr.training.history import read_history
from dr.training.schedules import learning_rate

_EPOCHS = 2
"""So that what changes between epochs (frozen layers, picture sizes) does."""


def train_one_batch(config: TrainConfig) -> Finding:
    """Train, score, save, and compare a run of one batch an epoch and evaluation.

    It lies in a hidden folder of `outputs` that is gone afterwards. At most two epochs of each
    fold asked for, at the first rate of the schedule; nothing is logged elsewhere, and no cache of
    decoded pictures is built. Raises ValueError for anything that cannot be trained as asked.
    """
    with _throwaway(Path(config.outputs)) as outputs:
        started = time.time()
        outcome = cross_validate(_shortened(config, outputs), batches=1)
        if outcome is None:
            return Finding("")
        trained = time.time()
        stages = _stages(outcome, started=started, ended=trained)
        _load(config, outcome)
        loaded = time.time()
        _compare(outputs)
        stages += [("loading the kept weights", loaded - trained)]
        stages += [("dr.compare", time.time() - loaded)]
    total = time.time() - started
    lines = [f"  {seconds:8.2f} s  {stage}" for stage, seconds in stages]
    listed = "\n".join(["one_batch: the whole way works", *lines])
    return Finding(f"{listed}\n  {total:8.2f} s  in all; its files are gone again")


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
    objective = build_objective(config.objective)
    for path in outcome.folder.glob(f"fold-*/{WEIGHTS}"):
        model = build_model(
            config.model,
            outputs=objective.outputs,
            head=objective.head,
            pretrained=False,
            image_size=outcome.result["data"]["image_size"],
        )
        load_weights_file(path, model)


def _compare(outputs: Path) -> None:
    from dr.reporting.comparison import compare, render_table
    from dr.reporting.runs import read_runs

    render_table(compare(read_runs(outputs)), width=None, encoding="utf-8")


def _stages(outcome: Outcome, *, started: float, ended: float) -> list[tuple[str, float]]:
    """What took how many seconds, told from the run's files."""
    last = (outcome.folder / "folds.csv").stat().st_mtime
    stages = [("opening the data, making folds, building the network once", last - started)]
    histories = outcome.folder.glob("fold-*/history.csv")
    folds = sorted(histories, key=lambda path: path.stat().st_mtime)
    for path in folds:
        history, name = read_history(path.parent), path.parent.name
        training = sum(row["seconds"] for row in history)
        evaluating = sum(row["evaluation_seconds"] for row in history)
        whole = path.stat().st_mtime - last
        stages += [
            (f"{name}: training, {len(history)} batches", training),
            (f"{name}: evaluating, {len(history)} batches", evaluating),
            (f"{name}: building and saving", whole - training - evaluating),
        ]
        last += whole
    stages.append(("scores, test set and curves", ended - last))
    return stages
