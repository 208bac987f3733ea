"""Intervals and p-values from draws of the bootstrap."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
DEFINED = 0.99
"""The share of draws that must be defined for an interval."""
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value and its 95% interval; `low` and `high` are `nan` where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Difference(Interval):
    """A difference, its 95% interval, and the two-sided `p_value` of there being none."""

    p_value: float = math.nan


def interval(value: float, draws: Values, *, patients: int) -> Interval:
    """The 95% interval of `value` from its bootstrap `draws` `[draws]` over `patients`.

    Hesterberg's expanded percentile interval: percentiles as far out as Student's t asks for, or
    small samples would give intervals that are too short (What Teachers Should Know About the
    Bootstrap, The American Statistician 69, 2015). No interval where more than 1% of the draws
    are undefined.
    """
    from scipy import stats

    kept = draws[np.isfinite(draws)]
    if patients < 2 or len(kept) < DEFINED * len(draws):
        return Interval(value)
    reach = stats.t.ppf((1 + LEVEL) / 2, patients - 1) * math.sqrt(patients / (patients - 1))
    tail = float(stats.norm.sf(reach))
    low, high = np.quantile(kept, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def difference(value: float, draws: Values, *, patients: int) -> Difference:
    """A paired difference `value`, from its `draws` `[draws]`, as `interval` does.

    The p-value is the one whose interval would just touch zero.
    """
    bounds = interval(value, draws, patients=patients)
    if math.isnan(bounds.low):
        return Difference(value)
    return Difference(value, bounds.low, bounds.high, p_of_draws(draws, patients=patients))


def p_of_draws(draws: Values, *, patients: int) -> float:
    """The two-sided p-value of zero under `draws` `[draws]` of a difference.

    It is at least that of one draw beyond zero: more cannot be told from so many.
    """
    from scipy import stats

    kept = draws[np.isfinite(draws)]
    below, ties = (kept < 0).sum(), (kept == 0).sum()
    share = (min(below, len(kept) - below - ties) + ties / 2 + 0.5) / (len(kept) + 1)
    reach = -stats.norm.ppf(min(share, 0.5)) / math.sqrt(patients / (patients - 1))
    return float(2 * stats.t.sf(reach, patients - 1))
