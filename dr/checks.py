"""Checks of configuration values that need neither the data nor torch.

Every check returns problems instead of raising at the first, so that a user sees all at once.
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dr.accel.launching import torchrun_place
from dr.config import (
    GRADES,
    OBJECTIVES,
    SELECT_METRICS,
    SGD,
    AccelConfig,
    Adam,
    AdamW,
    AugmentConfig,
    ByName,
    CrossEntropyConfig,
    DataConfig,
    FindLrConfig,
    FocalConfig,
    FoldersData,
    HuberConfig,
    InspectConfig,
    LoaderConfig,
    LoggerConfig,
    MedMNISTData,
    MLflowConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PredictConfig,
    PreparationConfig,
    PrepareConfig,
    Problem,
    RampDecay,
    ScheduleConfig,
    SoftOrdinalConfig,
    Step,
    SyntheticData,
    TableData,
    TrainConfig,
    WandbConfig,
)
from dr.loggers.opening import missing_packages
from dr.shards.naming import source_names
from dr.training.interruption import parse_duration
from dr.urls import is_url


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


_WITHOUT_EFFECT = {
    "crop_threshold": ("crop", "gray"),
    "filter_sigma": ("filter", "unsharp"),
    "graham_sigma": ("filter", "graham"),
    "graham_radius": ("filter", "graham"),
    "clahe_clip": ("filter", "clahe"),
    "clahe_tiles": ("filter", "clahe"),
}


def check_preparation(preparation: PreparationConfig) -> list[Problem]:
    """Problems of the `preparation` group."""
    key = "preparation."
    problems = _one_of(key + "decode", preparation.decode, ("full", "scaled"))
    problems += _one_of(key + "crop", preparation.crop, ("gray", "field", "none"))
    problems += _one_of(key + "fit", preparation.fit, ("stretch", "pad"))
    filters = ("unsharp", "graham", "clahe", "none")
    problems += _one_of(key + "filter", preparation.filter, filters)
    problems += _one_of(key + "jpeg_chroma", preparation.jpeg_chroma, ("auto", "420", "444"))
    for name in ("filter_sigma", "graham_sigma", "clahe_clip"):
        problems += _above(key + name, getattr(preparation, name), 0)
    problems += _check_preparation_ranges(preparation)
    wrong = {problem.key for problem in problems}
    idle = _check_preparation_effects(preparation)
    return problems + [problem for problem in idle if problem.key not in wrong]


def _check_preparation_ranges(preparation: PreparationConfig) -> list[Problem]:
    ranges = {
        "jpeg_quality": (1, 100, "is 1 to 100"),
        "crop_threshold": (0, 254, "is a gray value from 0 to 254"),
        "graham_radius": (0.1, 1, "is a share of the field's radius, from 0.1 to 1"),
        "clahe_tiles": (1, 64, "is 1 to 64"),
    }
    return [
        Problem(f"preparation.{name}", value, fix)
        for name, (low, high, fix) in ranges.items()
        if not low <= (value := getattr(preparation, name)) <= high
    ]


def _check_preparation_effects(preparation: PreparationConfig) -> list[Problem]:
    """Values that were changed although nothing reads them."""
    default = PreparationConfig()
    problems = []
    for name, (owner, wanted) in _WITHOUT_EFFECT.items():
        value, choice = getattr(preparation, name), getattr(preparation, owner)
        if choice != wanted and value != getattr(default, name):
            fix = f"has no effect with preparation.{owner}={choice}; leave it out"
            problems.append(Problem(f"preparation.{name}", value, fix))
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
    problems += _one_of("augment.where", augment.where, ("workers", "device"))
    if augment.where == "device" and not augment.transforms:
        fix = "has no effect without augment.transforms; leave it out"
        problems.append(Problem("augment.where", "device", fix))
    problems += _at_least("augment.mixup", augment.mixup, 0)
    return problems + _at_least("augment.cutmix", augment.cutmix, 0)


def _check_mixing(config: TrainConfig) -> list[Problem]:
    """Pictures are mixed in pairs within the part of a batch that a device takes at once."""
    accel = config.accel
    parts = accel.devices * (accel.accumulate if type(accel.accumulate) is int else 1)
    if config.batch_size >= 2 * parts:
        return []
    fix = (
        f"finds no pairs to mix: batch_size={config.batch_size} in {parts} part(s) leaves a single "
        f"record each; raise batch_size to {2 * parts} at least"
    )
    drawn = {"augment.mixup": config.augment.mixup, "augment.cutmix": config.augment.cutmix}
    return [Problem(key, alpha, fix) for key, alpha in drawn.items() if alpha]


def _check_balance(config: TrainConfig) -> list[Problem]:
    balance, weights = config.balance, config.objective.class_weights
    if not 0 <= balance <= 1:
        return [Problem("balance", balance, "must be from 0 to 1")]
    if balance == 0 or not 0 <= weights <= 1 or balance + weights <= 1 + 1e-9:
        return []
    fix = (
        f"with objective.class_weights={weights} rare grades count more than common ones; let the "
        "two add up to 1 at most, where all grades count the same"
    )
    return [Problem("balance", balance, fix)]


def _check_growth(config: TrainConfig) -> list[Problem]:
    start, percent = config.start_image_size, config.grow_percent
    if start is None:
        if percent == TrainConfig.grow_percent:
            return []
        fix = "has no effect without start_image_size=...; leave it out"
        return [Problem("grow_percent", percent, fix)]
    problems = _at_least("start_image_size", start, 8) + _above("grow_percent", percent, 0)
    if percent > 100:
        problems.append(Problem("grow_percent", percent, "is at most 100"))
    if config.image_size is not None and start >= config.image_size:
        fix = f"must be below image_size={config.image_size}, which it grows to"
        problems.append(Problem("start_image_size", start, fix))
    if config.epochs == 1:
        fix = "has no effect with epochs=1: the last epoch is of the full size; leave it out"
        problems.append(Problem("start_image_size", start, fix))
    return problems


def _check_accumulate(config: TrainConfig) -> list[Problem]:
    parts = config.accel.accumulate
    if type(parts) is not int or parts <= config.batch_size or ranks_of(config.accel) > 1:
        return []
    fix = f"must be at most batch_size={config.batch_size}, where each part is a single record"
    return [Problem("accel.accumulate", parts, fix)]


def _check_average(config: TrainConfig) -> list[Problem]:
    decay = config.ema_decay
    if decay is None or 0 < decay < 1:
        return []
    return [Problem("ema_decay", decay, "must be above 0 and below 1; null does not average")]


def _check_warp(config: TrainConfig) -> list[Problem]:
    if config.augment.where != "device":
        return []
    fix = "falls back to the host's CPU under XLA; with accel=tpu set workers"
    return [Problem("augment.where", "device", fix)]


_FETCHING = frozenset(
    {"ASGD", "Adafactor", "adamp", "adamuon", "cadamp", "csgdp", "muon", "nadamuon", "nmuon"}
    | {"novograd", "novogradw", "sgdp"}
)
"""Optimizers that compute part of a step on the host, as torch-xla's counters show."""


