import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dr.scoring.reliability import reliability, roc


def chances(sure: list[float], grade: int = 0) -> np.ndarray:
    rows = np.repeat((1 - np.array(sure))[:, None] / 4, 5, axis=1)
    rows[:, grade] = sure
    return rows


def test_bins_hold_what_a_hand_counts() -> None:
    found = reliability(labels=[0, 1, 0, 0], probabilities=chances([0.55, 0.6, 0.95, 0.85]))
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 1, 1]
    assert found.confidence[5] == pytest.approx(0.575)
    assert found.accuracy[5] == 0.5
    assert math.isnan(found.accuracy[0])
    expected = (2 * 0.075 + 0.15 + 0.05) / 4
    assert found.error == pytest.approx(expected)


def test_the_error_vanishes_where_probabilities_are_right() -> None:
    labels = [0] * 8 + [1] * 2
    assert reliability(labels=labels, probabilities=chances([0.8] * 10)).error == pytest.approx(0)
    assert reliability(labels=[0] * 4, probabilities=chances([1.0] * 4)).error == 0


def test_the_error_is_the_weighted_gap_of_every_bin() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), size=500)
    labels = rng.integers(0, 5, 500)
    found = reliability(labels=labels, probabilities=probabilities, bins=15)
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    gaps = 0.0
    for low, high in zip(found.edges[:-1], found.edges[1:], strict=True):
        inside = (sure > low) & (sure <= high)
        if inside.any():
            gaps += inside.mean() * abs(sure[inside].mean() - right[inside].mean())
    assert found.error == pytest.approx(gaps)
    assert found.counts.sum() == 500


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="2 labels, 1 probabilities"):
        reliability(labels=[0, 1], probabilities=chances([0.5]))


def test_the_area_is_scikit_learns_and_the_curve_starts_above_all() -> None:
    rng = np.random.default_rng(1)
    positive = rng.random(300) < 0.3
    scores = rng.normal(size=300).round(1) + positive
    curve = roc(positive=positive, scores=scores)
    assert curve is not None
    assert curve.area == pytest.approx(roc_auc_score(positive, scores))
    assert (curve.false_positive_rate[0], curve.true_positive_rate[0]) == (0, 0)
    assert (curve.false_positive_rate[-1], curve.true_positive_rate[-1]) == (1, 1)
    middle = len(curve.thresholds) // 2
    above = scores >= curve.thresholds[middle]
    assert curve.true_positive_rate[middle] == pytest.approx(above[positive].mean())


@pytest.mark.parametrize("positive", [[True, True], [False, False]])
def test_there_is_no_curve_of_one_kind(positive: list[bool]) -> None:
    assert roc(positive=positive, scores=[0.1, 0.2]) is None
