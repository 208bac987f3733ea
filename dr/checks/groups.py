"""Checks of each group by itself."""

import re
from collections.abc import Iterable
from pathlib import Path

from dr.accel.launching import torchrun_place
from dr.checks.values import above, at_least, one_of, required, share
from dr.config import (
    GRADES,
    OBJECTIVES,
    SGD,
    AccelConfig,
    Adam,
    AdamW,
    AugmentConfig,
    ByName,
    CrossEntropyConfig,
    DataConfig,
    FocalConfig,
    FoldersData,
    HuberConfig,
    LoaderConfig,
    LoggerConfig,
    MedMNISTData,
    MLflowConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PreparationConfig,
    Problem,
    RampDecay,
    ReportConfig,
    ScheduleConfig,
    SoftOrdinalConfig,
    Step,
    SyntheticData,
    TableData,
    TrainingReportConfig,
    WandbConfig,
)
from dr.loggers.opening import missing_packages
from dr.urls import is_url


def check_data(data: DataConfig) -> list[Problem]:
    """Problems of the `data` group that its values alone show."""
    problems = at_least("data.image_size", data.image_size, 8)
    if isinstance(data, TableData):
        problems += required("data.images", data.images, "name the folder of photographs")
        problems += required("data.labels", data.labels, "name the CSV of labels")
        problems += check_name_pattern(data.name_pattern)
    if isinstance(data, FoldersData):
        problems += required("data.images", data.images, "name the folder of class folders")
        problems += check_name_pattern(data.name_pattern)
        if len(data.classes) != GRADES or len(set(data.classes)) != GRADES:
            fix = f"name {GRADES} different folders, in the order of their grades"
            problems.append(Problem("data.classes", data.classes, fix))
    if isinstance(data, MedMNISTData):
        problems += required("data.images", data.images, "name the .npz file")
    if isinstance(data, SyntheticData):
        problems += check_synthetic(data)
    return problems


def check_synthetic(data: SyntheticData) -> list[Problem]:
    """Problems of the synthetic source's settings."""
    problems = at_least("data.patients", data.patients, 1)
    problems += at_least("data.seed", data.seed, 0)
    problems += share("data.label_noise", data.label_noise)
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
    problems = one_of(key + "decode", preparation.decode, ("full", "scaled"))
    problems += one_of(key + "crop", preparation.crop, ("gray", "field", "none"))
    problems += one_of(key + "fit", preparation.fit, ("stretch", "pad"))
    filters = ("unsharp", "graham", "clahe", "none")
    problems += one_of(key + "filter", preparation.filter, filters)
    problems += one_of(key + "jpeg_chroma", preparation.jpeg_chroma, ("auto", "420", "444"))
    for name in ("filter_sigma", "graham_sigma", "clahe_clip"):
        problems += above(key + name, getattr(preparation, name), 0)
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
    problems += one_of("augment.where", augment.where, ("workers", "device"))
    if augment.where == "device" and not augment.transforms:
        fix = "has no effect without augment.transforms; leave it out"
        problems.append(Problem("augment.where", "device", fix))
    problems += at_least("augment.mixup", augment.mixup, 0)
    return problems + at_least("augment.cutmix", augment.cutmix, 0)


def check_model(model: ModelConfig) -> list[Problem]:
    """Problems of the `model` group that show without timm."""
    problems = required("model.name", model.name, "name a timm model")
    fix = "give hub, package, none, the path of a weights file, or run:DIR"
    named = model.weights.removeprefix("run:") if model.weights else model.weights
    problems += required("model.weights", named, fix)
    problems += share("model.drop_rate", model.drop_rate)
    return problems + share("model.drop_path_rate", model.drop_path_rate)


def check_objective(objective: ObjectiveConfig) -> list[Problem]:
    """Problems of the `objective` group."""
    problems = one_of("objective.name", objective.name, OBJECTIVES)
    weights = objective.class_weights
    if not 0 <= weights <= 1:
        problems.append(Problem("objective.class_weights", weights, "must be from 0 to 1"))
    if isinstance(objective, CrossEntropyConfig):
        problems += share("objective.label_smoothing", objective.label_smoothing)
    if isinstance(objective, FocalConfig):
        problems += at_least("objective.gamma", objective.gamma, 0)
    if isinstance(objective, HuberConfig):
        problems += above("objective.delta", objective.delta, 0)
    if isinstance(objective, SoftOrdinalConfig):
        problems += one_of("objective.distance", objective.distance, ("squared", "absolute"))
        problems += above("objective.scale", objective.scale, 0)
    return problems


