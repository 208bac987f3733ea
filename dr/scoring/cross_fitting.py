"""What is fitted after training: on the other folds' predictions, applied to this fold's.

So no record's own label has a say in its grade through what is fitted here. It is not as good as
fresh data: the models of the other folds trained on this fold's patients, and whoever looks at many
such scores picks among them. What comes out is conditional on the predictions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dr.config import GRADES
from dr.scoring.resampling import kappa_of_sums

Values = NDArray[np.float64]
Grades = NDArray[np.int64]
Fit = Callable[[NDArray[np.bool_]], Values]

ROUNDING = np.arange(GRADES - 1) + 0.5
"""The thresholds of rounding to the next grade."""
_ROUNDS = 20
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class CrossFitted:
    """What was fitted for each fold on the others (`parameters` float64 `[folds, n]`, in the order
    of `folds`), and what came of it for each record (`values`, in the order of the records).
    """

    folds: NDArray[np.int64]
    parameters: Values
    values: NDArray[np.generic]


def fit_thresholds(labels: Grades, scores: Values) -> Values:
    """Four thresholds of scores `[N]` that give the best quadratic weighted kappa: `[4]`, rising.

    Each in turn is put where kappa is highest, between two different scores, until none moves;
    from rounding, and from the labels' own shares, of which the better end counts.
    """
    order = np.argsort(scores, kind="stable")
    y, s = labels[order].astype(np.float64), scores[order].astype(np.float64)
    starts = (np.searchsorted(s, ROUNDING), np.cumsum(np.bincount(labels, minlength=GRADES))[:-1])
    ends = [_climb(y, s, np.asarray(start, dtype=np.int64)) for start in starts]
    best = max(ends, key=lambda cuts: _kappa(y, cuts))
    return _between(s, best)


def _climb(y: Values, s: Values, cuts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cuts are numbers of sorted records below a threshold."""
    allowed = np.flatnonzero(np.diff(s, prepend=-np.inf, append=np.inf) > 0)
    for _ in range(_ROUNDS):
        before = cuts.copy()
        for place in range(len(cuts)):
            low = cuts[place - 1] if place else 0
            high = cuts[place + 1] if place + 1 < len(cuts) else len(y)
            inside = allowed[(allowed >= low) & (allowed <= high)]
            if len(inside):
                kappas = _kappas(y, cuts, place, inside)
                cuts[place] = inside[int(np.argmax(kappas))]
        if (cuts == before).all():
            break
    return cuts


def _kappas(
    y: Values, cuts: NDArray[np.int64], place: int, candidates: NDArray[np.int64]
) -> Values:
    """Kappa with the cut at `place` moved to each candidate: `[candidates]`."""
    rest = np.delete(cuts, place)
    ahead = np.concatenate([[0.0], np.cumsum(y)])
    n, total = float(len(y)), ahead[-1]
    g = sum((n - cut) for cut in rest) + (n - candidates)
    yg = sum((total - ahead[cut]) for cut in rest) + (total - ahead[candidates])
    # With grade = number of cuts below a record: g^2 = sum over cuts of (2 rank - 1).
    squares = sum((2 * rank + 1) * (n - cut) for rank, cut in _ranked(rest, place))
    gg = squares + (2 * place + 1) * (n - candidates)
    ones = np.ones_like(g)
    sums = np.stack([n * ones, total * ones, g, (y**2).sum() * ones, gg, yg], axis=-1)
    return np.nan_to_num(kappa_of_sums(sums), nan=-np.inf)


def _ranked(rest: NDArray[np.int64], place: int) -> list[tuple[int, int]]:
    """The rank of each other cut among all, from 0, and the cut."""
    return [(rank + (rank >= place), int(cut)) for rank, cut in enumerate(rest)]


def _kappa(y: Values, cuts: NDArray[np.int64]) -> float:
    return float(_kappas(y, cuts, 0, cuts[:1])[0])


def _between(s: Values, cuts: NDArray[np.int64]) -> Values:
    """Thresholds halfway between the scores beside each cut."""
    below = s[np.clip(cuts - 1, 0, len(s) - 1)]
    above = s[np.clip(cuts, 0, len(s) - 1)]
    middle = (below + above) / 2
    middle[cuts == 0] = -np.inf
    middle[cuts == len(s)] = np.inf
    return middle


def grades_by(thresholds: Values, scores: Values) -> Grades:
    """Grades int64 `[N]` of scores `[N]`: how many of the rising thresholds `[4]` lie below."""
    return np.searchsorted(thresholds, scores, side="right").astype(np.int64)


def fit_temperature(labels: Grades, probabilities: Values) -> float:
    """The temperature that gives probabilities `[N, 5]` the least log loss.

    Guo et al., On Calibration of Modern Neural Networks (2017), on the logarithms of the
    probabilities.
    """
    from scipy.optimize import minimize_scalar

    def loss(logarithm: float) -> float:
        heated = heat(probabilities, float(np.exp(logarithm)))
        return float(-np.log(np.maximum(heated[np.arange(len(labels)), labels], _TINY)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x))


def heat(probabilities: Values, temperature: float) -> Values:
    """Probabilities `[N, 5]` whose logarithms are divided by `temperature`."""
    logs = np.log(np.maximum(probabilities, _TINY)) / temperature
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    heated: Values = shares / shares.sum(axis=1, keepdims=True)
    return heated


def cross_fitted_grades(labels: Grades, scores: Values, folds: NDArray[np.int64]) -> CrossFitted:
    """Grades by thresholds fitted on the other folds' scores. Raises ValueError for one fold."""
    return _cross_fitted(
        folds,
        fit=lambda others: fit_thresholds(labels[others], scores[others]),
        apply=lambda thresholds, own: grades_by(thresholds, scores[own]),
    )


def cross_fitted_probabilities(
    labels: Grades, probabilities: Values, folds: NDArray[np.int64]
) -> CrossFitted:
    """Probabilities at a temperature fitted on the other folds. Raises ValueError for one fold."""
    return _cross_fitted(
        folds,
        fit=lambda others: np.array([fit_temperature(labels[others], probabilities[others])]),
        apply=lambda temperature, own: heat(probabilities[own], float(temperature[0])),
    )


def _cross_fitted(
    folds: NDArray[np.int64],
    *,
    fit: Fit,
    apply: Callable[[Values, NDArray[np.bool_]], NDArray[np.generic]],
) -> CrossFitted:
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise ValueError("one fold has no others to fit on: thresholds need two folds or more")
    parameters = [fit(folds != fold) for fold in numbers]
    parts = [apply(own, folds == fold) for own, fold in zip(parameters, numbers, strict=True)]
    values = np.empty((len(folds), *parts[0].shape[1:]), dtype=parts[0].dtype)
    for fold, part in zip(numbers, parts, strict=True):
        values[folds == fold] = part
    return CrossFitted(folds=numbers, parameters=np.array(parameters), values=values)
