"""Simulated predictions of settings, seeds and patients, whose true differences are known."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Grades = NDArray[np.int64]

_CUTS = np.array([0.625, 0.85, 1.62, 2.0])
"""Of a standard normal severity: 73.4, 6.8, 14.5, 3, 2.3% of the eyes, about EyePACS's shares."""
_BETWEEN_EYES = 0.85


@dataclass(frozen=True, kw_only=True)
class Population:
    """How predictions come about: standard deviations of what is added to an eye's severity.

    `shared` errors all models make (the eye is hard), `setting` errors those of one setting,
    `seed` errors one training. `luck` is how much the size of a training's own errors varies
    (standard deviation of its logarithm). `worse` multiplies the second setting's own errors.
    """

    shared: float = 0.45
    setting: float = 0.0
    seed: float = 0.45
    luck: float = 0.08
    worse: float = 1.0


def simulate(
    population: Population, *, patients: int, seeds: int, generator: np.random.Generator
) -> tuple[Grades, Grades, Grades]:
    """Labels `[records]`, grades `[2 * seeds, records]`, and patients `[records]` of two settings.

    The first `seeds` models are the first setting's. Each patient has two eyes.
    """
    own = generator.standard_normal((patients, 1), np.float32)
    eyes = generator.standard_normal((patients, 2), np.float32)
    share = np.float32(_BETWEEN_EYES)
    severity = (np.sqrt(share) * own + np.sqrt(1 - share) * eyes).ravel()
    hard = severity + np.float32(population.shared) * _noise(generator, len(severity))
    grades = []
    for setting in range(2):
        base = hard + np.float32(population.setting) * _noise(generator, len(severity))
        scale = population.seed * (population.worse if setting else 1)
        for _ in range(seeds):
            luck = np.exp(population.luck * generator.standard_normal())
            noise = np.float32(scale * luck) * _noise(generator, len(severity))
            grades.append(_grade(base + noise))
    return _grade(severity), np.array(grades), np.repeat(np.arange(patients), 2)


def _noise(generator: np.random.Generator, count: int) -> NDArray[np.float32]:
    return generator.standard_normal(count, np.float32)


def _grade(severity: NDArray[np.float32]) -> Grades:
    """As a model that shrinks to the mean would be graded by fitted thresholds: by rank cuts."""
    return np.searchsorted(_CUTS.astype(np.float32), severity).astype(np.int64)
