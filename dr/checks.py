"""Checks of configuration values that need neither the data nor torch.

Every check returns problems instead of raising at the first, so that a user sees all at once.
"""

import math
import re
from collections.abc import Iterable

from dr.config import (
    GRADES,
    SELECT_METRICS,
    SGD,
    AccelConfig,
    Adam,
    AdamW,
    AugmentConfig,
    DataConfig,
    FoldersData,
    LoaderConfig,
    MedMNISTData,
    ModelConfig,
    OptimizerConfig,
    PredictConfig,
    PreparationConfig,
    PrepareConfig,
    Problem,
    RampDecay,
    ScheduleConfig,
    Step,
    SyntheticData,
    TableData,
    TrainConfig,
)


def _one_of(key: str, value: object, allowed: Iterable[str]) -> list[Problem]:
    names = tuple(allowed)
    if value in names:
        return []
    return [Problem(key, value, f"choose one of {', '.join(names)}")]


def _at_least(key: str, value: float | None, low: float) -> list[Problem]:
    if value is None or (math.isfinite(value) and value >= low):
        return []
    return [Problem(key, value, f"must be a number of at least {low}")]


def _above(key: str, value: float | None, low: float) -> list[Problem]:
    if value is None or (math.isfinite(value) and value > low):
        return []
    return [Problem(key, value, f"must be a number above {low}")]


def _share(key: str, value: float) -> list[Problem]:
    return [] if 0 <= value < 1 else [Problem(key, value, "must be at least 0 and below 1")]


def _required(key: str, value: object, fix: str) -> list[Problem]:
    return [Problem(key, value, fix)] if value in (None, "", []) else []


def check_data(data: DataConfig) -> list[Problem]:
    """Problems of the `data` group that its values alone show."""
    problems = _at_least("data.image_size", data.image_size, 8)
    if isinstance(data, TableData):
        problems += _required("data.images", data.images, "name the folder of photographs")
        problems += _required("data.labels", data.labels, "name the CSV of labels")
        problems += check_name_pattern(data.name_pattern)
    if isinstance(data, FoldersData):
        problems += _required("data.images", data.images, "name the folder of class folders")
        problems += check_name_pattern(data.name_pattern)
        if len(data.classes) != GRADES or len(set(data.classes)) != GRADES:
            fix = f"name {GRADES} different folders, in the order of their grades"
            problems.append(Problem("data.classes", data.classes, fix))
    if isinstance(data, MedMNISTData):
        problems += _required("data.images", data.images, "name the .npz file")
    if isinstance(data, SyntheticData):
        problems += check_synthetic(data)
    return problems


def check_synthetic(data: SyntheticData) -> list[Problem]:
    """Problems of the synthetic source's settings."""
    problems = _at_least("data.patients", data.patients, 1)
    problems += _at_least("data.seed", data.seed, 0)
    problems += _share("data.label_noise", data.label_noise)
    shares = data.grade_shares
    if len(shares) != GRADES or min(shares, default=-1) < 0 or sum(shares) <= 0:
        fix = f"give {GRADES} shares, none negative, not all 0"
        problems.append(Problem("data.grade_shares", shares, fix))
    return problems


def check_name_pattern(pattern: str | None) -> list[Problem]:
    """Problems of `data.name_pattern`: not a regular expression, or no `patient` group."""
    if pattern is None:
        return []
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        fix = f"is no regular expression ({error})"
        return [Problem("data.name_pattern", pattern, fix)]
    if "patient" in groups:
        return []
    return [Problem("data.name_pattern", pattern, "must hold the group (?P<patient>...)")]


def check_preparation(preparation: PreparationConfig) -> list[Problem]:
    """Problems of the `preparation` group."""
    key = "preparation."
    problems = _one_of(key + "decode", preparation.decode, ("full", "scaled"))
    problems += _one_of(key + "crop", preparation.crop, ("gray", "field", "none"))
    problems += _one_of(key + "fit", preparation.fit, ("stretch", "pad"))
    problems += _one_of(key + "filter", preparation.filter, ("unsharp", "none"))
    problems += _above(key + "filter_sigma", preparation.filter_sigma, 0)
    if not 1 <= preparation.jpeg_quality <= 100:
        problems.append(Problem(key + "jpeg_quality", preparation.jpeg_quality, "is 1 to 100"))
    if not 0 <= preparation.crop_threshold < 255:
        fix = "is a gray value from 0 to 254"
        problems.append(Problem(key + "crop_threshold", preparation.crop_threshold, fix))
    return problems


