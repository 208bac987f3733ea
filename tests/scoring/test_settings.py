import math

import numpy as np
import pytest
from scipy import stats

from dr.scoring.settings import (
    SeedNoise,
    SettingScores,
    compare_settings,
    degrees_of_freedom,
    patient_variance,
    seed_noise,
    setting_interval,
)


def scores(values: list[float], draws: np.ndarray | None = None) -> SettingScores:
    found = np.array(values)
    held = np.tile(found, (50, 1)) if draws is None else draws
    return SettingScores(values=found, draws=held)


def test_without_noise_of_patients_it_is_students_t_test():
    one, other = [0.71, 0.69, 0.73], [0.66, 0.70, 0.67]
    settings = scores(one), scores(other)
    noise = seed_noise(settings)
    assert noise is not None
    found = compare_settings(*settings, noise)
    expected = stats.ttest_ind(one, other)
    assert found.p_value == pytest.approx(expected.pvalue)
    bounds = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high))


def test_without_noise_of_seeds_it_is_the_bootstraps_normal_test():
    random = np.random.default_rng(0)
    shared, own, theirs = random.normal(0, [[0.02], [0.005], [0.005]], (3, 4000))
    one = scores([0.70, 0.70], np.stack([0.70 + shared + own] * 2, axis=1))
    other = scores([0.69, 0.69], np.stack([0.69 + shared + theirs] * 2, axis=1))
    found = compare_settings(one, other, SeedNoise(0.0, 2))
    error = (own - theirs).std(ddof=1)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(0.01 / error))
    assert patient_variance(one, other) == pytest.approx(error**2)


def test_what_single_seeds_do_to_single_patients_is_not_the_patients_noise():
    random = np.random.default_rng(1)
    draws = 0.7 + random.normal(0, 0.01, (20_000, 4))  # nothing shared between seeds
    one, other = scores([0.7, 0.7], draws[:, :2]), scores([0.7, 0.7], draws[:, 2:])
    assert patient_variance(one, other) < 0.05 * 0.01**2


def test_noise_is_pooled_over_settings_with_two_seeds_or_more():
    noise = seed_noise([scores([0.1, 0.3]), scores([0.5]), scores([0.2, 0.2, 0.5])])
    assert noise == SeedNoise(pytest.approx((0.02 + 0.06) / 3), 3)
    assert seed_noise([scores([0.5]), scores([0.4])]) is None


def test_a_settings_interval_without_noise_of_patients_is_students():
    values = [0.61, 0.64, 0.60]
    found = setting_interval(scores(values), SeedNoise(float(np.var(values, ddof=1)), 2))
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_equal_seeds_and_patients_leave_no_doubt():
    found = compare_settings(scores([0.5, 0.5]), scores([0.4, 0.4]), SeedNoise(0.0, 2))
    assert (found.low, found.high, found.p_value) == (pytest.approx(0.1), pytest.approx(0.1), 0.0)


@pytest.mark.parametrize("freedom", [2, 3, 4, 5, 8, 20])
@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0])
def test_false_alarms_stay_at_their_level_whatever_the_seeds_share(freedom, share):
    """By integration over the chi-squared variance of the seeds."""
    chance = (np.arange(500) + 0.5) / 500
    seeds = share * stats.chi2.ppf(chance, freedom) / freedom
    degrees = [degrees_of_freedom((1 - share) / part, freedom) for part in seeds]
    reach = stats.t.ppf(0.975, degrees) * np.sqrt(seeds + 1 - share)
    alarms = float((2 * stats.norm.sf(reach)).mean())
    assert 0.046 <= alarms <= 0.054


def test_many_degrees_of_freedom_are_satterthwaites():
    assert degrees_of_freedom(0.7, 10_000) == pytest.approx(10_000 * 1.7**2, rel=1e-3)
    assert degrees_of_freedom(0.0, 3) == 3
    assert math.isfinite(degrees_of_freedom(1e9, 1))