def _check_xla(config: TrainConfig) -> list[Problem]:
    """What torch-xla cannot do, or not on the device."""
    if config.accel.name != "tpu":
        return []
    problems, optimizer = _check_warp(config), config.optimizer
    if isinstance(optimizer, ByName) and optimizer.algorithm in _FETCHING:
        fix = "computes on the host's CPU in every step under XLA; with accel=tpu choose another"
        problems.append(Problem("optimizer.algorithm", optimizer.algorithm, fix))
    if config.model.grad_checkpointing:
        fix = "torch's checkpointing knows no XLA device; with accel=tpu leave it out"
        problems.append(Problem("model.grad_checkpointing", True, fix))
    return problems


def check_model(model: ModelConfig) -> list[Problem]:
    """Problems of the `model` group that show without timm."""
    problems = _required("model.name", model.name, "name a timm model")
    fix = "give hub, package, none, the path of a weights file, or run:DIR"
    named = model.weights.removeprefix("run:") if model.weights else model.weights
    problems += _required("model.weights", named, fix)
    problems += _share("model.drop_rate", model.drop_rate)
    return problems + _share("model.drop_path_rate", model.drop_path_rate)


def check_objective(objective: ObjectiveConfig) -> list[Problem]:
    """Problems of the `objective` group."""
    problems = _one_of("objective.name", objective.name, OBJECTIVES)
    weights = objective.class_weights
    if not 0 <= weights <= 1:
        problems.append(Problem("objective.class_weights", weights, "must be from 0 to 1"))
    if isinstance(objective, CrossEntropyConfig):
        problems += _share("objective.label_smoothing", objective.label_smoothing)
    if isinstance(objective, FocalConfig):
        problems += _at_least("objective.gamma", objective.gamma, 0)
    if isinstance(objective, HuberConfig):
        problems += _above("objective.delta", objective.delta, 0)
    if isinstance(objective, SoftOrdinalConfig):
        problems += _one_of("objective.distance", objective.distance, ("squared", "absolute"))
        problems += _above("objective.scale", objective.scale, 0)
    return problems


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
    if isinstance(optimizer, ByName):
        from dr.training.optimizers import by_name_problems

        problems += by_name_problems(optimizer)
    return problems + _check_rates(optimizer)


