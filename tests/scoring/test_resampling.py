import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from dr.scoring.kappa import quadratic_weighted_kappa
from dr.scoring.resampling import kappa_draws, kappa_of_sums, patient_sums


def predictions(
    seed: int, *, patients: int, models: int = 2
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, grades and patients of one to three records a patient."""
    random = np.random.default_rng(seed)
    owners = np.repeat(np.arange(patients), random.integers(1, 4, patients))
    labels = random.integers(0, 5, len(owners))
    noise = random.integers(-1, 2, (models, len(owners)))
    return labels, np.clip(labels + noise, 0, 4), random.permutation(owners)


@given(st.integers(0, 2**32), st.integers(2, 60))
def test_kappa_of_sums_is_that_of_scikit_learn(seed, patients):
    labels, grades, owners = predictions(seed, patients=patients)
    found = kappa_of_sums(patient_sums(labels, grades, owners).sum(axis=0))
    for own, kappa in zip(grades, found, strict=True):
        expected = cohen_kappa_score(labels, own, weights="quadratic", labels=range(5))
        np.testing.assert_allclose(kappa, expected, atol=1e-9)


def test_undefined_kappa_is_nan_and_not_one():
    same = np.zeros(6, dtype=int)
    sums = patient_sums(same, same[None], np.arange(6))
    assert np.isnan(kappa_of_sums(sums.sum(axis=0))).all()


def test_draws_are_those_of_resampling_whole_patients_by_hand():
    labels, grades, owners = predictions(3, patients=25)
    draws = kappa_draws(patient_sums(labels, grades, owners), draws=6, seed=11)
    random = np.random.default_rng(11)
    for row in draws:
        chosen = random.integers(25, size=25)
        records = np.concatenate([np.flatnonzero(owners == patient) for patient in chosen])
        expected = [quadratic_weighted_kappa(labels[records], own[records]) for own in grades]
        np.testing.assert_allclose(row, expected, atol=1e-9)


def test_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch: pytest.MonkeyPatch):
    sums = patient_sums(*predictions(5, patients=30))
    whole = kappa_draws(sums, draws=50)
    monkeypatch.setattr("dr.scoring.resampling._CHUNK", 70)
    np.testing.assert_array_equal(kappa_draws(sums, draws=50), whole)
    assert not np.array_equal(kappa_draws(sums, draws=50, seed=1), whole)
