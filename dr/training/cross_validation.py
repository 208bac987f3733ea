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
from dr.loading.split import Split, split_records
from dr.modeling.backbones import build_model
from dr.modeling.objectives import build_objective
from dr.progress import JobProgress
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
from dr.training.identity import run_identity, run_name
from dr.training.run_folder import (
    RunFolder,
    claim_run_folder,
    locked,
    update_result,
    write_start,
)
from dr.training.schedules import schedule_warnings
from dr.training.source import training_shards

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run's folder, and what its `result.json` holds."""

    folder: Path
    result: dict[str, Any]


def cross_validate(config: TrainConfig) -> Outcome:
    """Train the folds that `config.fold` asks for, and gather what is finished.

    A finished run is not repeated (`resume=auto`); an unfinished one goes on. Raises ValueError
    for anything that cannot be trained as asked, before the run folder is made where it can be
    known then.
    """
    accelerator = choose_accelerator(config.accel)
    augmentation = Augmentation(config.augment)
    shards = training_shards(config)
    split = split_records(
        shards.table, folds=config.folds, fold_column=config.fold_column, seed=config.fold_seed
    )
    image_size = config.image_size or shards.image_size
    _say_what_has_no_effect(config, split, shards)
    augmentation.check(image_size)
    folds = _chosen_folds(config, split)
    _check_batches(config, split, folds)
    _check_model(config, image_size)
    run = _claim(config, accelerator, shards, image_size)
    if _already_complete(run):
        return Outcome(folder=run.path, result=run.result())
    environment = describe_environment(accelerator, threads=config.accel.threads or _threads())
    write_start(
        run,
        config,
        environment=environment,
        table=shards.table,
        split=split,
        data=_data(shards, image_size),
    )
    _log.info("%s: %s, %s", run.path, environment["device"], environment["precision"])
    _train_folds(config, accelerator, augmentation, shards, split, image_size, folds, run)
    return Outcome(folder=run.path, result=_gather(run, config))


def _say_what_has_no_effect(config: TrainConfig, split: Split, shards: ShardSet) -> None:
    if config.fold_column is not None and config.folds != split.count:
        _log.warning(
            "fold_column=%s: gives %d fold(s); folds=%d has no effect",
            config.fold_column,
            split.count,
            config.folds,
        )
    if config.image_size is not None and config.image_size > shards.image_size:
        _log.warning(
            "image_size=%d: the shards hold %d px, so their pictures are enlarged",
            config.image_size,
            shards.image_size,
        )


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _claim(
    config: TrainConfig, accelerator: Accelerator, shards: ShardSet, image_size: int
) -> RunFolder:
    identity = run_identity(
        config,
        data=shards.digest,
        image_size=image_size,
        precision=accelerator.precision,
        channels_last=accelerator.channels_last,
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
    manifest = shards.manifest
    return {
        "name": shards.folder.name if manifest is None else manifest.kind,
        "digest": shards.digest,
        "records": len(shards),
        "patients": int(shards.table["patient"].nunique()),
        "shards": str(shards.folder.resolve()),
        "preparation": None if manifest is None else dataclasses.asdict(manifest.preparation),
        "shard_size": shards.image_size,
        "image_size": image_size,
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
    """Build the model once, so that its errors come before a run folder is made."""
    outputs = build_objective(config.objective).outputs
    build_model(config.model, outputs=outputs, image_size=image_size)


def _train_folds(
    config: TrainConfig,
    accelerator: Accelerator,
    augmentation: Augmentation,
    shards: ShardSet,
    split: Split,
    image_size: int,
    folds: Sequence[int],
    run: RunFolder,
) -> None:
    left = [fold for fold in folds if not is_trained(run, fold)]
    if len(left) < len(folds):
        done = ", ".join(str(fold) for fold in folds if fold not in left)
        _log.warning("%s: fold %s: trained already, not trained again", run.path, done)
    with JobProgress(0, description="training") as progress:
        jobs = [
            FoldJob(
                config=config,
                shards=shards,
                split=split,
                fold=fold,
                run=run,
                image_size=image_size,
                accelerator=accelerator,
                augmentation=augmentation,
                progress=progress,
            )
            for fold in left
        ]
        progress.skip(-sum(job.images_per_epoch * config.epochs for job in jobs))
        for job in jobs:
            with locked(job.folder, what=f"fold {job.fold}"):
                if is_trained(run, job.fold):
                    job.progress.skip(job.images_per_epoch * config.epochs)
                    continue
                accelerator.launch(partial(train_fold, job))
            update_result(run)


def _gather(run: RunFolder, config: TrainConfig) -> dict[str, Any]:
    from filelock import FileLock

    result = run.result()
    planned = result["planned_folds"]
    if config.select == "cross" and all(is_trained(run, fold) for fold in planned):
        with FileLock(run.path / ".lock"):
            _finish_cross(run, config, planned)
    result = update_result(run)
    from dr.reporting.curves import draw_curves

    draw_curves(run.path)
    return result


def _finish_cross(run: RunFolder, config: TrainConfig, folds: Sequence[int]) -> None:
    """Each fold's epoch comes from the other folds' mean curve, never from its own."""
    histories = {fold: read_history(run.fold(fold)) for fold in folds}
    curves = {fold: merits(history, config) for fold, history in histories.items()}
    for fold in folds:
        if (run.fold(fold) / "scores.json").is_file():
            continue
        others = np.mean([curves[other] for other in folds if other != fold], axis=0)
        finish_fold(run, fold, best_epoch(others.tolist()), histories[fold])