def _check_rates(optimizer: OptimizerConfig) -> list[Problem]:
    """Problems of the keys that all optimizers share."""
    problems = _at_least("optimizer.freeze_epochs", optimizer.freeze_epochs, 0)
    problems += _above("optimizer.clip_norm", optimizer.clip_norm, 0)
    for name in ("layer_decay", "backbone_lr_scale"):
        value = getattr(optimizer, name)
        if not 0 < value <= 1:
            problems.append(Problem(f"optimizer.{name}", value, "must be above 0 and at most 1"))
    if optimizer.decay_norms_and_biases and optimizer.weight_decay == 0:
        fix = "has no effect without optimizer.weight_decay; leave it out"
        problems.append(Problem("optimizer.decay_norms_and_biases", True, fix))
    if optimizer.backbone_lr_scale != 1 and optimizer.layer_decay != 1:
        fix = "optimizer.layer_decay lowers the backbone's rate already; give one of them"
        problems.append(Problem("optimizer.backbone_lr_scale", optimizer.backbone_lr_scale, fix))
    return problems


def _check_freezing(config: TrainConfig) -> list[Problem]:
    optimizer, epochs = config.optimizer, config.epochs
    if optimizer.freeze_epochs > epochs:
        fix = f"must be at most epochs={epochs}, which trains the head alone throughout"
        return [Problem("optimizer.freeze_epochs", optimizer.freeze_epochs, fix)]
    if optimizer.freeze_epochs < epochs:
        return []
    fix = f"has no effect with optimizer.freeze_epochs={epochs}, the whole run; leave it out"
    return [
        Problem(f"optimizer.{name}", value, fix)
        for name in ("layer_decay", "backbone_lr_scale")
        if (value := getattr(optimizer, name)) != 1
    ]


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
    if accel.accumulate != "auto" and (type(accel.accumulate) is not int or accel.accumulate < 1):
        fix = "give auto, or the number of micro-batches"
        problems.append(Problem("accel.accumulate", accel.accumulate, fix))
    if accel.name == "tpu" and accel.compile:
        problems.append(Problem("accel.compile", True, "XLA compiles already; leave it out"))
    if accel.name == "cpu" and accel.precision == "float16":
        fix = "is for CUDA; on the CPU choose bfloat16 or float32"
        problems.append(Problem("accel.precision", "float16", fix))
    if accel.name in ("cpu", "tpu") and not accel.exclusive:
        fix = f"has no effect with accel={accel.name}, whose devices nobody locks; leave it out"
        problems.append(Problem("accel.exclusive", False, fix))
    return problems


def _check_ranks(config: TrainConfig) -> list[Problem]:
    """Problems of a batch that several devices share."""
    devices, accumulate = ranks_of(config.accel), config.accel.accumulate
    if devices == 1:
        return []
    problems = []
    parts = accumulate if type(accumulate) is int else 1
    if config.batch_size < devices * parts:
        each = f" in {parts} micro-batches each" if parts > 1 else ""
        fix = f"{devices} devices share a batch{each}; set at least {devices * parts}"
        problems.append(Problem("batch_size", config.batch_size, fix))
    if config.loader.on_corrupt == "skip":
        fix = (
            f"with {devices} devices, records left out on one would leave the others waiting; "
            "prepare the shards without them (on_error=skip), or set accel.devices=1"
        )
        problems.append(Problem("loader.on_corrupt", "skip", fix))
    return problems


