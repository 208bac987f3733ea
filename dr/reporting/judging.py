"""Which runs are better than which: seeds of a setting together, with intervals and tests."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dr.reporting.cohorts import Cohort
from dr.scoring.intervals import DEFINED, Difference, Interval, difference, interval
from dr.scoring.many import holm, not_told_from_best
from dr.scoring.resampling import DRAWS, kappa_draws, kappa_of_sums, patient_sums
from dr.scoring.settings import (
    SeedNoise,
    SettingScores,
    compare_settings,
    seed_noise,
    setting_interval,
)

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What can be said of one row of a comparison, the complete runs of a setting.

    `score`: the mean of their pooled out-of-fold QWK with its 95% interval, under new patients
    and, where `about_settings`, new seeds. `versus`: the difference from the reference (the
    baseline, else the best), None for the reference itself; `p_adjusted` is Holm's over all rows,
    with a baseline alone. `may_be_best`: whether it can't be told from the best, None where that
    was not judged.
    """

    score: Interval
    seed_sd: float = math.nan
    versus: Difference | None = None
    p_adjusted: float = math.nan
    may_be_best: bool | None = None
    reference: bool = False
    about_settings: bool = False


def judge(
    cohort: Cohort,
    settings: Sequence[Sequence[str]],
    *,
    baseline: str | None = None,
    draws: int = DRAWS,
) -> dict[int, Judgement]:
    """Judge the settings that have runs in `cohort`, by their place in `settings`.

    Each is given as the names of its runs, which differ in their seed alone.

    Where two of them or more have two seeds or more, statements about those are about settings;
    all others are about these trained models. With a `baseline` (a run's name) differences are
    from it, and their p-values corrected; else they are from the best.
    """
    places = _places(cohort, settings)
    if not places:
        return {}
    scores = _scores(cohort, list(places.values()), draws)
    noise = _noise(scores)
    reference = _reference(scores, settings, list(places), baseline, noise)
    may_be_best = _may_be_best(scores, noise)
    judged = [
        _judge_one(
            own,
            None if place == reference else scores[reference],
            noise,
            patients=cohort.patient_count,
            may_be_best=may_be_best[place],
        )
        for place, own in enumerate(scores)
    ]
    return dict(zip(places, judged if baseline is None else _corrected(judged), strict=True))


def _places(cohort: Cohort, settings: Sequence[Sequence[str]]) -> dict[int, list[int]]:
    """Of each setting with runs in the cohort: their places there."""
    number = {run.name: place for place, run in enumerate(cohort.runs)}
    found = {
        place: [number[name] for name in names if name in number]
        for place, names in enumerate(settings)
    }
    return {place: members for place, members in found.items() if members}


def _scores(cohort: Cohort, members: Sequence[list[int]], draws: int) -> list[SettingScores]:
    sums = patient_sums(cohort.labels, cohort.grades, cohort.patients)
    values = kappa_of_sums(sums.sum(axis=0, dtype=np.float64))
    drawn = _filled(kappa_draws(sums, draws=draws), values)
    return [SettingScores(values=values[own], draws=drawn[:, own]) for own in members]


def _filled(draws: Values, values: Values) -> Values:
    """Put a model's own score for the few draws that leave it undefined; many stay undefined."""
    undefined = np.isnan(draws)
    few = undefined.mean(axis=0) <= 1 - DEFINED
    filled: Values = np.where(undefined & few, values, draws)
    return filled


def _noise(scores: Sequence[SettingScores]) -> SeedNoise | None:
    """The seeds' noise, where two settings or all have two seeds or more; None otherwise."""
    several = [one for one in scores if one.seeds > 1]
    enough = len(several) > 1 or len(several) == len(scores)
    return seed_noise(several) if enough else None


def _judged_together(scores: Sequence[SettingScores], noise: SeedNoise | None) -> list[int]:
    """The places of those that one statement can be about: all models, or all settings."""
    return [place for place, one in enumerate(scores) if noise is None or one.seeds > 1]


def _reference(
    scores: Sequence[SettingScores],
    settings: Sequence[Sequence[str]],
    places: Sequence[int],
    baseline: str | None,
    noise: SeedNoise | None,
) -> int:
    for place, own in enumerate(places):
        if baseline in settings[own]:
            return place
    return max(_judged_together(scores, noise), key=lambda place: scores[place].mean)


def _may_be_best(
    scores: Sequence[SettingScores], noise: SeedNoise | None
) -> dict[int, bool | None]:
    together = _judged_together(scores, noise)
    found = not_told_from_best([scores[place] for place in together], noise)
    known = dict(zip(together, map(bool, found), strict=True))
    return {place: known.get(place) for place in range(len(scores))}


def _judge_one(
    own: SettingScores,
    reference: SettingScores | None,
    noise: SeedNoise | None,
    *,
    patients: int,
    may_be_best: bool | None,
) -> Judgement:
    if own.seeds < 2 or (reference is not None and reference.seeds < 2):
        noise = None
    drawn = own.draws.mean(axis=1)
    return Judgement(
        score=setting_interval(own, noise)
        if noise
        else interval(own.mean, drawn, patients=patients),
        seed_sd=float(own.values.std(ddof=1)) if own.seeds > 1 else math.nan,
        versus=None if reference is None else _versus(own, reference, noise, patients),
        may_be_best=may_be_best,
        reference=reference is None,
        about_settings=noise is not None,
    )


def _versus(
    own: SettingScores, other: SettingScores, noise: SeedNoise | None, patients: int
) -> Difference:
    if noise is not None:
        return compare_settings(own, other, noise)
    draws = own.draws.mean(axis=1) - other.draws.mean(axis=1)
    return difference(own.mean - other.mean, draws, patients=patients)


def _corrected(judged: Sequence[Judgement]) -> list[Judgement]:
    p_values = [math.nan if one.versus is None else one.versus.p_value for one in judged]
    adjusted = holm(p_values)
    return [replace(one, p_adjusted=p) for one, p in zip(judged, adjusted, strict=True)]