def check_cropped(data: DataConfig, preparation: PreparationConfig) -> list[Problem]:
    """MedMNIST's pictures hold nothing to crop: a preparation that would is refused."""
    if not isinstance(data, MedMNISTData) or preparation.crop == "none":
        return []
    fix = "MedMNIST's pictures are cropped already; add preparation=none"
    return [Problem("preparation.crop", preparation.crop, fix)]


def check_augment(augment: AugmentConfig) -> list[Problem]:
    """Problems in the form of the `augment` group; the class names are checked when built."""
    problems = []
    for number, transform in enumerate(augment.transforms):
        if not isinstance(transform, dict) or not isinstance(transform.get("name"), str):
            key = f"augment.transforms[{number}]"
            fix = "give a mapping with the `name` of an albumentations class and its arguments"
            problems.append(Problem(key, transform, fix))
    return problems


def check_model(model: ModelConfig) -> list[Problem]:
    """Problems of the `model` group that show without timm."""
    problems = _required("model.name", model.name, "name a timm model")
    fix = "give hub, package, none, or the path of a weights file"
    problems += _required("model.weights", model.weights, fix)
    problems += _share("model.drop_rate", model.drop_rate)
    return problems + _share("model.drop_path_rate", model.drop_path_rate)


def check_optimizer(optimizer: OptimizerConfig) -> list[Problem]:
    """Problems of the `optimizer` group."""
    problems = _at_least("optimizer.weight_decay", optimizer.weight_decay, 0)
    if isinstance(optimizer, Adam | AdamW):
        problems += _above("optimizer.eps", optimizer.eps, 0)
        if len(optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in optimizer.betas):
            fix = "give two numbers, each at least 0 and below 1"
            problems.append(Problem("optimizer.betas", optimizer.betas, fix))
    if isinstance(optimizer, SGD):
        problems += _share("optimizer.momentum", optimizer.momentum)
        if optimizer.nesterov and optimizer.momentum == 0:
            fix = "needs optimizer.momentum above 0; set optimizer.nesterov=false"
            problems.append(Problem("optimizer.nesterov", True, fix))
    return problems


def check_schedule(schedule: ScheduleConfig) -> list[Problem]:
    """Problems of the `schedule` group."""
    problems = _above("schedule.max_lr", schedule.max_lr, 0)
    problems += _one_of("schedule.by", schedule.by, ("step", "epoch"))
    for name in ("start_lr", "min_lr"):
        rate = getattr(schedule, name, None)
        problems += _at_least(f"schedule.{name}", rate, 0)
        if rate is not None and rate > schedule.max_lr:
            fix = f"must not exceed schedule.max_lr={schedule.max_lr}"
            problems.append(Problem(f"schedule.{name}", rate, fix))
    for part in ("ramp", "sustain", "warmup", "decay"):
        problems += _check_duration(schedule, part)
    if isinstance(schedule, RampDecay | Step) and not 0 < schedule.decay <= 1:
        problems.append(Problem("schedule.decay", schedule.decay, "must be above 0 and at most 1"))
    return problems


def _check_duration(schedule: ScheduleConfig, part: str) -> list[Problem]:
    given = {
        unit: getattr(schedule, f"{part}_{unit}", None) for unit in ("epochs", "steps", "percent")
    }
    given = {unit: value for unit, value in given.items() if value is not None}
    problems = []
    if len(given) > 1:
        keys = " and ".join(f"schedule.{part}_{unit}" for unit in given)
        problems.append(Problem(keys, tuple(given.values()), "give one of them"))
    for unit, value in given.items():
        check = _above if part == "decay" else _at_least
        problems += check(f"schedule.{part}_{unit}", value, 0)
    percent = given.get("percent")
    if percent is not None and percent > 100:
        problems.append(Problem(f"schedule.{part}_percent", percent, "is at most 100"))
    return problems


def check_accel(accel: AccelConfig) -> list[Problem]:
    """Problems of the `accel` group that show without torch."""
    problems = _one_of("accel.name", accel.name, ("auto", "cpu", "cuda", "tpu"))
    precisions = ("auto", "float32", "bfloat16", "float16")
    problems += _one_of("accel.precision", accel.precision, precisions)
    problems += _at_least("accel.threads", accel.threads, 1)
    problems += _at_least("accel.devices", accel.devices, 1)
    if accel.name == "cpu" and accel.precision == "float16":
        fix = "is for CUDA; on the CPU choose bfloat16 or float32"
        problems.append(Problem("accel.precision", "float16", fix))
    return problems


