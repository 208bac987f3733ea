"""Checks of a search: its own keys, and the trainings that its space reaches."""

import math
import re
from importlib.util import find_spec

from dr.accel.launching import torchrun_place
from dr.checks.training import check_train
from dr.checks.values import at_least, one_of
from dr.config import Problem, SearchConfig
from dr.searching.space import Dimension, corners, parse_space, training_config, with_values

METRICS = ("qwk", "loss")
SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("none", "median", "percentile", "hyperband")

_NAME = re.compile(r"\w[\w.-]*")


def check_search(config: SearchConfig) -> list[Problem]:
    """All problems of a search that its values show."""
    problems = check_train(training_config(config)) + _check_training(config)
    problems += one_of("metric", config.metric, METRICS)
    problems += one_of("sampler", config.sampler, SAMPLERS)
    problems += at_least("trials", config.trials, 1) + _check_pruner(config)
    if config.search is not None and not _NAME.fullmatch(config.search):
        fix = "is to name a folder: letters, digits, and . _ - after the first"
        problems.append(Problem("search", config.search, fix))
    if find_spec("optuna") is None:
        fix = "a search needs optuna, which is not installed; pip install 'dr[search]'"
        problems.append(Problem("sampler", config.sampler, fix))
    dimensions, wrong = parse_space(config)
    if problems or wrong:
        return problems + wrong
    return _check_dimensions(config, dimensions) + _check_corners(config, dimensions)


def _check_training(config: SearchConfig) -> list[Problem]:
    """What a training may ask for, but not a trial."""
    problems = []
    if config.rerun is not None:
        fix = "is for dr.train; give the keys of that run's config.yaml instead"
        problems.append(Problem("rerun", config.rerun, fix))
    if config.debug is not None:
        problems.append(Problem("debug", config.debug, "is for dr.train; leave it out"))
    if config.resume != "auto":
        fix = "a trial goes on in its own run; leave it out, or name another search=..."
        problems.append(Problem("resume", config.resume, fix))
    if config.select == "cross":
        fix = "scores no fold before all are trained, and a search asks after each; choose last"
        problems.append(Problem("select", config.select, fix))
    if config.folds == 1 and config.fold_column is None:
        fix = "holds nothing out to judge a trial by; set 2 or more, or a fold_column"
        problems.append(Problem("folds", config.folds, fix))
    if torchrun_place() is not None:
        fix = "a search starts its ranks itself; start it without torchrun"
        problems.append(Problem("accel.devices", config.accel.devices, fix))
    return problems


def _check_pruner(config: SearchConfig) -> list[Problem]:
    problems = one_of("pruner", config.pruner, PRUNERS)
    problems += at_least("startup_trials", config.startup_trials, 1)
    if not 0 < config.keep_percent < 100:
        problems.append(Problem("keep_percent", config.keep_percent, "must be between 0 and 100"))
    readers = {"keep_percent": ("percentile",), "startup_trials": ("median", "percentile")}
    for key, pruners in readers.items():
        value = getattr(config, key)
        if value != getattr(SearchConfig, key) and config.pruner not in pruners:
            fix = f"has no effect with pruner={config.pruner}; leave it out"
            problems.append(Problem(key, value, fix))
    return problems


def _check_dimensions(config: SearchConfig, dimensions: tuple[Dimension, ...]) -> list[Problem]:
    problems = []
    for one in dimensions:
        if config.sampler == "grid" and not one.grid:
            fix = "has no countable values for sampler=grid; give a step, or choices"
            problems.append(Problem(f"space.{one.key}", [one.low, one.high], fix))
        if config.metric == "loss" and one.key.startswith("objective."):
            fix = f"losses of different {one.key} cannot be compared; choose metric=qwk"
            problems.append(Problem("metric", config.metric, fix))
    points = math.prod(len(one.grid) for one in dimensions)
    if config.sampler == "grid" and points > 100_000:
        fix = f"sampler=grid would have {points} settings; give fewer, or another sampler"
        problems.append(Problem("space", "", fix))
    return problems


def _check_corners(config: SearchConfig, dimensions: tuple[Dimension, ...]) -> list[Problem]:
    """Problems of trainings at the space's corners, the first of each key."""
    training = training_config(config)
    found: dict[str, Problem] = {}
    for values in corners(dimensions):
        for problem in check_train(with_values(training, values)):
            fix = f"{problem.fix}; the space reaches it"
            found.setdefault(problem.key, Problem(problem.key, problem.value, fix))
    return list(found.values())
