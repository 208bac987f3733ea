"""Runs that differ in their seed alone, as one row."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from dr.reporting.judging import Judgement
from dr.reporting.runs import RunSummary, Scores
from dr.reporting.values import canonical

K = TypeVar("K", int, str)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The `runs` of one setting, by seed; they differ in nothing else.

    `summary` is the run, or of several complete ones what they have in the mean; the seed of its
    settings is a list then. `cohort` numbers the data and folds it was scored on, from 1; None
    where it was not judged. `judgement` is None where no run of it could be judged.
    """

    runs: tuple[RunSummary, ...]
    summary: RunSummary
    cohort: int | None = None
    judgement: Judgement | None = None

    @property
    def name(self) -> str:
        """That of its first run."""
        return self.runs[0].name

    @property
    def complete(self) -> tuple[RunSummary, ...]:
        """Its finished and scored runs."""
        return tuple(run for run in self.runs if is_complete(run))


def is_complete(run: RunSummary) -> bool:
    """Whether a run is finished and has a score."""
    return run.state == "complete" and run.pooled is not None


def group_settings(runs: Sequence[RunSummary]) -> list[Setting]:
    """Put runs together that differ in their seed alone, in the order of their first ones.

    Runs on other data or folds, unreadable ones, and a second run of the same seed, which tells
    nothing about seeds, stay apart.
    """
    groups = _by_key(runs, _all_but_seed)
    return [_setting(members) for group in groups for members in _of_different_seeds(group)]


def group_by(runs: Sequence[RunSummary], key: str) -> list[Setting]:
    """Put complete runs together that have the same value of the setting `key`."""
    complete = [run for run in runs if is_complete(run)]
    members = _by_key(complete, lambda run: {key: run.settings.get(key)})
    return [_setting(own, kept={key: own[0].settings.get(key)}) for own in members]


def _of_different_seeds(runs: Sequence[RunSummary]) -> list[list[RunSummary]]:
    apart: list[dict[str, RunSummary]] = []
    for run in runs:
        seed = canonical(run.settings.get("seed"))
        free = next((one for one in apart if seed not in one), None)
        if free is None:
            free = {}
            apart.append(free)
        free[seed] = run
    return [list(one.values()) for one in apart]


def _all_but_seed(run: RunSummary) -> Mapping[str, object]:
    """What is null may be lacking in runs of older versions."""
    settings = run.settings.items()
    return {key: value for key, value in settings if key != "seed" and value is not None}


def _by_key(
    runs: Iterable[RunSummary], key: Callable[[RunSummary], Mapping[str, object]]
) -> list[list[RunSummary]]:
    groups: dict[str, list[RunSummary]] = defaultdict(list)
    for run in runs:
        alone = run.name if run.state == "unreadable" else None
        groups[canonical([alone, run.data_digest, run.folds_digest, key(run)])].append(run)
    return list(groups.values())


def _setting(runs: list[RunSummary], *, kept: Mapping[str, object] | None = None) -> Setting:
    if len(runs) == 1 and kept is None:
        return Setting(runs=tuple(runs), summary=runs[0])
    ordered = sorted(runs, key=lambda run: (_number(run.settings.get("seed")), run.name))
    seeds = [run.settings.get("seed") for run in ordered]
    settings = {**runs[0].settings, "seed": seeds} if kept is None else dict(kept)
    return Setting(runs=tuple(ordered), summary=_together(ordered, settings))


def _number(seed: object) -> float:
    return float(seed) if isinstance(seed, int | float) else math.inf


def _together(runs: Sequence[RunSummary], settings: dict[str, object]) -> RunSummary:
    complete = [run for run in runs if is_complete(run)]
    tests = [run.test for run in complete if run.test is not None]
    alike = len(tests) == len(complete) and len({run.test_name for run in complete}) == 1
    return replace(
        runs[0],
        state="complete" if len(complete) == len(runs) else "unfinished",
        settings=settings,
        folds=_mean_by_key([run.folds for run in complete]),
        planned_folds=tuple(sorted({fold for run in runs for fold in run.planned_folds})),
        mean=_mean([run.mean for run in complete]),
        sd=_mean([run.sd for run in complete]),
        pooled=_mean([run.pooled for run in complete if run.pooled]) or None,
        optimistic=any(run.optimistic for run in complete),
        sources=_mean_by_key([run.sources for run in complete]),
        test=_mean(tests) if tests and alike else None,
        test_shared=max((run.test_shared for run in complete), default=0),
        skipped=sum(run.skipped for run in runs),
    )


def _mean(parts: Sequence[Scores]) -> Scores:
    """The means of the scores that all have."""
    if not parts:
        return {}
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: math.fsum(part[name] for part in parts) / len(parts) for name in shared}


def _mean_by_key(parts: Sequence[Mapping[K, Scores]]) -> dict[K, Scores]:
    keys = dict.fromkeys(key for part in parts for key in part)
    return {key: _mean([part[key] for part in parts if key in part]) for key in keys}