def check_optimizer(optimizer: OptimizerConfig) -> list[Problem]:
    """Problems of the `optimizer` group."""
    problems = at_least("optimizer.weight_decay", optimizer.weight_decay, 0)
    if isinstance(optimizer, Adam | AdamW):
        problems += above("optimizer.eps", optimizer.eps, 0)
        if len(optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in optimizer.betas):
            fix = "give two numbers, each at least 0 and below 1"
            problems.append(Problem("optimizer.betas", optimizer.betas, fix))
    if isinstance(optimizer, SGD):
        problems += share("optimizer.momentum", optimizer.momentum)
        if optimizer.nesterov and optimizer.momentum == 0:
            fix = "needs optimizer.momentum above 0; set optimizer.nesterov=false"
            problems.append(Problem("optimizer.nesterov", True, fix))
    if isinstance(optimizer, ByName):
        from dr.training.optimizers import by_name_problems

        problems += by_name_problems(optimizer)
    return problems + _check_rates(optimizer)


def _check_rates(optimizer: OptimizerConfig) -> list[Problem]:
    """Problems of the keys that all optimizers share."""
    problems = at_least("optimizer.freeze_epochs", optimizer.freeze_epochs, 0)
    problems += above("optimizer.clip_norm", optimizer.clip_norm, 0)
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


def check_schedule(schedule: ScheduleConfig) -> list[Problem]:
    """Problems of the `schedule` group."""
    problems = above("schedule.max_lr", schedule.max_lr, 0)
    problems += one_of("schedule.by", schedule.by, ("step", "epoch"))
    for name in ("start_lr", "min_lr"):
        rate = getattr(schedule, name, None)
        problems += at_least(f"schedule.{name}", rate, 0)
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
        check = above if part == "decay" else at_least
        problems += check(f"schedule.{part}_{unit}", value, 0)
    percent = given.get("percent")
    if percent is not None and percent > 100:
        problems.append(Problem(f"schedule.{part}_percent", percent, "is at most 100"))
    return problems


def check_accel(accel: AccelConfig) -> list[Problem]:
    """Problems of the `accel` group that show without torch."""
    problems = one_of("accel.name", accel.name, ("auto", "cpu", "cuda", "tpu"))
    precisions = ("auto", "float32", "bfloat16", "float16")
    problems += one_of("accel.precision", accel.precision, precisions)
    problems += at_least("accel.threads", accel.threads, 1)
    problems += at_least("accel.devices", accel.devices, 1)
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


def ranks_of(accel: AccelConfig) -> int:
    """How many processes share a training: torchrun's, or as many as there are to be devices."""
    if accel.name == "tpu":
        return 1
    place = torchrun_place()
    return max(accel.devices, 1 if place is None else place.world_size)


def one_device(accel: AccelConfig, why: str) -> list[Problem]:
    """Refuses more than one device or process, `why` telling the reason."""
    if accel.devices > 1:
        return [Problem("accel.devices", accel.devices, f"{why}; set 1")]
    if ranks_of(accel) > 1:
        return [Problem("accel.devices", ranks_of(accel), f"{why}; start it without torchrun")]
    return []


def check_logger(logger: LoggerConfig, *, outputs: str) -> list[Problem]:
    """Problems of the `logger` group: values, and packages that are not installed."""
    problems = []
    if isinstance(logger, MLflowConfig):
        problems += required("logger.experiment", logger.experiment, "name an MLflow experiment")
        if logger.uri is None and set("%?") & set(str(Path(outputs).resolve())):
            fix = "an MLflow store cannot lie in a folder with % or ? in its name; set logger.uri"
            problems.append(Problem("outputs", outputs, fix))
    if isinstance(logger, WandbConfig):
        problems += required("logger.project", logger.project, "name a W&B project")
        problems += one_of("logger.mode", logger.mode, ("offline", "online"))
    missing = ", ".join(missing_packages(logger))
    if missing:
        fix = f"needs {missing}, which is not installed; pip install 'dr[loggers]'"
        problems.append(Problem("logger", logger.name, fix))
    return problems


def check_loader(loader: LoaderConfig) -> list[Problem]:
    """Problems of the `loader` group."""
    problems = at_least("loader.threads", loader.threads, 1)
    problems += at_least("loader.prefetch", loader.prefetch, 1)
    problems += one_of("loader.cache", loader.cache, ("none", "decoded"))
    problems += one_of("loader.on_corrupt", loader.on_corrupt, ("fail", "skip"))
    return problems + one_of("loader.dct", loader.dct, ("exact", "fast"))


def check_remote_cache(gigabytes: float | None, entries: Iterable[object]) -> list[Problem]:
    """Problems of `remote_cache_gb` beside the folders and URLs that are read."""
    if gigabytes is not None and not any(is_url(entry) for entry in entries):
        fix = "has no effect without shards read from a URL; leave it out"
        return [Problem("remote_cache_gb", gigabytes, fix)]
    return above("remote_cache_gb", gigabytes, 0)


def check_report(report: ReportConfig) -> list[Problem]:
    """Problems of the keys below `report`."""
    problems = at_least("report.mistakes", report.mistakes, 0)
    if isinstance(report, TrainingReportConfig) and not report.enabled:
        usual = TrainingReportConfig(enabled=False)
        fix = "has no effect with report.enabled=false; leave it out"
        problems += [
            Problem(f"report.{name}", getattr(report, name), fix)
            for name in ("images", "mistakes")
            if getattr(report, name) != getattr(usual, name)
        ]
    return problems
