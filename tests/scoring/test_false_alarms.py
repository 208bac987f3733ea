"""That comparisons of what does not differ raise false alarms as often as they say."""

import numpy as np
import pytest

from benchmarks.false_alarms import (
    ALIKE,
    DIFFERENT,
    LUCKLESS,
    SAME,
    bounds,
    misses,
    pairs,
    true_difference,
)
from benchmarks.simulation import Population

PAIRS = 4000
LOW, HIGH = bounds(PAIRS, level=0.999)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize(("patients", "draws"), [(100, 1000), (1200, 1000)])
def test_two_trained_models_of_equal_worth(patients, draws):
    found = pairs(LUCKLESS, count=PAIRS, patients=patients, seeds=1, draws=draws, seed=1)
    assert LOW <= misses([one.by_models() for one in found]) <= HIGH


@pytest.mark.parametrize("patients", [100, 1200])
@pytest.mark.parametrize("population", [SAME, ALIKE], ids=["same", "alike"])
def test_two_settings_of_equal_worth_with_two_seeds_each(patients, population: Population):
    given = {"count": PAIRS, "patients": patients, "seeds": 2, "draws": 300, "seed": 2}
    assert LOW <= misses([one.by_settings() for one in pairs(population, **given)]) <= HIGH


def test_intervals_hold_the_difference_of_settings_that_differ():
    given = {"count": PAIRS, "patients": 1200, "seeds": 2, "draws": 300, "seed": 3}
    truth = true_difference(DIFFERENT)
    assert truth > 0.01
    assert LOW <= misses([one.by_settings() for one in pairs(DIFFERENT, **given)], truth) <= HIGH


def test_a_bootstrap_over_patients_alone_would_be_far_off():
    given = {"count": 500, "patients": 1200, "seeds": 2, "draws": 300, "seed": 4}
    found = [one.by_patients_alone() for one in pairs(SAME, **given)]
    assert np.mean([one.p_value < 0.05 for one in found]) > 0.15
