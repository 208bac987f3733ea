import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dr.scoring.intervals import difference, interval, p_of_draws

NORMAL = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)


@pytest.mark.parametrize("patients", [5, 30, 1000])
def test_an_interval_reaches_as_far_as_students_t(patients):
    error = math.sqrt((patients - 1) / patients)  # what the bootstrap of a mean gives
    found = interval(2.0, 2.0 + error * NORMAL, patients=patients)
    low, high = stats.t.interval(0.95, patients - 1, loc=2.0)
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-2)


@pytest.mark.parametrize("patients", [8, 200])
@given(value=st.floats(-4, 4))
def test_the_p_value_says_whether_the_interval_holds_zero(patients, value):
    found = difference(value, value + NORMAL, patients=patients)
    if abs(found.p_value - 0.05) > 0.002:
        assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high)


def test_the_p_value_of_many_patients_is_that_of_a_z_test():
    for value in (0.0, 0.5, 1.5, 2.5):
        expected = 2 * stats.norm.sf(value)
        found = p_of_draws(value + NORMAL, patients=1_000_000)
        assert found == pytest.approx(expected, abs=1e-3)


def test_draws_without_any_difference_give_a_p_value_of_one():
    found = difference(0.0, np.zeros(500), patients=40)
    assert (found.low, found.high, found.p_value) == (0.0, 0.0, pytest.approx(1.0, abs=0.01))


def test_a_p_value_is_never_zero():
    assert 0 < p_of_draws(np.full(1000, 3.0), patients=50) < 0.01


def test_there_is_no_interval_where_many_draws_are_undefined():
    draws = np.where(np.arange(100) < 5, np.nan, 0.5)
    assert math.isnan(interval(0.5, draws, patients=30).low)
    assert math.isnan(difference(0.5, draws, patients=30).p_value)
    assert math.isnan(interval(0.5, np.full(100, 0.5), patients=1).low)