def ranks_of(accel: AccelConfig) -> int:
    """How many processes share a training: torchrun's, or as many as there are to be devices."""
    if accel.name == "tpu":
        return 1
    place = torchrun_place()
    return max(accel.devices, 1 if place is None else place.world_size)


def _one_device(accel: AccelConfig, why: str) -> list[Problem]:
    if accel.devices > 1:
        return [Problem("accel.devices", accel.devices, f"{why}; set 1")]
    if ranks_of(accel) > 1:
        return [Problem("accel.devices", ranks_of(accel), f"{why}; start it without torchrun")]
    return []


def check_logger(logger: LoggerConfig, *, outputs: str) -> list[Problem]:
    """Problems of the `logger` group: values, and packages that are not installed."""
    problems = []
    if isinstance(logger, MLflowConfig):
        problems += _required("logger.experiment", logger.experiment, "name an MLflow experiment")
        if logger.uri is None and set("%?") & set(str(Path(outputs).resolve())):
            fix = "an MLflow store cannot lie in a folder with % or ? in its name; set logger.uri"
            problems.append(Problem("outputs", outputs, fix))
    if isinstance(logger, WandbConfig):
        problems += _required("logger.project", logger.project, "name a W&B project")
        problems += _one_of("logger.mode", logger.mode, ("offline", "online"))
    missing = ", ".join(missing_packages(logger))
    if missing:
        fix = f"needs {missing}, which is not installed; pip install 'dr[loggers]'"
        problems.append(Problem("logger", logger.name, fix))
    return problems


def check_loader(loader: LoaderConfig) -> list[Problem]:
    """Problems of the `loader` group."""
    problems = _at_least("loader.threads", loader.threads, 1)
    problems += _at_least("loader.prefetch", loader.prefetch, 1)
    problems += _one_of("loader.cache", loader.cache, ("none", "decoded"))
    problems += _one_of("loader.on_corrupt", loader.on_corrupt, ("fail", "skip"))
    return problems + _one_of("loader.dct", loader.dct, ("exact", "fast"))


def check_prepare(config: PrepareConfig) -> list[Problem]:
    """All problems of a preparation that its values show."""
    problems = check_data(config.data) + check_preparation(config.preparation)
    problems += check_cropped(config.data, config.preparation)
    problems += _required("shards", config.shards, "name the folder to write, shards=DIR")
    if is_url(config.shards):
        fix = "prepare into a folder here, then copy it there with the tool of that storage"
        problems.append(Problem("shards", config.shards, fix))
    problems += _at_least("image_size", config.image_size, 8)
    problems += _one_of("on_error", config.on_error, ("fail", "skip"))
    return problems + _at_least("workers", config.workers, 1) + _check_parts(config)


def _check_parts(config: PrepareConfig) -> list[Problem]:
    parts, part = config.parts, config.part
    problems = _at_least("parts", parts, 1)
    if problems or (parts is None and part is None):
        return problems
    if parts is None:
        return [Problem("part", part, "says nothing without the number of parts; add parts=...")]
    if part is None:
        fix = "has no effect without part=...; give one, --multirun part=0,1,... or leave parts out"
        return [Problem("parts", parts, fix)]
    if not 0 <= part < parts:
        return [Problem("part", part, f"give a number from 0 to {parts - 1}: there are {parts}")]
    return []


