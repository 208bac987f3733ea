"""Checks of a whole training: what its groups and keys mean beside each other."""

import math
from pathlib import Path
from typing import Any

from dr.checks.groups import (
    check_accel,
    check_augment,
    check_cropped,
    check_data,
    check_loader,
    check_logger,
    check_model,
    check_objective,
    check_optimizer,
    check_preparation,
    check_remote_cache,
    check_report,
    check_schedule,
    one_device,
    ranks_of,
)
from dr.checks.values import above, at_least, one_of
from dr.config import SELECT_METRICS, ByName, FindLrConfig, Problem, TrainConfig
from dr.shards.naming import source_names
from dr.training.interruption import parse_duration


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
    problems += check_report(config.report)
    problems += one_of("on_error", config.on_error, ("fail", "skip"))
    for name, low in (("image_size", 8), ("batch_size", 1), ("epochs", 1), ("folds", 1)):
        problems += at_least(name, getattr(config, name), low)
    problems += at_least("fold_seed", config.fold_seed, 0)
    problems += at_least("seed", config.seed, 0) + at_least("workers", config.workers, 1)
    if config.group_duplicates and config.folds == 1 and config.fold_column is None:
        fix = "has no effect with folds=1, which holds nothing out; leave it out"
        problems.append(Problem("group_duplicates", True, fix))
    return problems + _check_select(config) + _check_fold(config) + _check_resume(config)


def check_find_lr(config: FindLrConfig) -> list[Problem]:
    """All problems of a learning-rate range test that its values show."""
    problems = check_train(config) + above("lowest_lr", config.lowest_lr, 0)
    if not config.lowest_lr < config.highest_lr < math.inf:
        fix = f"must be a number above lowest_lr={config.lowest_lr}"
        problems.append(Problem("highest_lr", config.highest_lr, fix))
    problems += at_least("steps", config.steps, 20)
    problems += one_device(config.accel, "a range test runs on one device, at the global batch")
    if isinstance(config.fold, list) and len(config.fold) > 1:
        problems.append(Problem("fold", config.fold, "one fold is enough; name a single one"))
    if config.rerun is not None:
        fix = "is for dr.train; give the keys of that run's config.yaml instead"
        problems.append(Problem("rerun", config.rerun, fix))
    if config.debug is not None:
        problems.append(Problem("debug", config.debug, "is for dr.train; leave it out"))
    if config.logger.name != "none":
        fix = "a range test has no epochs to log; leave it out"
        problems.append(Problem("logger", config.logger.name, fix))
    if config.out is not None and not config.out.lower().endswith(".png"):
        problems.append(Problem("out", config.out, "must end in .png"))
    if config.overwrite and config.out is None:
        problems.append(Problem("overwrite", True, "has no effect without out=FILE"))
    return problems


def _check_mixing(config: TrainConfig) -> list[Problem]:
    """Pictures are mixed in pairs within the part of a batch that a device takes at once."""
    parts = ranks_of(config.accel) * config.accel.micro_batches
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
    problems = at_least("start_image_size", start, 8) + above("grow_percent", percent, 0)
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
    parts = config.accel.micro_batches
    if parts <= max(1, config.batch_size) or ranks_of(config.accel) > 1:
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


HOST_OPTIMIZERS = frozenset(
    {"ASGD", "Adafactor", "adamp", "adamuon", "cadamp", "csgdp", "muon", "nadamuon", "nmuon"}
    | {"novograd", "novogradw", "sgdp"}
)
"""Optimizers that compute part of a step on the host, as torch-xla's counters show."""


def _check_xla(config: TrainConfig) -> list[Problem]:
    """What torch-xla cannot do, or not on the device."""
    if config.accel.name != "tpu":
        return []
    problems, optimizer = _check_warp(config), config.optimizer
    if isinstance(optimizer, ByName) and optimizer.algorithm in HOST_OPTIMIZERS:
        fix = "computes on the host's CPU in every step under XLA; with accel=tpu choose another"
        problems.append(Problem("optimizer.algorithm", optimizer.algorithm, fix))
    if config.model.grad_checkpointing:
        fix = "torch's checkpointing knows no XLA device; with accel=tpu leave it out"
        problems.append(Problem("model.grad_checkpointing", True, fix))
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


def _check_ranks(config: TrainConfig) -> list[Problem]:
    """Problems of a batch that several devices share."""
    devices, parts = ranks_of(config.accel), config.accel.micro_batches
    if devices == 1:
        return []
    problems = []
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


def _check_debug(config: TrainConfig) -> list[Problem]:
    if config.debug is None:
        return []
    problems = one_of("debug", config.debug, ("overfit", "one_batch", "profile"))
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
    problems = one_of("select", config.select, ("last", "best", "cross"))
    metric = config.select_metric
    if metric is not None:
        problems += one_of("select_metric", metric, SELECT_METRICS)
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
    problems = one_of("resume_from", config.resume_from, ("last", "previous"))
    if config.resume not in ("auto", "never") and not Path(config.resume, "result.json").is_file():
        fix = "choose one of auto, never, or name the folder of a run that was begun"
        problems.append(Problem("resume", config.resume, fix))
    if config.resume == "never" and config.resume_from != "last":
        fix = "has no effect with resume=never, which begins anew; leave it out"
        problems.append(Problem("resume_from", config.resume_from, fix))
    return problems + _check_stops(config)


def _check_stops(config: TrainConfig) -> list[Problem]:
    problems = at_least("save_minutes", config.save_minutes, 0)
    problems += at_least("skip_nonfinite", config.skip_nonfinite, 0)
    if config.time_limit is None:
        return problems
    try:
        parse_duration(config.time_limit)
    except ValueError as error:
        fix = str(error).partition(": ")[2]
        problems.append(Problem("time_limit", config.time_limit, fix))
    return problems