def check_loader(loader: LoaderConfig) -> list[Problem]:
    """Problems of the `loader` group."""
    problems = _at_least("loader.threads", loader.threads, 1)
    return problems + _at_least("loader.prefetch", loader.prefetch, 1)


def check_prepare(config: PrepareConfig) -> list[Problem]:
    """All problems of a preparation that its values show."""
    problems = check_data(config.data) + check_preparation(config.preparation)
    problems += check_cropped(config.data, config.preparation)
    problems += _required("shards", config.shards, "name the folder to write, shards=DIR")
    problems += _at_least("image_size", config.image_size, 8)
    problems += _one_of("on_error", config.on_error, ("fail", "skip"))
    return problems + _at_least("workers", config.workers, 1)


def check_train(config: TrainConfig) -> list[Problem]:
    """All problems of a training that its values show."""
    problems = _check_source(config)
    problems += check_preparation(config.preparation) + check_loader(config.loader)
    problems += check_augment(config.augment) + check_model(config.model)
    problems += _one_of("objective.name", config.objective.name, ("cross_entropy", "regression"))
    problems += check_optimizer(config.optimizer) + check_schedule(config.schedule)
    problems += check_accel(config.accel)
    problems += _one_of("on_error", config.on_error, ("fail", "skip"))
    for name, low in (("image_size", 8), ("batch_size", 1), ("epochs", 1), ("folds", 1)):
        problems += _at_least(name, getattr(config, name), low)
    problems += _at_least("fold_seed", config.fold_seed, 0)
    problems += _at_least("seed", config.seed, 0) + _at_least("workers", config.workers, 1)
    return problems + _check_select(config) + _check_fold(config) + _check_resume(config)


def _check_source(config: TrainConfig) -> list[Problem]:
    shards = config.shards
    if shards is None:
        return check_data(config.data) + check_cropped(config.data, config.preparation)
    if isinstance(shards, list):
        if len(shards) == 1:
            return []
        return [Problem("shards", shards, "one folder for now; several are not supported yet")]
    if isinstance(shards, str) and shards:
        return []
    return [Problem("shards", shards, "name a folder of shards")]


def _check_select(config: TrainConfig) -> list[Problem]:
    problems = _one_of("select", config.select, ("last", "best", "cross"))
    metric = config.select_metric
    if metric is not None:
        problems += _one_of("select_metric", metric, SELECT_METRICS)
        if config.select == "last":
            fix = "has no effect with select=last; leave it out, or choose select=best or cross"
            problems.append(Problem("select_metric", metric, fix))
    if config.folds == 1 and config.fold_column is None and config.select != "last":
        fix = "needs a validation fold; with folds=1 use select=last"
        problems.append(Problem("select", config.select, fix))
    if config.folds == 2 and config.fold_column is None and config.select == "cross":
        problems.append(Problem("select", "cross", "needs at least 3 folds"))
    return problems


def _check_fold(config: TrainConfig) -> list[Problem]:
    if config.fold == "all":
        return []
    chosen = config.fold if isinstance(config.fold, list) else [config.fold]
    fix = f"give all, or numbers from 0 to {config.folds - 1}"
    whole = all(type(fold) is int and fold >= 0 for fold in chosen)
    if not chosen or not whole or len(set(chosen)) < len(chosen):
        return [Problem("fold", config.fold, fix)]
    if config.fold_column is None and max(chosen) >= config.folds:
        return [Problem("fold", config.fold, fix)]
    return []


def _check_resume(config: TrainConfig) -> list[Problem]:
    return _one_of("resume", config.resume, ("auto", "never"))


def check_predict(config: PredictConfig) -> list[Problem]:
    """All problems of a prediction that its values show."""
    problems = _required("run", config.run, "name a run folder, run=DIR")
    problems += _required("out", config.out, "name the CSV to write, out=FILE")
    if config.images is None and config.data is None:
        problems.append(Problem("images", None, "name a folder of photographs, or a data=..."))
    if config.images is not None and config.data is not None:
        fix = "contradicts data=...: give one of them (data.images=... belongs to data)"
        problems.append(Problem("images", config.images, fix))
    if config.image_column == config.label_column:
        fix = "must differ from image_column"
        problems.append(Problem("label_column", config.label_column, fix))
    problems += check_loader(config.loader) + check_accel(config.accel)
    problems += _at_least("batch_size", config.batch_size, 1)
    return problems + _one_of("on_error", config.on_error, ("fail", "skip"))
