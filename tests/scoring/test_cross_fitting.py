import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.metrics import cohen_kappa_score, log_loss

from dr.scoring.cross_fitting import (
    cross_fitted_grades,
    cross_fitted_probabilities,
    fit_temperature,
    fit_thresholds,
    grades_by,
    heat,
)
from dr.scoring.kappa import quadratic_weighted_kappa


def kappa(labels: np.ndarray, scores: np.ndarray, thresholds: np.ndarray) -> float:
    grades = grades_by(np.asarray(thresholds), scores)
    return cohen_kappa_score(labels, grades, weights="quadratic", labels=range(5))


def drawn(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 5, size)
    return labels, np.round(0.4 * labels + random.normal(0, 0.5, size), 2)


@pytest.mark.parametrize("seed", range(6))
def test_no_moved_threshold_gives_a_better_kappa(seed):
    labels, scores = drawn(seed, 60)
    found = fit_thresholds(labels, scores)
    best = kappa(labels, scores, found)
    places = np.unique(scores)
    candidates = np.concatenate([[-9.0], (places[1:] + places[:-1]) / 2, [9.0]])
    for place, other in itertools.product(range(4), candidates):
        moved = np.sort(np.r_[np.delete(found, place), other])
        assert kappa(labels, scores, moved) <= best + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_few_records_get_the_best_of_all_thresholds(seed):
    labels, scores = drawn(seed + 50, 12)
    places = np.unique(scores)
    candidates = np.concatenate([[-9.0], (places[1:] + places[:-1]) / 2, [9.0]])
    combinations = itertools.combinations_with_replacement(candidates, 4)
    best = np.nanmax([kappa(labels, scores, np.array(cuts)) for cuts in combinations])
    assert kappa(labels, scores, fit_thresholds(labels, scores)) >= best - 0.03


def test_well_separated_scores_are_graded_without_a_mistake():
    labels = np.repeat(np.arange(5), 7)
    scores = np.array([0.1, 0.2, 0.25, 2.0, 3.9])[labels]
    assert (grades_by(fit_thresholds(labels, scores), scores) == labels).all()
    missing = labels[labels != 3]
    assert (
        grades_by(fit_thresholds(missing, scores[labels != 3]), scores[labels != 3]) == missing
    ).all()


@given(st.integers(0, 2**32), st.integers(5, 80))
def test_fitted_thresholds_rise_and_are_no_worse_than_rounding(seed, size):
    labels, scores = drawn(seed, size)
    found = fit_thresholds(labels, scores)
    assert (found[1:] >= found[:-1]).all()
    rounding = kappa(labels, scores, np.array([0.5, 1.5, 2.5, 3.5]))
    fitted = kappa(labels, scores, found)
    assert np.isnan(rounding) or fitted >= rounding - 1e-9


def test_the_temperature_is_the_one_of_the_least_log_loss():
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 3000)
    logits = random.normal(0, 1, (3000, 5)) + 1.5 * np.eye(5)[labels]
    sharp = heat(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 1 / 3)
    found = fit_temperature(labels, sharp)
    reference = minimize_scalar(
        lambda t: log_loss(labels, heat(sharp, t), labels=range(5)),
        bounds=(0.1, 20),
        method="bounded",
    ).x
    assert found == pytest.approx(reference, rel=1e-2)
    assert found > 1.5
    np.testing.assert_allclose(heat(sharp, 1.0), sharp, atol=1e-9)


def folded(seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, scores = drawn(seed, 400)
    return labels, scores, np.arange(400) % 4


def test_a_folds_own_labels_have_no_say_in_its_grades_or_probabilities():
    labels, scores, folds = folded()
    chances = np.abs(np.random.default_rng(2).normal(size=(400, 5)))
    chances /= chances.sum(axis=1, keepdims=True)
    other = np.where(folds == 2, (labels + 3) % 5, labels)
    for fit, given_values in ((cross_fitted_grades, scores), (cross_fitted_probabilities, chances)):
        one, two = fit(labels, given_values, folds), fit(other, given_values, folds)
        np.testing.assert_array_equal(one.values[folds == 2], two.values[folds == 2])
        assert not np.array_equal(one.values[folds != 2], two.values[folds != 2])


def test_noise_in_the_labels_does_not_raise_a_score_through_thresholds():
    """Scores that know nothing gain by thresholds of their own labels, not by those of others."""
    random = np.random.default_rng(5)
    own, crossed = [], []
    for _ in range(60):
        labels, scores = random.integers(0, 5, 100), random.normal(size=100)
        folds = np.arange(100) % 5
        own.append(kappa(labels, scores, fit_thresholds(labels, scores)))
        grades = cross_fitted_grades(labels, scores, folds).values
        crossed.append(quadratic_weighted_kappa(labels, grades))
    assert np.mean(own) > 0.1
    assert np.mean(crossed) < 2 * np.std(crossed) / np.sqrt(60)


def test_thresholds_of_each_fold_are_those_of_the_others():
    labels, scores, folds = folded()
    found = cross_fitted_grades(labels, scores, folds)
    assert found.folds.tolist() == [0, 1, 2, 3]
    expected = fit_thresholds(labels[folds != 3], scores[folds != 3])
    np.testing.assert_array_equal(found.parameters[3], expected)


def test_one_fold_has_no_others_to_fit_on():
    with pytest.raises(ValueError, match="one fold has no others"):
        cross_fitted_grades(np.arange(5), np.arange(5.0), np.zeros(5, dtype=int))
