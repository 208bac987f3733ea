"""The study of a search: which trials there are, who trains them, and what is tried next.

Optuna's journal file under `outputs/.search/<name>` holds the trials. Who trains one holds a lock
on it, which ends with the process, so that a trial whose process died is found and taken up by
the next that asks.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna import Study, Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, PercentilePruner
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from dr.config import SearchConfig
from dr.searching.space import Dimension

_log = logging.getLogger(__name__)

JOURNAL = "journal.log"
_LOCK = ".lock"
_DEFINITION = "definition"


def open_study(
    folder: Path,
    config: SearchConfig,
    dimensions: Sequence[Dimension],
    *,
    definition: Mapping[str, Any],
) -> Study:
    """The study in `folder`, begun where there is none.

    Raises ValueError, with every setting that differs, where the folder's is another search.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / _LOCK):
        _mend(folder / JOURNAL)
        journal = str(folder / JOURNAL)
        backend = JournalFileBackend(journal, JournalFileOpenLock(journal))
        study = optuna.create_study(
            storage=JournalStorage(backend),
            study_name="search",
            direction="minimize" if config.metric == "loss" else "maximize",
            sampler=_sampler(config, dimensions),
            pruner=make_pruner(config),
            load_if_exists=True,
        )
        _check_definition(study, folder, definition)
    return study


def _mend(journal: Path) -> None:
    """Take away a last line that a power cut left unfinished."""
    if not journal.is_file():
        return
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with journal.open("r+b") as file:
            file.truncate(whole)


def _check_definition(study: Study, folder: Path, definition: Mapping[str, Any]) -> None:
    now = {key: json.dumps(value, default=str) for key, value in definition.items()}
    stored = study.user_attrs.get(_DEFINITION)
    if stored is None:
        study.set_user_attr(_DEFINITION, now)
        return
    differing = [
        f"{key}: {stored.get(key, 'absent')} before, {now.get(key, 'absent')} now"
        for key in sorted({*stored, *now})
        if stored.get(key) != now.get(key)
    ]
    if differing:
        listed = "".join(f"\n  {line}" for line in differing)
        raise ValueError(
            f"{folder}: is another search; choose another name with search=..., or leave search "
            f"out. What differs:{listed}"
        )


class NumberedSampler(BaseSampler):
    """Draws each trial with a generator of its own, seeded by the search's seed and its number.

    So workers that ask side by side draw different settings, and it does not matter which of them
    asks, or after which interruption.
    """

    def __init__(self, make: Callable[[int], BaseSampler], *, seed: int) -> None:
        self._make, self._seed = make, seed
        self._number, self._drawing = -1, make(0)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._of(trial).before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number != self._number:
            seed = np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0]
            self._number, self._drawing = trial.number, self._make(int(seed))
        return self._drawing


def _sampler(config: SearchConfig, dimensions: Sequence[Dimension]) -> BaseSampler:
    if config.sampler == "grid":
        grid = {one.key: list(one.grid) for one in dimensions}
        return NumberedSampler(lambda _: GridSampler(grid, seed=config.seed), seed=config.seed)
    makers: dict[str, Callable[[int], BaseSampler]] = {
        "random": lambda seed: RandomSampler(seed=seed),
        "tpe": lambda seed: TPESampler(seed=seed, constant_liar=True),
    }
    return NumberedSampler(makers[config.sampler], seed=config.seed)


def make_pruner(config: SearchConfig) -> BasePruner:
    """What is asked after each fold whether a trial is dropped; steps are folds, from 1."""
    if config.pruner == "none":
        return NopPruner()
    if config.pruner == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=_fold_count(config) or "auto")
    keep = 50.0 if config.pruner == "median" else config.keep_percent
    return PercentilePruner(keep, n_startup_trials=config.startup_trials)


def _fold_count(config: SearchConfig) -> int | None:
    """How many folds a trial has at most; None where only the data tell."""
    if isinstance(config.fold, list):
        return len(config.fold)
    if config.fold != "all":
        return 1
    return None if config.fold_column is not None else config.folds


def distribution(dimension: Dimension) -> BaseDistribution:
    """A dimension as Optuna has it."""
    one = dimension
    if one.choices:
        return CategoricalDistribution(one.choices)
    if one.whole:
        step = 1 if one.step is None else int(one.step)
        return IntDistribution(int(one.low), int(one.high), log=one.log, step=step)
    return FloatDistribution(float(one.low), float(one.high), log=one.log, step=one.step)


@contextmanager
def claimed_trial(
    study: Study, folder: Path, dimensions: Sequence[Dimension], *, trials: int
) -> Iterator[Trial | None]:
    """A trial to train, which no other process trains meanwhile; None where nothing is left.

    One whose process died comes first, then a new one, up to `trials` in all.
    """
    with FileLock(folder / _LOCK):
        claimed = _abandoned(study, folder, dimensions) or _new(study, folder, dimensions, trials)
    if claimed is None:
        yield None
        return
    trial, lock = claimed
    try:
        yield trial
    finally:
        lock.release()


def _abandoned(
    study: Study, folder: Path, dimensions: Sequence[Dimension]
) -> tuple[Trial, FileLock] | None:
    for found in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        lock = _trial_lock(folder, found.number)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        now = study.get_trials(deepcopy=False)[found.number]
        if now.state == TrialState.RUNNING and len(now.params) == len(dimensions):
            _log.info("trial %d: its process is gone, going on with it", found.number)
            return Trial(study, now._trial_id), lock
        if now.state == TrialState.RUNNING:
            study.tell(found.number, state=TrialState.FAIL)
        lock.release()
    return None


def _new(
    study: Study, folder: Path, dimensions: Sequence[Dimension], trials: int
) -> tuple[Trial, FileLock] | None:
    if len(study.get_trials(deepcopy=False)) >= trials:
        return None
    trial = study.ask({one.key: distribution(one) for one in dimensions})
    lock = _trial_lock(folder, trial.number)
    lock.acquire()
    return trial, lock


def _trial_lock(folder: Path, number: int) -> FileLock:
    return FileLock(folder / f".trial-{number}.lock")
