"""A search: settings tried one after the other, fold by fold, the worse ones not to the end."""

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from optuna import Study, Trial
from optuna.trial import TrialState

from dr.checks import check_train
from dr.config import ConfigError, SearchConfig, TrainConfig
from dr.digests import digest_of
from dr.files import make_writable_folder
from dr.searching.results import SearchResult, trial_rows
from dr.searching.space import Dimension, parse_space, training_config, with_values
from dr.searching.studies import claimed_trial, open_study
from dr.training.cross_validation import Outcome, cross_validate
from dr.training.identity import run_name, scientific_settings
from dr.urls import mask_values

_log = logging.getLogger(__name__)

MOST_FAILURES = 3
"""So many trials that fail in a row end a search: then it is not their settings' fault."""

Train = Callable[[TrainConfig], Outcome | None]


@dataclass(frozen=True, kw_only=True)
class _Search:
    """A search under way."""

    config: SearchConfig
    folder: Path
    dimensions: tuple[Dimension, ...]
    study: Study
    train: Train


def search(config: SearchConfig, *, train: Train = cross_validate) -> SearchResult:
    """Train trials until there are `config.trials` in all, and tell what came of them.

    `train` trains the fold that a config asks for, and gives its run. Trials that another
    process trains are not waited for. Raises ConfigError for a space that is none, ValueError
    where the folder of the search's name is another search's, or `MOST_FAILURES` trials failed in
    a row, and Interrupted where a training was asked to stop: the same search then goes on.
    """
    dimensions, problems = parse_space(config)
    if problems:
        raise ConfigError(problems)
    make_writable_folder(Path(config.outputs), key="outputs")
    definition = search_definition(config, dimensions)
    folder = Path(config.outputs) / ".search" / _name(config, definition)
    study = open_study(folder, config, dimensions, definition=definition)
    _log.info("%s: searching %s", folder, ", ".join(one.key for one in dimensions))
    under_way = _Search(
        config=config, folder=folder, dimensions=dimensions, study=study, train=train
    )
    _train_trials(under_way)
    return SearchResult(folder=folder, config=config, rows=trial_rows(study))


def search_definition(config: SearchConfig, dimensions: tuple[Dimension, ...]) -> dict[str, Any]:
    """All that decides a search but `trials`, as dotted keys: two that differ in it are two."""
    left_out = {"search", "trials", *(one.key for one in dimensions)}
    settings = {
        key: value for key, value in scientific_settings(config).items() if key not in left_out
    }
    settings |= {"fold": config.fold, "shards": config.shards}
    if config.shards is None:
        settings |= {
            "data": dataclasses.asdict(config.data),
            "preparation": dataclasses.asdict(config.preparation),
        }
    masked: dict[str, Any] = mask_values(settings)
    return masked


def _name(config: SearchConfig, definition: Mapping[str, Any]) -> str:
    return config.search or run_name(config, digest_of(definition))


def _most_trials(config: SearchConfig, dimensions: tuple[Dimension, ...]) -> int:
    if config.sampler != "grid":
        return config.trials
    return min(config.trials, math.prod(len(one.grid) for one in dimensions))


def _train_trials(search: _Search) -> None:
    trials, failed = _most_trials(search.config, search.dimensions), 0
    while True:
        with claimed_trial(search.study, search.folder, search.dimensions, trials=trials) as trial:
            if trial is None:
                return
            error = _train_trial(search, trial)
        failed = 0 if error is None else failed + 1
        if failed == MOST_FAILURES:
            raise ValueError(
                f"{failed} trials failed one after the other, so the search ends here; the last "
                f"of them: {error}"
            )


def _train_trial(search: _Search, trial: Trial) -> str | None:
    """Train a trial and tell the study what came of it; why, where it failed."""
    setting = ", ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
    _log.info("trial %d: %s", trial.number, setting)
    try:
        # The same setting has the same run, which only one process can train at a time.
        with FileLock(search.folder / f".setting-{digest_of(trial.params)[:16]}.lock"):
            mean = _mean_score(search, trial)
    except (ValueError, RuntimeError, ArithmeticError) as error:
        reason = str(error) or type(error).__name__
        _log.warning("trial %d: failed: %s", trial.number, reason)
        trial.set_user_attr("error", reason)
        search.study.tell(trial, state=TrialState.FAIL)
        return reason
    if mean is None:
        search.study.tell(trial, state=TrialState.PRUNED)
    else:
        search.study.tell(trial, mean)
    return None


def _mean_score(search: _Search, trial: Trial) -> float | None:
    """The mean of a trial's fold scores; None where it is dropped before its last fold."""
    scores: dict[int, float] = {}
    reported = search.study.get_trials(deepcopy=False)[trial.number].intermediate_values
    for fold, last in _folds(search, trial, scores):
        mean = float(np.mean(list(scores.values())))
        if len(scores) not in reported:
            trial.report(mean, step=len(scores))
        said = (trial.number, fold, search.config.metric, scores[fold], mean)
        _log.info("trial %d: fold %d: %s %.4f, mean so far %.4f", *said)
        if not last and trial.should_prune():
            _log.info("trial %d: dropped, its run stays unfinished", trial.number)
            return None
    return mean


def _folds(search: _Search, trial: Trial, scores: dict[int, float]) -> Iterator[tuple[int, bool]]:
    """Train fold after fold, score each into `scores`, and tell whether it was the last."""
    config = with_values(training_config(search.config), trial.params)
    problems = check_train(config)
    if problems:
        raise ConfigError(problems)
    left = _asked_folds(config)
    while left:
        fold = left.pop(0)
        outcome = search.train(dataclasses.replace(config, fold=[fold]))
        assert outcome is not None
        if not scores and config.fold == "all":
            left = [one for one in outcome.result["planned_folds"] if one != fold]
        scores[fold] = _score(outcome, fold, search.config.metric)
        trial.set_user_attr("run", outcome.folder.name)
        trial.set_user_attr("scores", {str(one): score for one, score in scores.items()})
        yield fold, not left


def _asked_folds(config: TrainConfig) -> list[int]:
    """The folds that are trained; of all of them only the first, as the data tell how many."""
    if config.fold == "all":
        return [0]
    return list(config.fold) if isinstance(config.fold, list) else [config.fold]


def _score(outcome: Outcome, fold: int, metric: str) -> float:
    score = outcome.result["folds"].get(str(fold), {}).get(metric)
    if score is None:
        raise ValueError(f"{outcome.folder}: fold {fold} has no {metric} to judge the trial by")
    return float(score)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
