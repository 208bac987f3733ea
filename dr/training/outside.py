"""An outside test set: every fold's kept weights scored on it, and the mean of the folds.

Its scores choose nothing. A run has one test set at a time; another one takes its place.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dr.accel.base import Accelerator
from dr.config import TrainConfig
from dr.files import write_json
from dr.loading.sampler import evaluation_batches
from dr.modeling.objectives import build_objective
from dr.progress import JobProgress
from dr.scoring.metrics import score_predictions, to_json
from dr.shards.joining import parts_of
from dr.shards.naming import source_names
from dr.shards.shard_set import ShardSet
from dr.training.checkpoint import WEIGHTS, load_weights_file
from dr.training.job import open_loader
from dr.training.keeping import SCORES_FILE, write_predictions
from dr.training.learner import build_learner
from dr.training.loop import evaluate
from dr.training.run_folder import (
    CHANCES,
    RESULT,
    TEST_SCORES,
    RunFolder,
    outside_scores,
    read_predictions,
)

TEST_PREDICTIONS = "test_predictions.csv"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OutsideTest:
    """A test set beside a run. `image_size` is the training size in pixels.

    `shared` of its records seem to be among those trained on; `batches` of it are scored, where it
    is not all.
    """

    config: TrainConfig
    shards: ShardSet
    run: RunFolder
    image_size: int
    accelerator: Accelerator
    shared: int = 0
    batches: int | None = None

    def is_due(self, fold: int) -> bool:
        """Whether a fold's weights are there and not scored on this set yet."""
        folder = self.run.fold(fold)
        if not (folder / SCORES_FILE).is_file():
            return False
        return outside_scores(folder, digest=self.shards.digest) is None

    def is_complete(self, folds: Sequence[int]) -> bool:
        """Whether `result.json` holds this set's scores of `folds`."""
        result = self.run.result()
        known = result.get("test")
        if known is None or known["digest"] != self.shards.digest:
            return False
        scored = {entry["fold"] for entry in known["folds"]}
        whole = scored == set(result["planned_folds"])
        return scored >= set(folds) and (known["ensemble"] is not None or not whole)


def begin_test(test: OutsideTest) -> None:
    """Name the test set in `result.json`; the scores of another one are dropped from there."""
    from filelock import FileLock

    with FileLock(test.run.path / ".lock"):
        result = test.run.result()
        known = result.get("test")
        if known is not None and known["digest"] == test.shards.digest:
            return
        given = test.config.test
        name = " + ".join(source_names(given if isinstance(given, list) else [given]))
        if known is not None:
            _log.warning("%s: test=%s takes the place of %s", test.run.path, name, known["name"])
        result["test"] = {
            "name": name,
            "digest": test.shards.digest,
            "records": len(test.shards),
            "shared": test.shared,
            "patients": int(test.shards.table["patient"].nunique()),
            "shards": [
                part.url or str(part.folder.resolve()) for part in parts_of(test.shards).values()
            ],
            "folds": [],
            "ensemble": None,
        }
        write_json(test.run.path / RESULT, result)


def score_fold(test: OutsideTest, fold: int, progress: JobProgress) -> None:
    """Score a trained fold on the test set, where that is due.

    Leaves test_predictions.csv and test_scores.json in its folder.
    """
    from filelock import FileLock

    with FileLock(test.run.fold(fold) / ".lock"):
        if test.is_due(fold):
            _score(test, fold, progress)


def _score(test: OutsideTest, fold: int, progress: JobProgress) -> None:
    folder = test.run.fold(fold)
    learner = build_learner(
        test.config, test.accelerator, image_size=test.image_size, pretrained=False
    )
    load_weights_file(folder / WEIGHTS, learner.scored)
    labels = test.shards.table["label"].to_numpy()
    every = np.arange(len(test.shards))
    plan = evaluation_batches(every, batch_size=test.config.batch_size)[: test.batches]
    with open_loader(
        test.config, test.shards, image_size=test.image_size, accelerator=test.accelerator
    ) as loader:
        found = evaluate(
            learner,
            loader,
            plan=plan,
            labels=labels,
            done=progress.advance,
            pad_to=test.config.batch_size if test.accelerator.static_batch else None,
        )
    assert found is not None, "the test set is scored by one process"
    scores = score_predictions(
        labels=labels[found.records], probabilities=found.probabilities, losses=found.losses
    )
    (folder / TEST_SCORES).unlink(missing_ok=True)
    write_predictions(folder / TEST_PREDICTIONS, test.shards, fold=fold, predictions=found)
    records = len(found.records)
    skipped = sum(map(len, plan)) - records
    known = {"digest": test.shards.digest, "records": records, "skipped": skipped}
    write_json(folder / TEST_SCORES, {**to_json(scores), **known})
    progress.say(f"fold {fold}: on the test set, {_spell(scores)}, {records} records")


def _spell(scores: dict[str, float]) -> str:
    return f"qwk {scores['qwk']:.4f}, accuracy {scores['accuracy']:.4f}"


def score_ensemble(test: OutsideTest) -> None:
    """Score the mean of all planned folds on the test set, once each of them is scored."""
    from filelock import FileLock

    with FileLock(test.run.path / ".lock"):
        result = test.run.result()
        folders = [test.run.fold(fold) for fold in result["planned_folds"]]
        digest = test.shards.digest
        if any(outside_scores(folder, digest=digest) is None for folder in folders):
            return
        result["test"]["ensemble"] = _combined(test.config, folders)
        write_json(test.run.path / RESULT, result)


def _combined(config: TrainConfig, folders: Sequence[Path]) -> dict[str, Any]:
    import torch

    tables = [read_predictions(folder / TEST_PREDICTIONS) for folder in folders]
    read_by_all = set.intersection(*(set(table["name"]) for table in tables))
    tables = [table[table["name"].isin(read_by_all)] for table in tables]
    _, probabilities = build_objective(config.objective).combine(
        torch.tensor(np.stack([table["score"] for table in tables])),
        torch.tensor(np.stack([table[CHANCES] for table in tables])),
    )
    scores = score_predictions(
        labels=tables[0]["label"], probabilities=probabilities.numpy(), losses=None
    )
    del scores["loss"]
    return {**to_json(scores), "records": len(tables[0])}