def check_train(config: TrainConfig) -> list[Problem]:
    """All problems of a training that its values show."""
    problems = _check_source(config)
    problems += check_preparation(config.preparation) + check_loader(config.loader)
    problems += check_augment(config.augment) + check_model(config.model)
    problems += check_objective(config.objective)
    problems += check_optimizer(config.optimizer) + _check_freezing(config)
    problems += check_schedule(config.schedule)
    problems += check_accel(config.accel) + _check_ranks(config)
    problems += _check_xla(config) + _check_mixing(config)
    problems += _check_balance(config) + _check_growth(config) + _check_average(config)
    problems += _check_accumulate(config)
    problems += check_logger(config.logger, outputs=config.outputs) + _check_debug(config)
    problems += _one_of("on_error", config.on_error, ("fail", "skip"))
    for name, low in (("image_size", 8), ("batch_size", 1), ("epochs", 1), ("folds", 1)):
        problems += _at_least(name, getattr(config, name), low)
    problems += _at_least("fold_seed", config.fold_seed, 0)
    problems += _at_least("seed", config.seed, 0) + _at_least("workers", config.workers, 1)
    if config.group_duplicates and config.folds == 1 and config.fold_column is None:
        fix = "has no effect with folds=1, which holds nothing out; leave it out"
        problems.append(Problem("group_duplicates", True, fix))
    return problems + _check_select(config) + _check_fold(config) + _check_resume(config)


def _check_debug(config: TrainConfig) -> list[Problem]:
    if config.debug is None:
        return []
    problems = _one_of("debug", config.debug, ("overfit", "one_batch", "profile"))
    idle = f"has no effect with debug={config.debug}; leave it out"
    if config.resume != "auto" and config.rerun is None:
        problems.append(Problem("resume", config.resume, idle))
    if config.time_limit is not None:
        problems.append(Problem("time_limit", config.time_limit, idle))
    if config.debug != "one_batch":
        problems += _check_trial(config, idle)
    if config.debug == "profile" and config.accel.name == "tpu":
        fix = (
            "torch.profiler does not see a TPU: train, and take a trace of it with torch_xla's "
            "profiler (torch_xla.debug.profiler), or its counters with PT_XLA_DEBUG_LEVEL=2"
        )
        problems.append(Problem("debug", "profile", fix))
    return problems


def _check_trial(config: TrainConfig, idle: str) -> list[Problem]:
    problems = []
    if config.test is not None:
        problems.append(Problem("test", config.test, idle))
    if config.accel.devices > 1:
        fix = f"debug={config.debug} runs on one device, at the same global batch; set 1"
        problems.append(Problem("accel.devices", config.accel.devices, fix))
    return problems


def check_find_lr(config: FindLrConfig) -> list[Problem]:
    """All problems of a learning-rate range test that its values show."""
    problems = check_train(config) + _above("lowest_lr", config.lowest_lr, 0)
    if not config.lowest_lr < config.highest_lr < math.inf:
        fix = f"must be a number above lowest_lr={config.lowest_lr}"
        problems.append(Problem("highest_lr", config.highest_lr, fix))
    problems += _at_least("steps", config.steps, 20)
    problems += _one_device(config.accel, "a range test runs on one device, at the global batch")
    if isinstance(config.fold, list) and len(config.fold) > 1:
        problems.append(Problem("fold", config.fold, "one fold is enough; name a single one"))
    if config.rerun is not None:
        fix = "is for dr.train; give the keys of that run's config.yaml instead"
        problems.append(Problem("rerun", config.rerun, fix))
    if config.debug is not None:
        problems.append(Problem("debug", config.debug, "is for dr.train; leave it out"))
    if config.out is not None and not config.out.lower().endswith(".png"):
        problems.append(Problem("out", config.out, "must end in .png"))
    if config.overwrite and config.out is None:
        problems.append(Problem("overwrite", True, "has no effect without out=FILE"))
    return problems


def _check_source(config: TrainConfig) -> list[Problem]:
    if config.shards is None:
        problems = check_data(config.data) + check_cropped(config.data, config.preparation)
    else:
        problems = _check_folders("shards", config.shards)
    entries = [*_entries(config.shards), *_entries(config.test)]
    problems += check_remote_cache(config.remote_cache_gb, entries)
    return problems + _check_source_weights(config) + _check_test(config)


def _check_test(config: TrainConfig) -> list[Problem]:
    if config.test is None:
        return []
    problems = _check_folders("test", config.test)
    both = [entry for entry in _entries(config.test) if entry in _entries(config.shards)]
    if both:
        fix = f"{both[0]} is trained on; a test set holds other patients"
        problems.append(Problem("test", config.test, fix))
    return problems


