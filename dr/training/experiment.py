"""An experiment that was checked: data opened, folds made, every cheap mistake found."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dr.accel.base import Accelerator
from dr.config import GRADES, TrainConfig
from dr.loading.augmentation import Augmentation
from dr.loading.sampler import Mixture, source_counts, training_batches
from dr.loading.split import Split, split_records
from dr.modeling.backbones import build_model
from dr.modeling.objectives import build_objective
from dr.modeling.weights import RunWeights
from dr.shards.duplicates import linked_patients
from dr.shards.joining import parts_of, source_numbers
from dr.shards.shard_set import ShardSet
from dr.training.fine_tuning import SourceRun, check_finished, open_source, say_what_is_loaded
from dr.training.identity import source_weights
from dr.training.job import balance_of, growth_of
from dr.training.optimizers import build_optimizer, freeze_backbone
from dr.training.schedules import schedule_warnings
from dr.training.seen_patients import check_unseen
from dr.training.source import Outside, outside_shards, training_shards

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A training that was checked: what every fold shares, and `folds`, those asked for.

    `image_size` is the training size in pixels.
    """

    config: TrainConfig
    augmentation: Augmentation
    shards: ShardSet
    outside: Outside | None
    split: Split
    mixture: Mixture | None
    source: SourceRun | None
    image_size: int
    folds: tuple[int, ...]

    @property
    def training_sizes(self) -> tuple[int, ...]:
        """The sizes in pixels that are trained at, the last of which is `image_size`."""
        return growth_of(self.config, self.image_size).sizes

    def start(self, fold: int) -> RunWeights | None:
        """The weights of another run that a fold starts from, where `model.weights` names one."""
        return None if self.source is None else self.source.start(fold, self.config.objective)


def check_experiment(config: TrainConfig) -> Experiment:
    """Open the data, make the folds, and build once what would otherwise fail hours later.

    Raises ValueError for anything that cannot be trained as asked.
    """
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
    _check_growth(config, image_size)
    experiment = Experiment(
        config=config,
        augmentation=augmentation,
        shards=shards,
        outside=outside,
        split=split,
        mixture=_mixture(config, shards),
        source=open_source(config),
        image_size=image_size,
        folds=tuple(_chosen_folds(config, split)),
    )
    _check(experiment)
    return experiment


def check_batch(config: TrainConfig, accelerator: Accelerator) -> None:
    """Raises ValueError where the accelerator cannot take the batches asked for."""
    accelerator.check_batch(config.batch_size, accumulate=config.accel.micro_batches)


def _check(experiment: Experiment) -> None:
    config, split = experiment.config, experiment.split
    _say_what_has_no_effect(config, split)
    _say_what_is_enlarged(experiment)
    for size in experiment.training_sizes:
        experiment.augmentation.check(size)
    _check_batches(config, split, experiment.folds)
    _check_mixture(experiment)
    _check_balance(experiment)
    _check_start(experiment)
    _check_model(experiment)


def _mixture(config: TrainConfig, shards: ShardSet) -> Mixture | None:
    weights, sources = source_weights(config), source_numbers(shards)
    if weights is None:
        return None
    assert sources is not None
    return Mixture(sources, weights)


def _check_growth(config: TrainConfig, image_size: int) -> None:
    start = config.start_image_size
    if start is None:
        return
    if start >= image_size:
        raise ValueError(
            f"start_image_size={start}: must be below image_size={image_size}, which it grows to"
        )
    sizes = growth_of(config, image_size).sizes
    if config.accel.compile or config.accel.name == "tpu":
        _log.warning(
            "start_image_size=%d: the network is compiled for each of %s px",
            start,
            ", ".join(map(str, sizes)),
        )


def _check_mixture(experiment: Experiment) -> None:
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


def _check_balance(experiment: Experiment) -> None:
    """Refuse a balance that cannot be had; say how often each grade is gone through."""
    split, labels = experiment.split, experiment.shards.table["label"].to_numpy()
    balance = balance_of(experiment.config, labels)
    if balance is None:
        return
    size, mixture = experiment.config.batch_size, experiment.mixture
    for fold in range(split.count):
        records = split.training(fold)
        plan = training_batches(
            records, batch_size=size, seed=0, epoch=0, mixture=mixture, balance=balance
        )
    drawn = np.bincount(labels[np.concatenate(plan) % len(labels)], minlength=GRADES)
    held = np.bincount(labels[records], minlength=GRADES)
    for grade in np.flatnonzero(held):
        counts = (drawn[grade], drawn.sum(), drawn[grade] / held[grade])
        _log.info("grade %d: %d of %d records an epoch, each %.2f times", grade, *counts)


def _say_what_has_no_effect(config: TrainConfig, split: Split) -> None:
    if config.fold_column is not None and config.folds != split.count:
        _log.warning(
            "fold_column=%s: gives %d fold(s); folds=%d has no effect",
            config.fold_column,
            split.count,
            config.folds,
        )


def _say_what_is_enlarged(experiment: Experiment) -> None:
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


def _check_start(experiment: Experiment) -> None:
    """Refuse to start from weights that saw the records that are scored."""
    source, split, outside = experiment.source, experiment.split, experiment.outside
    if source is None:
        return
    check_finished(source, count=split.count, folds=experiment.folds)
    check_unseen(
        source,
        shards=experiment.shards,
        split=split,
        outside=None if outside is None else outside.shards,
    )
    manifest = experiment.shards.manifest
    prepared = None if manifest is None else manifest.preparation
    say_what_is_loaded(source, experiment.config, prepared)


def _check_model(experiment: Experiment) -> None:
    """Build what learns once, so that its errors come before a run folder is made."""
    config, image_size = experiment.config, experiment.image_size
    objective = build_objective(config.objective)
    model = build_model(
        config.model,
        outputs=objective.outputs,
        head=objective.head,
        image_size=image_size,
        start=experiment.start(experiment.folds[0]),
    )
    build_optimizer(model, config.optimizer)
    if config.optimizer.freeze_epochs:
        freeze_backbone(model, frozen=True)
    for size in experiment.training_sizes[:-1]:
        _check_takes(model, config, size)


@torch.no_grad()
def _check_takes(model: torch.nn.Module, config: TrainConfig, size: int) -> None:
    try:
        model.eval()(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"start_image_size={config.start_image_size}: {config.model.name} doesn't take "
            f"{size} px beside the full size ({error}); leave it out, raise it, or choose a "
            "convolutional model.name, which takes any size"
        ) from error
