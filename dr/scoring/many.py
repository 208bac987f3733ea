"""Many comparisons at once: with a baseline named beforehand, and with the best of all."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dr.scoring.intervals import LEVEL
from dr.scoring.settings import SeedNoise, SettingScores, shared_covariance

_MOST_LIMITS = 100
"""Beyond so many settings, the largest limit of so many of them serves for all."""
_MANY_DRAWS = 1000
"""How many draws serve those, at most."""

Values = NDArray[np.float64]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number: the chance of one false alarm among all stays 5%.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6 (1979). An undefined one (`nan`) stays so, and does not count.
    """
    adjusted = [math.nan] * len(p_values)
    known = [place for place, p_value in enumerate(p_values) if not math.isnan(p_value)]
    largest = 0.0
    for rank, place in enumerate(sorted(known, key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(known) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def not_told_from_best(
    settings: Sequence[SettingScores], noise: SeedNoise | None, *, seed: int = 0
) -> NDArray[np.bool_]:
    """Which of the settings may be the best: `[settings]`; the best one is among them in 95%.

    One is left out where another's lead over it, in standard errors, is more than 95% of the
    draws give as the largest lead of all others over it if none were better (J. Hsu, "Constrained
    simultaneous confidence intervals for multiple comparisons with the best", Annals of Statistics
    12, 1984). All share the draws of patients, and so what they have in common cancels. With
    `noise` the statement is about settings, and seeds are drawn too; without, it is about trained
    models, one of each setting.
    """
    if len(settings) == 1:
        return np.ones(1, dtype=bool)
    means = np.array([one.mean for one in settings])
    joint = _Joint(settings, noise)
    chance = _Chance(joint, seed=seed)
    order = np.argsort(-means)
    tried = order[:: -(-len(order) // _MOST_LIMITS)]
    found = np.array([chance.largest_lead(place) for place in tried])
    limits = np.full(len(order), found.max())
    if len(tried) == len(order):
        limits[order] = found
    leads = [(means - means[place]) / joint.errors(place) for place in range(len(order))]
    return np.array([own.max() <= limits[place] for place, own in enumerate(leads)])


class _Joint:
    """The variances of the differences of any two settings."""

    def __init__(self, settings: Sequence[SettingScores], noise: SeedNoise | None) -> None:
        self.deviations = np.stack(
            [one.draws.mean(axis=1) - one.draws.mean() for one in settings], axis=1
        )
        self.seeds = np.array([one.seeds for one in settings])
        self.noise = noise
        self._settings = settings
        covariance = np.atleast_2d(np.cov(self.deviations, rowvar=False))
        own = np.diag(covariance).copy() if noise is None else self._shared()
        self.spread = covariance.diagonal()[:, None] + covariance.diagonal() - 2 * covariance
        self.patients = np.maximum(own[:, None] + own - 2 * covariance, 0.0)

    def _shared(self) -> Values:
        return np.array([shared_covariance(one, one) for one in self._settings])

    def seed_part(self, place: int) -> Values:
        """The variance that seeds give the differences of all with one: `[settings]`."""
        if self.noise is None:
            return np.zeros(len(self.seeds))
        part: Values = self.noise.variance * (1 / self.seeds + 1 / self.seeds[place])
        return part

    def errors(self, place: int) -> Values:
        """The standard errors of all others' leads over one; infinite for itself."""
        variance = self.patients[place] + self.seed_part(place)
        errors = np.sqrt(np.where(variance > 0, variance, np.inf))
        errors[place] = np.inf
        return errors


class _Chance:
    """How large the largest lead over a setting is by chance, in standard errors."""

    def __init__(self, joint: _Joint, *, seed: int) -> None:
        self._joint = joint
        draws = _MANY_DRAWS if len(joint.seeds) > _MOST_LIMITS else len(joint.deviations)
        self._deviations = joint.deviations[:draws].astype(np.float32)
        generator = np.random.default_rng(seed)
        shape = self._deviations.shape
        if joint.noise is not None:
            scale = np.sqrt(joint.noise.variance / joint.seeds)
            self._luck = (scale * generator.standard_normal(shape)).astype(np.float32)
            freedom = joint.noise.freedom
            size = np.asarray(generator.chisquare(freedom, shape[0]))
            self._size = (size / freedom).astype(np.float32)

    def largest_lead(self, place: int) -> float:
        """What 95% of the draws stay below."""
        joint = self._joint
        with np.errstate(invalid="ignore", divide="ignore"):
            shrink = np.sqrt(joint.patients[place] / joint.spread[place])
        shrink = np.where(np.isfinite(shrink), shrink, 0.0).astype(np.float32)
        leads = (self._deviations - self._deviations[:, [place]]) * shrink
        if joint.noise is None:
            leads /= joint.errors(place).astype(np.float32)
        else:
            leads += self._luck - self._luck[:, [place]]
            patients = joint.patients[place].astype(np.float32)
            seeds = joint.seed_part(place).astype(np.float32)
            variance = patients + seeds * self._size[:, None]
            leads /= np.sqrt(np.where(variance > 0, variance, np.inf))
            leads[:, place] = -np.inf
        return float(np.quantile(leads.max(axis=1), LEVEL))
