import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix as reference_confusion
from sklearn.metrics import recall_score, roc_auc_score

from dr.scoring.detail import (
    Predicted,
    auc_draws,
    by_subgroup,
    confusion,
    macro_auc_interval,
    operating_point,
    qwk_interval,
    recall_by_grade,
    referable_auc,
    reliability,
    share_interval,
    threshold_of_sensitivity,
    threshold_of_specificity,
)
from dr.scoring.kappa import quadratic_weighted_kappa


def predictions(seed: int = 0, *, patients: int = 120, folds: int = 4) -> Predicted:
    random = np.random.default_rng(seed)
    owners = np.repeat(np.arange(patients), 2)
    labels = random.choice(5, size=2 * patients, p=[0.5, 0.15, 0.2, 0.1, 0.05])
    logits = random.normal(0, 1, (2 * patients, 5)) + 1.2 * np.eye(5)[labels]
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predicted(
        labels=labels,
        scores=chances @ np.arange(5),
        probabilities=chances,
        patients=owners,
        folds=owners % folds,
    )


def test_kappa_confusion_and_recall_are_the_references():
    found = predictions()
    value = qwk_interval(found, found.grades, draws=200)
    assert value.value == pytest.approx(quadratic_weighted_kappa(found.labels, found.grades))
    assert value.low < value.value < value.high
    np.testing.assert_array_equal(
        confusion(found), reference_confusion(found.labels, found.grades, labels=range(5))
    )
    recalls = recall_score(found.labels, found.grades, labels=range(5), average=None)
    assert [one.value for one in recall_by_grade(found)] == pytest.approx(recalls)


def test_a_grade_that_does_not_occur_has_no_recall():
    found = predictions().part(predictions().labels < 4)
    assert math.isnan(recall_by_grade(found)[4].value)


def test_areas_under_the_curve_are_those_of_scikit_learn():
    found = predictions(1)
    auc = referable_auc(found, draws=200)
    assert auc.value == pytest.approx(roc_auc_score(found.labels >= 2, found.referable_chance))
    assert auc.low < auc.value < auc.high
    macro = macro_auc_interval(found, draws=200)
    expected = roc_auc_score(found.labels, found.probabilities, multi_class="ovr")
    assert macro.value == pytest.approx(expected)
    assert macro.low < macro.value < macro.high


@given(st.integers(0, 2**32))
def test_drawn_areas_are_those_of_resampling_whole_patients_by_hand(seed):
    random = np.random.default_rng(seed)
    owners = np.sort(random.integers(0, 12, 40))
    _, owners = np.unique(owners, return_inverse=True)
    positive, scores = random.random(40) < 0.4, np.round(random.random(40), 1)
    count = int(owners.max()) + 1
    again = np.random.default_rng(9)
    for found in auc_draws(positive, scores, owners, draws=3, seed=9):
        chosen = again.integers(count, size=count)
        records = np.concatenate([np.flatnonzero(owners == own) for own in chosen])
        if len(set(positive[records])) < 2:
            assert math.isnan(found)
        else:
            assert found == pytest.approx(roc_auc_score(positive[records], scores[records]))


def test_a_share_of_independent_records_has_the_binomial_interval():
    hits = np.arange(400) % 4 == 0
    found = share_interval(hits, np.arange(400))
    error = math.sqrt(0.25 * 0.75 / 400)
    assert found.value == 0.25
    assert (found.low, found.high) == pytest.approx(
        (0.25 - 1.97 * error, 0.25 + 1.97 * error), abs=4e-3
    )


def test_both_eyes_alike_widen_the_interval_as_half_the_records_would():
    hits = np.repeat(np.arange(200) % 4 == 0, 2)
    together = share_interval(hits, np.repeat(np.arange(200), 2))
    apart = share_interval(hits, np.arange(400))
    ratio = (together.high - together.low) / (apart.high - apart.low)
    assert ratio == pytest.approx(math.sqrt(2), rel=0.1)


def test_reliability_by_hand():
    chances = np.zeros((4, 5))
    chances[:, 0], chances[:, 1] = [0.95, 0.91, 0.55, 0.52], [0.05, 0.09, 0.45, 0.48]
    found = Predicted(
        labels=np.array([0, 1, 0, 0]),
        scores=np.zeros(4),
        probabilities=chances,
        patients=np.arange(4),
        folds=np.zeros(4, dtype=int),
    )
    curve = reliability(found, bins=10)
    assert curve.records.tolist() == [2, 2]
    assert curve.confidence == pytest.approx([0.535, 0.93])
    assert curve.accuracy == pytest.approx([1.0, 0.5])
    assert curve.error == pytest.approx((0.465 + 0.43) / 2)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.05, 1))
def test_thresholds_reach_what_is_asked_and_no_more_than_needed(chances, asked):
    values = np.array(chances)
    high = threshold_of_specificity(values, asked)
    assert (values < high).mean() >= asked
    assert (values < np.nextafter(high, -np.inf)).mean() < asked
    low = threshold_of_sensitivity(values, asked)
    assert (values >= low).mean() >= asked
    assert (values >= np.nextafter(low, np.inf)).mean() < asked


def test_an_operating_point_takes_each_folds_threshold_from_the_others():
    found = predictions(3, patients=400)
    point = operating_point(found, specificity=0.9)
    assert point.specificity.value == pytest.approx(0.9, abs=0.05)
    positive = np.zeros(len(found.labels), dtype=bool)
    for fold in range(4):
        others = found.folds != fold
        threshold = threshold_of_specificity(found.referable_chance[others & ~found.referable], 0.9)
        own = found.folds == fold
        positive[own] = found.referable_chance[own] >= threshold
    assert point.sensitivity.value == positive[found.referable].mean()
    assert point.name == "specificity 90%"
    other = operating_point(found, sensitivity=0.8)
    assert other.sensitivity.value == pytest.approx(0.8, abs=0.06)


def test_one_fold_fits_on_itself_and_says_so():
    assert "on these very records" in operating_point(predictions(folds=1), sensitivity=0.9).name


def test_subgroups_have_their_own_records_and_kappa():
    found = predictions(4)
    cameras = np.where(found.patients % 3 == 0, "a", "b").astype(object)
    groups = by_subgroup(found, cameras, draws=100)
    assert list(groups) == ["a", "b"]
    for name, (records, kappa) in groups.items():
        own = cameras == name
        assert records == own.sum()
        expected = quadratic_weighted_kappa(found.labels[own], found.grades[own])
        assert kappa.value == pytest.approx(expected)
