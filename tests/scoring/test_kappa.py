import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from dr.scoring.kappa import confusion_matrix, kappa_of_confusion, quadratic_weighted_kappa

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60).map(
    lambda pairs: tuple(np.array(pairs).T)
)


@given(PAIRS)
def test_confusion_matrix_is_sklearns(pair):
    labels, grades = pair
    ours = confusion_matrix(labels, grades)
    assert ours.dtype == np.int64
    np.testing.assert_array_equal(ours, sklearn_confusion(labels, grades, labels=range(5)))


@given(PAIRS)
def test_kappa_is_sklearns(pair):
    labels, grades = pair
    ours = quadratic_weighted_kappa(labels, grades)
    if len({*labels, *grades}) == 1:
        assert math.isnan(ours)
        return
    theirs = cohen_kappa_score(labels, grades, weights="quadratic", labels=range(5))
    assert ours == pytest.approx(theirs, abs=1e-12)


@given(PAIRS)
def test_kappa_is_symmetric_bounded_and_blind_to_order(pair):
    labels, grades = pair
    kappa = quadratic_weighted_kappa(labels, grades)
    if math.isnan(kappa):
        return
    assert -1 - 1e-12 <= kappa <= 1
    assert quadratic_weighted_kappa(grades, labels) == pytest.approx(kappa, abs=1e-12)
    assert quadratic_weighted_kappa(labels[::-1], grades[::-1]) == pytest.approx(kappa, abs=1e-12)


@pytest.mark.parametrize(
    ("matrix", "kappa"),
    [
        # Row totals 2, 1, 1 and column totals 1, 1, 2 of 4 records: observed 4 + 1 + 1 = 6,
        # expected (1 * (2 + 1 + 2 + 1) + 4 * (4 + 1)) / 4 = 6.5.
        ([[1, 0, 1], [0, 0, 1], [0, 1, 0]], 1 - 6 / 6.5),
        ([[5, 0], [0, 5]], 1.0),
        ([[0, 5], [5, 0]], -1.0),
        ([[2, 2], [2, 2]], 0.0),
        ([[0, 3], [0, 0]], 0.0),
        (np.diag([3, 1, 4, 1, 5]), 1.0),
        (np.fliplr(np.eye(5)), -1.0),
    ],
)
def test_kappa_of_tables_worked_by_hand(matrix, kappa):
    assert kappa_of_confusion(matrix) == pytest.approx(kappa, abs=1e-15)


@pytest.mark.parametrize("grade", range(5))
def test_kappa_of_one_grade_alone_is_undefined(grade):
    assert math.isnan(quadratic_weighted_kappa([grade] * 3, [grade] * 3))


def test_kappa_does_not_decompose_over_batches():
    labels = np.array([0, 0, 0, 1, 2, 2, 3, 4])
    grades = np.array([0, 1, 0, 0, 2, 3, 2, 4])
    whole = quadratic_weighted_kappa(labels, grades)
    halves = [quadratic_weighted_kappa(labels[s], grades[s]) for s in (slice(4), slice(4, 8))]
    assert whole == pytest.approx(cohen_kappa_score(labels, grades, weights="quadratic"))
    assert whole - np.mean(halves) > 0.3
    table = confusion_matrix(labels[:4], grades[:4]) + confusion_matrix(labels[4:], grades[4:])
    assert kappa_of_confusion(table) == whole


def test_small_unsigned_integers_do_not_overflow():
    labels = np.arange(5, dtype=np.uint8).repeat(100)
    assert confusion_matrix(labels, labels).diagonal().tolist() == [100] * 5
    assert confusion_matrix([29], np.array([29], dtype=np.uint8), classes=30)[29, 29] == 1


@pytest.mark.parametrize(
    ("labels", "grades", "message"),
    [
        ([], [], "labels have the shape"),
        ([0, 1], [0], "2 labels, 1 predicted grades"),
        ([0, 5, 7], [0, 1, 2], "labels hold 5, 7: grades go from 0 to 4"),
        ([0, 1], [-1, 1], "predicted grades hold -1"),
        ([0.5, 1.0], [0, 1], "labels are float64: give integers"),
        ([[0, 1]], [[0, 1]], r"labels have the shape \(1, 2\)"),
    ],
)
def test_bad_grades_are_refused(labels, grades, message):
    with pytest.raises(ValueError, match=message):
        quadratic_weighted_kappa(labels, grades)


@pytest.mark.parametrize(
    "matrix", [np.zeros((5, 5)), np.ones((4, 5)), [[1, -1], [0, 1]], [[math.nan, 0], [0, 1]]]
)
def test_bad_tables_are_refused(matrix):
    with pytest.raises(ValueError, match="confusion matrix"):
        kappa_of_confusion(matrix)
