"""The run: every fold trained, every score gathered."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dr.accel.base import Accelerator
from dr.accel.choice import choose_accelerator
from dr.config import TrainConfig
from dr.digests import digest_of
from dr.loading.pictures import open_pictures
from dr.loading.resources import describe_loader
from dr.progress import JobProgress
from dr.shards.joining import JoinedShards, parts_of
from dr.shards.shard_set import ShardSet
from dr.training.environment import code_version, describe_environment
from dr.training.experiment import Experiment, check_batch, check_experiment
from dr.training.fine_tuning import SourceRun, keep_source
from dr.training.folds import FoldsTask, train_folds
from dr.training.history import best_epoch, merits, read_history
from dr.training.identity import decisive_settings, run_name
from dr.training.interruption import Interrupted, deadline
from dr.training.keeping import finish_fold, is_trained, tidy_fold
from dr.training.logged import fold_logger
from dr.training.outside import OutsideTest, begin_test, score_ensemble, score_fold
from dr.training.resuming import open_run
from dr.training.run_folder import (
    RunFolder,
    claim_run_folder,
    update_result,
    write_start,
)
from dr.training.timings import Timings, record_timings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run's folder, and what its `result.json` holds."""

    folder: Path
    result: dict[str, Any]


def cross_validate(config: TrainConfig, *, batches: int | None = None) -> Outcome | None:
    """Train the folds that `config.fold` asks for, and gather what is finished.

    A finished run is not repeated (`resume=auto`); an unfinished one goes on. A `test` set is
    scored with each fold's kept weights, also beside a finished run. `batches`: how many of each
    epoch and evaluation, for a trial. None where this process is
    one of several that another one leads (torchrun's, all but the first). Raises ValueError for
    anything that cannot be trained as asked, before the run folder is made where it can be known
    then, and Interrupted where the training was asked to stop.
    """
    until = deadline(config.time_limit)
    with choose_accelerator(config.accel) as accelerator:
        if not accelerator.is_first:
            accelerator.follow()
            return None
        return _lead(config, accelerator, until, batches)


def _lead(
    config: TrainConfig, accelerator: Accelerator, until: float | None, batches: int | None
) -> Outcome:
    timings = Timings()
    with timings.of("start"):
        check_batch(config, accelerator)
        experiment = check_experiment(config)
        run = _claim(experiment, accelerator)
        test = _outside_test(experiment, run, accelerator, batches)
    if not _already_complete(run):
        with timings.of("start"):
            _start(experiment, run, accelerator)
            if test is not None:
                begin_test(test)
        timings.add(_train_folds(experiment, run, accelerator, until, batches))
    elif _is_gathered(run) and (test is None or test.is_complete(experiment.folds)):
        return Outcome(folder=run.path, result=run.result())
    with timings.of("gathering"):
        result = _gather(run, config, test, experiment.folds)
    if "training" in timings.seconds:
        record_timings(run, timings)
    return Outcome(folder=run.path, result=result)


def _is_gathered(run: RunFolder) -> bool:
    """Whether a finished run has its pictures too, the last that it is given."""
    return (run.path / "curves.png").is_file()


def _outside_test(
    experiment: Experiment, run: RunFolder, accelerator: Accelerator, batches: int | None
) -> OutsideTest | None:
    if experiment.outside is None:
        return None
    return OutsideTest(
        config=experiment.config,
        shards=experiment.outside.shards,
        shared=experiment.outside.shared,
        run=run,
        image_size=experiment.image_size,
        accelerator=accelerator,
        batches=batches,
    )


def _start(experiment: Experiment, run: RunFolder, accelerator: Accelerator) -> None:
    threads = experiment.config.accel.threads or _threads()
    environment = describe_environment(accelerator, threads=threads)
    environment["loader"] = describe_loader(
        experiment.config.loader,
        image_size=experiment.image_size,
        batch_size=experiment.config.batch_size,
    )
    write_start(
        run,
        experiment.config,
        environment=environment,
        table=experiment.shards.table,
        split=experiment.split,
        data=_data(experiment.shards, experiment.image_size),
    )
    _log.info("%s: %s, %s", run.path, environment["device"], environment["precision"])
    _fill_cache(experiment)


def _fill_cache(experiment: Experiment) -> None:
    """Build the decoded caches that the folds and the test will read, with progress of its own."""
    if experiment.config.loader.cache == "none":
        return
    sets = [(experiment.shards, size) for size in experiment.training_sizes]
    if experiment.outside is not None:
        sets.append((experiment.outside.shards, experiment.image_size))
    if len(experiment.training_sizes) > 1:
        _say_room(experiment)
    total = sum(len(shards) for shards, _ in sets)
    with JobProgress(total, description="decoding into the cache") as progress:
        for shards, size in sets:
            open_pictures(
                shards,
                image_size=size,
                config=experiment.config.loader,
                cache=Path(experiment.config.cache),
                done=progress.advance,
            )