def check_remote_cache(gigabytes: float | None, entries: Iterable[object]) -> list[Problem]:
    """Problems of `remote_cache_gb` beside the folders and URLs that are read."""
    if gigabytes is not None and not any(is_url(entry) for entry in entries):
        fix = "has no effect without shards read from a URL; leave it out"
        return [Problem("remote_cache_gb", gigabytes, fix)]
    return _above("remote_cache_gb", gigabytes, 0)


def _entries(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_folders(key: str, value: Any) -> list[Problem]:
    entries = _entries(value)
    if not entries or not all(isinstance(entry, str) and entry for entry in entries):
        return [Problem(key, value, "name a folder of shards, or a list of them, [A,B]")]
    if len(set(entries)) < len(entries):
        return [Problem(key, value, "names a folder twice; name each once")]
    return []


def _check_source_weights(config: TrainConfig) -> list[Problem]:
    weights, entries = config.source_weights, _entries(config.shards)
    if weights is None:
        return []
    if len(entries) < 2:
        fix = "has no effect with a single source; leave it out, or name several in shards=[A,B]"
        return [Problem("source_weights", weights, fix)]
    if not all(isinstance(entry, str) for entry in entries):
        return []
    names = source_names(entries)
    if isinstance(weights, dict) and set(weights) != set(names):
        fix = f"give a number for each of {', '.join(names)}"
        return [Problem("source_weights", weights, fix)]
    numbers = list(weights.values()) if isinstance(weights, dict) else _entries(weights)
    if len(numbers) != len(names) or not all(_is_weight(number) for number in numbers):
        fix = f"give {len(names)} numbers of at least 0, for {', '.join(names)}"
        return [Problem("source_weights", weights, fix)]
    if not any(numbers):
        return [Problem("source_weights", weights, "at least one must be above 0")]
    return []


def _is_weight(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


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
    problems = _one_of("resume_from", config.resume_from, ("last", "previous"))
    if config.resume not in ("auto", "never") and not Path(config.resume, "result.json").is_file():
        fix = "choose one of auto, never, or name the folder of a run that was begun"
        problems.append(Problem("resume", config.resume, fix))
    if config.resume == "never" and config.resume_from != "last":
        fix = "has no effect with resume=never, which begins anew; leave it out"
        problems.append(Problem("resume_from", config.resume_from, fix))
    return problems + _check_stops(config)


def _check_stops(config: TrainConfig) -> list[Problem]:
    problems = _at_least("save_minutes", config.save_minutes, 0)
    problems += _at_least("skip_nonfinite", config.skip_nonfinite, 0)
    if config.time_limit is None:
        return problems
    try:
        parse_duration(config.time_limit)
    except ValueError as error:
        fix = str(error).partition(": ")[2]
        problems.append(Problem("time_limit", config.time_limit, fix))
    return problems


def check_inspect(config: InspectConfig) -> list[Problem]:
    """All problems of an inspection that its values show."""
    problems = _required("shards", config.shards, "name a folder of shards, shards=DIR")
    problems += check_remote_cache(config.remote_cache_gb, [config.shards])
    problems += _at_least("sheet_records", config.sheet_records, 0)
    problems += _at_least("seed", config.seed, 0) + _at_least("workers", config.workers, 1)
    if config.sheet is not None and not config.sheet.lower().endswith(".png"):
        problems.append(Problem("sheet", config.sheet, "must end in .png"))
    if config.sheet is not None and config.sheet_records == 0:
        fix = "has no effect with sheet_records=0; leave one of them out"
        problems.append(Problem("sheet", config.sheet, fix))
    if config.overwrite and config.sheet is None:
        problems.append(Problem("overwrite", True, "has no effect without sheet=FILE"))
    return problems


def _check_predict_loader(loader: LoaderConfig) -> list[Problem]:
    fix = "has no effect on photographs, which are prepared as the run's were; leave it out"
    unused = {"prefetch": None, "cache": "none", "on_corrupt": "fail", "dct": "exact"}
    return [
        Problem(f"loader.{name}", getattr(loader, name), fix)
        for name, without in unused.items()
        if getattr(loader, name) != without
    ]


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
    problems += _one_device(config.accel, "a prediction runs on one device")
    problems += _check_predict_loader(config.loader)
    problems += _at_least("batch_size", config.batch_size, 1)
    return problems + _one_of("on_error", config.on_error, ("fail", "skip"))
