"""The run: every fold trained, every score gathered."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dr.accel.base import Accelerator
from dr.accel.choice import choose_accelerator
from dr.config import TrainConfig
from dr.loading.augmentation import Augmentation
from dr.loading.pictures import open_pictures
from dr.loading.resources import describe_loader
from dr.loading.sampler import Mixture, source_counts
from dr.loading.split import Split, split_records
from dr.modeling.backbones import build_model
from dr.modeling.objectives import build_objective
from dr.progress import JobProgress
from dr.shards.duplicates import linked_patients
from dr.shards.joining import JoinedShards, parts_of, source_numbers
from dr.shards.shard_set import ShardSet
from dr.training.environment import code_version, describe_environment
from dr.training.fold import (
    FoldJob,
    best_epoch,
    finish_fold,
    is_trained,
    merits,
    read_history,
    train_fold,
)
from dr.training.identity import run_identity, run_name, source_weights
from dr.training.optimizers import build_optimizer, freeze_backbone
from dr.training.outside import OutsideTest, begin_test, score_ensemble, score_fold
from dr.training.run_folder import (
    RunFolder,
    claim_run_folder,
    locked,
    update_result,
    write_start,
)
from dr.training.schedules import schedule_warnings
from dr.training.source import Outside, outside_shards, training_shards

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run's folder, and what its `result.json` holds."""

    folder: Path
    result: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Experiment:
    """A training that was checked: what every fold shares, and `folds`, those asked for."""

    config: TrainConfig
    accelerator: Accelerator
    augmentation: Augmentation
    shards: ShardSet
    outside: Outside | None
    split: Split
    mixture: Mixture | None
    image_size: int
    folds: tuple[int, ...]


def cross_validate(config: TrainConfig) -> Outcome:
    """Train the folds that `config.fold` asks for, and gather what is finished.

    A finished run is not repeated (`resume=auto`); an unfinished one goes on. A `test` set is
    scored with each fold's kept weights, also beside a finished run. Raises ValueError for
    anything that cannot be trained as asked, before the run folder is made where it can be known
    then.
    """
    experiment = _checked_experiment(config)
    run = _claim(experiment)
    test = _outside_test(experiment, run)
    if not _already_complete(run):
        _start(experiment, run)
        if test is not None:
            begin_test(test)
        _train_folds(experiment, run, test)
    elif test is None or test.is_complete(experiment.folds):
        return Outcome(folder=run.path, result=run.result())
    return Outcome(folder=run.path, result=_gather(run, config, test, experiment.folds))


def trial_job(config: TrainConfig, fold: int) -> FoldJob:
    """The training of one fold, checked as ever, for a trial: its run folder is never made.

    Raises ValueError as `cross_validate` does.
    """
    one = dataclasses.replace(config, fold=[fold], test=None)
    nowhere = RunFolder(Path(config.outputs) / "trial", "")
    return _job(_checked_experiment(one), nowhere, fold, JobProgress(0, description="trial"))


def _checked_experiment(config: TrainConfig) -> _Experiment:
    accelerator = choose_accelerator(config.accel)
    augmentation = Augmentation(config.augment)
    shards = training_shards(config)
    outside = outside_shards(config, shards)
    split = split_records(
        shards.table,
        folds=config.folds,
        fold_column=config.fold_column,
        seed=config.fold_seed,
        sources=source_numbers(shards),
        links=linked_patients(shards),
        group_duplicates=config.group_duplicates,
    )
    image_size = config.image_size or shards.image_size
    experiment = _Experiment(
        config=config,
        accelerator=accelerator,
        augmentation=augmentation,
        shards=shards,
        outside=outside,
        split=split,
        mixture=_mixture(config, shards),
        image_size=image_size,
        folds=tuple(_chosen_folds(config, split)),
    )
    _check(experiment)
    return experiment


def _check(experiment: _Experiment) -> None:
    config, split = experiment.config, experiment.split
    _say_what_has_no_effect(config, split)
    _say_what_is_enlarged(experiment)
    experiment.augmentation.check(experiment.image_size)
    _check_batches(config, split, experiment.folds)
    _check_mixture(experiment)
    _check_model(config, experiment.image_size)


def _outside_test(experiment: _Experiment, run: RunFolder) -> OutsideTest | None:
    if experiment.outside is None:
        return None
    return OutsideTest(
        config=experiment.config,
        shards=experiment.outside.shards,
        shared=experiment.outside.shared,
        run=run,
        image_size=experiment.image_size,
        accelerator=experiment.accelerator,
    )


def _start(experiment: _Experiment, run: RunFolder) -> None:
    threads = experiment.config.accel.threads or _threads()
    environment = describe_environment(experiment.accelerator, threads=threads)
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


def _fill_cache(experiment: _Experiment) -> None:
    """Build the decoded caches that the folds and the test will read, with progress of its own."""
    if experiment.config.loader.cache == "none":
        return
    sets = [experiment.shards]
    if experiment.outside is not None:
        sets.append(experiment.outside.shards)
    total = sum(map(len, sets))
    with JobProgress(total, description="decoding into the cache") as progress:
        for shards in sets:
            open_pictures(
                shards,
                image_size=experiment.image_size,
                config=experiment.config.loader,
                cache=Path(experiment.config.cache),
                done=progress.advance,
            )


