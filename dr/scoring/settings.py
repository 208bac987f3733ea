"""Settings compared across patients and seeds: is a difference more than another training's luck?

A setting was trained with several seeds, all scored on the same patients. Seeds are nested in
settings and crossed with patients, as readers and cases are in studies of diagnostic imaging, and
the same analysis holds: Obuchowski and Rockette (Communications in Statistics 24, 1995), for
readers nested in tests Hillis (Statistics in Medicine 33, 2014). Drawing two seeds with
replacement beside the patients would halve their variance, and count what a seed does to single
patients twice; here the variance of seeds is the sample's, pooled over the settings, with its
degrees of freedom, and the patients' is what seeds of a setting share.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dr.scoring.intervals import LEVEL, Difference, Interval

Values = NDArray[np.float64]

_FEW = {1: (-0.26, 0.15), 2: (-0.04, 0.83), 3: (0.38, 1.10), 4: (0.69, 1.18)}
"""Coefficients of `_degrees` for few degrees of freedom of the seeds."""


@dataclass(frozen=True)
class SeedNoise:
    """The variance of the score from seed to seed within a setting, and its degrees of freedom."""

    variance: float
    freedom: int


@dataclass(frozen=True, kw_only=True)
class SettingScores:
    """Scores of a setting's seeds: `values` `[seeds]`, and `draws` `[draws, seeds]` over patients.

    The draws of all settings are of the same resamples.
    """

    values: Values
    draws: Values

    @property
    def seeds(self) -> int:
        """How many trainings there are."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """The mean score of the seeds."""
        return float(self.values.mean())


def seed_noise(settings: Sequence[SettingScores]) -> SeedNoise | None:
    """The noise of seeds, pooled over settings; None where no setting has two."""
    freedom = sum(one.seeds - 1 for one in settings)
    if freedom == 0:
        return None
    squares = sum(float(np.square(one.values - one.mean).sum()) for one in settings)
    return SeedNoise(squares / freedom, freedom)


def shared_covariance(one: SettingScores, other: SettingScores) -> float:
    """The covariance over patients of the scores of two trainings, one of each setting.

    Of one setting with itself: of two different seeds. The mean over all pairs.
    """
    own = one.draws - one.draws.mean(axis=0)
    theirs = own if one is other else other.draws - other.draws.mean(axis=0)
    table = own.T @ theirs / (len(own) - 1)
    if one is not other:
        return float(table.mean())
    return float((table.sum() - np.trace(table)) / (one.seeds * (one.seeds - 1)))


def patient_variance(one: SettingScores, other: SettingScores) -> float:
    """The variance over patients of the difference of two settings, whatever their seeds."""
    own = shared_covariance(one, one) + shared_covariance(other, other)
    return max(0.0, own - 2 * shared_covariance(one, other))


def compare_settings(one: SettingScores, other: SettingScores, noise: SeedNoise) -> Difference:
    """`one` minus `other`: the difference of the settings' expected scores.

    Each has two seeds or more. The statement is about settings, under new seeds and new patients
    of the same population; `noise` is `seed_noise` of all settings that are compared.
    """
    return _studentised(
        one.mean - other.mean,
        seeds=noise.variance * (1 / one.seeds + 1 / other.seeds),
        patients=patient_variance(one, other),
        freedom=noise.freedom,
    )


def setting_interval(one: SettingScores, noise: SeedNoise) -> Interval:
    """The expected score of a setting with two seeds or more, over new seeds and new patients."""
    found = _studentised(
        one.mean,
        seeds=noise.variance / one.seeds,
        patients=max(0.0, shared_covariance(one, one)),
        freedom=noise.freedom,
    )
    return Interval(found.value, found.low, found.high)


def _studentised(value: float, *, seeds: float, patients: float, freedom: int) -> Difference:
    """Student's interval and test of a value whose variance is that of `seeds` and `patients`."""
    from scipy import stats

    error = math.sqrt(seeds + patients)
    if error == 0:
        return Difference(value, value, value, 1.0 if value == 0 else 0.0)
    degrees = math.inf if seeds == 0 else degrees_of_freedom(patients / seeds, freedom)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, degrees)) * error
    p_value = float(2 * stats.t.sf(abs(value) / error, degrees))
    return Difference(value, value - reach, value + reach, p_value)


def degrees_of_freedom(ratio: float, freedom: int) -> float:
    """Those of a variance of which one part, the seeds', is known with `freedom` of its own.

    `ratio` is the patients' part over the seeds'. Satterthwaite's 1 + 2 ratio + ratio^2 times
    `freedom` is for many: at 2, tests at 5% would raise up to 7.9% of false alarms. The
    coefficients here keep them between 4.6 and 5.4% from 2 on, whatever the ratio.
    """
    linear, square = _FEW.get(freedom, (2 - 5.65 / freedom, 1 + 1.3 / freedom))
    return freedom * (1 + linear * ratio + square * ratio**2)