def _say_room(experiment: Experiment) -> None:
    sizes = experiment.training_sizes
    whole = len(experiment.shards) * 3 * sum(size**2 for size in sizes)
    _log.warning(
        "start_image_size=%d: loader.cache=decoded keeps the pictures at each of %s px, %.1f GB in "
        "all, where those of image_size=%d alone take %.1f GB",
        sizes[0],
        ", ".join(map(str, sizes)),
        whole / 1e9,
        sizes[-1],
        len(experiment.shards) * 3 * sizes[-1] ** 2 / 1e9,
    )


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _claim(experiment: Experiment, accelerator: Accelerator) -> RunFolder:
    config = experiment.config
    settings = decisive_settings(
        config,
        data=experiment.shards.digest,
        image_size=experiment.image_size,
        precision=accelerator.precision,
        channels_last=accelerator.channels_last,
        start=None if experiment.source is None else experiment.source.key,
    )
    identity = digest_of(settings)
    if config.resume not in ("auto", "never"):
        return open_run(Path(config.resume), identity, settings)
    name = run_name(config, identity)
    return claim_run_folder(Path(config.outputs), name, identity, resume=config.resume)


def _already_complete(run: RunFolder) -> bool:
    if not (run.path / "result.json").is_file() or not run.result()["complete"]:
        return False
    import json

    made = json.loads((run.path / "environment.json").read_text())
    _log.warning(
        "%s: THIS RUN IS FINISHED, nothing is trained. It was made on %s by dr %s; today's is dr "
        "%s. resume=never trains it again beside the first.",
        run.path,
        made["date"],
        made["code"],
        code_version(),
    )
    return True


def _data(shards: ShardSet, image_size: int) -> dict[str, Any]:
    if not isinstance(shards, JoinedShards):
        return {**_one_source(shards), "image_size": image_size}
    parts = [{**_one_source(part), "name": name} for name, part in parts_of(shards).items()]
    prepared = parts[0]["preparation"]
    alike = all(part["preparation"] == prepared for part in parts)
    return {
        "name": " + ".join(shards.names),
        "digest": shards.digest,
        "records": len(shards),
        "patients": sum(part["patients"] for part in parts),
        "shards": [part["shards"] for part in parts],
        "preparation": prepared if alike else None,
        "shard_size": shards.image_size,
        "image_size": image_size,
        "sources": parts,
    }


def _one_source(shards: ShardSet) -> dict[str, Any]:
    manifest = shards.manifest
    return {
        "name": next(iter(parts_of(shards))) if manifest is None else manifest.kind,
        "digest": shards.digest,
        "records": len(shards),
        "patients": int(shards.table["patient"].nunique()),
        "shards": shards.url or str(shards.folder.resolve()),
        "preparation": None if manifest is None else dataclasses.asdict(manifest.preparation),
        "shard_size": shards.image_size,
    }


def _train_folds(
    experiment: Experiment,
    run: RunFolder,
    accelerator: Accelerator,
    until: float | None,
    batches: int | None,
) -> dict[str, float]:
    """Train the folds that are not trained yet; the seconds that their stages took."""
    folds = experiment.folds
    left = tuple(fold for fold in folds if not is_trained(run, fold))
    if len(left) < len(folds):
        done = ", ".join(str(fold) for fold in folds if fold not in left)
        _log.warning("%s: fold %s: trained already, not trained again", run.path, done)
        for fold in set(folds) - set(left):
            tidy_fold(run, fold)
    if not left:
        return {}
    task = FoldsTask(
        config=experiment.config,
        shards=experiment.shards,
        split=experiment.split,
        mixture=experiment.mixture,
        image_size=experiment.image_size,
        folds=left,
        run=run,
        source=_kept_source(experiment, run, left),
        batches=batches,
        deadline=until,
    )
    try:
        return accelerator.launch(train_folds, task)
    except Interrupted as stop:
        extra = f" with resume={run.path}" if experiment.config.resume == "never" else ""
        text = f"{run.path}: {stop}; the same command{extra} goes on"
        raise Interrupted(text, stop.exit_code) from None


def _kept_source(experiment: Experiment, run: RunFolder, folds: Sequence[int]) -> SourceRun | None:
    """What the folds start from, in the run's own folder."""
    if experiment.source is None:
        return None
    return keep_source(experiment.source, run.path, folds)


def _gather(
    run: RunFolder, config: TrainConfig, test: OutsideTest | None, folds: Sequence[int]
) -> dict[str, Any]:
    from filelock import FileLock

    result = run.result()
    planned = result["planned_folds"]
    if config.select == "cross" and all(is_trained(run, fold) for fold in planned):
        with FileLock(run.path / ".lock"):
            _finish_cross(run, config, planned)
    if test is not None:
        _score_outside(test, folds)
    result = update_result(run)
    from dr.reporting.curves import draw_curves

    draw_curves(run.path)
    return result


def _score_outside(test: OutsideTest, folds: Sequence[int]) -> None:
    begin_test(test)
    due = [fold for fold in folds if test.is_due(fold)]
    total = len(due) * len(test.shards)
    with JobProgress(total, description="scoring the test set") as progress:
        for fold in due:
            score_fold(test, fold, progress)
    score_ensemble(test)


def _finish_cross(run: RunFolder, config: TrainConfig, folds: Sequence[int]) -> None:
    """Each fold's epoch comes from the other folds' mean curve, never from its own."""
    histories = {fold: read_history(run.fold(fold)) for fold in folds}
    curves = {fold: merits(history, config) for fold, history in histories.items()}
    for fold in folds:
        if (run.fold(fold) / "scores.json").is_file():
            continue
        others = np.mean([curves[other] for other in folds if other != fold], axis=0)
        scores = finish_fold(run, fold, best_epoch(others.tolist()), histories[fold])
        with fold_logger(config, run, fold, histories[fold]) as logger:
            logger.finish(scores)