def _mixture(config: TrainConfig, shards: ShardSet) -> Mixture | None:
    weights, sources = source_weights(config), source_numbers(shards)
    if weights is None:
        return None
    assert sources is not None
    return Mixture(sources, weights)


def _check_mixture(experiment: _Experiment) -> None:
    """Refuse weights that leave a source out of an epoch; say how often each is gone through."""
    mixture, split = experiment.mixture, experiment.split
    if mixture is None:
        return
    size = experiment.config.batch_size
    for fold in range(split.count):
        records = split.training(fold)
        counts = source_counts(records, mixture, len(records) // size * size)
    held = np.bincount(mixture.source_of[records], minlength=len(counts))
    for name, count, own in zip(parts_of(experiment.shards), counts, held, strict=True):
        times = f"each {count / own:.2f} times" if count else "it is only scored"
        _log.info("source %s: %d of %d records an epoch, %s", name, count, sum(counts), times)


def _say_what_has_no_effect(config: TrainConfig, split: Split) -> None:
    if config.fold_column is not None and config.folds != split.count:
        _log.warning(
            "fold_column=%s: gives %d fold(s); folds=%d has no effect",
            config.fold_column,
            split.count,
            config.folds,
        )


def _say_what_is_enlarged(experiment: _Experiment) -> None:
    size = experiment.image_size
    if size > experiment.shards.image_size:
        _log.warning(
            "image_size=%d: the shards hold %d px, so their pictures are enlarged",
            size,
            experiment.shards.image_size,
        )
    if experiment.outside is not None and size > experiment.outside.shards.image_size:
        _log.warning(
            "test=%s: holds pictures of %d px, which are enlarged to %d px",
            experiment.config.test,
            experiment.outside.shards.image_size,
            size,
        )


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _claim(experiment: _Experiment) -> RunFolder:
    config = experiment.config
    identity = run_identity(
        config,
        data=experiment.shards.digest,
        image_size=experiment.image_size,
        precision=experiment.accelerator.precision,
        channels_last=experiment.accelerator.channels_last,
    )
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


def _chosen_folds(config: TrainConfig, split: Split) -> list[int]:
    if config.fold == "all":
        return list(range(split.count))
    chosen = config.fold if isinstance(config.fold, list) else [config.fold]
    if max(chosen) >= split.count:
        raise ValueError(f"fold={config.fold}: there are folds 0 to {split.count - 1} only")
    return list(chosen)


def _check_batches(config: TrainConfig, split: Split, folds: Sequence[int]) -> None:
    """Everything that a fold's first step would stumble over."""
    fewest = min(len(split.training(fold)) for fold in folds)
    if fewest < config.batch_size:
        raise ValueError(
            f"batch_size={config.batch_size}: is larger than the {fewest} records that one fold "
            f"trains on; set at most {fewest}"
        )
    for warning in schedule_warnings(
        config.schedule, steps_per_epoch=fewest // config.batch_size, epochs=config.epochs
    ):
        _log.warning("%s", warning)
    if config.select == "cross" and split.count < 3:
        raise ValueError(f"select=cross: needs at least 3 folds, there are {split.count}")


def _check_model(config: TrainConfig, image_size: int) -> None:
    """Build what learns once, so that its errors come before a run folder is made."""
    objective = build_objective(config.objective)
    model = build_model(
        config.model, outputs=objective.outputs, head=objective.head, image_size=image_size
    )
    build_optimizer(model, config.optimizer)
    if config.optimizer.freeze_epochs:
        freeze_backbone(model, frozen=True)


def _train_folds(experiment: _Experiment, run: RunFolder, test: OutsideTest | None) -> None:
    config, folds = experiment.config, experiment.folds
    left = [fold for fold in folds if not is_trained(run, fold)]
    if len(left) < len(folds):
        done = ", ".join(str(fold) for fold in folds if fold not in left)
        _log.warning("%s: fold %s: trained already, not trained again", run.path, done)
    tested = len(test.shards) if test is not None and config.select != "cross" else 0
    with JobProgress(0, description="training") as progress:
        jobs = [_job(experiment, run, fold, progress) for fold in left]
        progress.skip(-sum(job.images_per_epoch * config.epochs + tested for job in jobs))
        for job in jobs:
            with locked(job.folder, what=f"fold {job.fold}"):
                if is_trained(run, job.fold):
                    job.progress.skip(job.images_per_epoch * config.epochs + tested)
                    continue
                experiment.accelerator.launch(partial(train_fold, job))
            if test is not None and tested:
                score_fold(test, job.fold, progress)
            update_result(run)


def _job(experiment: _Experiment, run: RunFolder, fold: int, progress: JobProgress) -> FoldJob:
    return FoldJob(
        config=experiment.config,
        shards=experiment.shards,
        split=experiment.split,
        fold=fold,
        run=run,
        image_size=experiment.image_size,
        accelerator=experiment.accelerator,
        augmentation=experiment.augmentation,
        progress=progress,
        mixture=experiment.mixture,
    )


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
        finish_fold(run, fold, best_epoch(others.tolist()), histories[fold])
