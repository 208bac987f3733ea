"""How far the probabilities of a set of predictions can be believed, and what they rank."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dr.scoring.kappa import grades_array
from dr.scoring.metrics import grade_of

BINS = 10


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Records by how sure the model was of its grade, in equal bins from 0 to 1.

    `edges` float64 `[bins + 1]`; `counts` int64 `[bins]`; `confidence` and `accuracy` float64
    `[bins]`: the mean probability of the predicted grade, and the share of records that have it,
    `nan` in an empty bin. `error` is the expected calibration error: the mean distance of the two
    over all records.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    error: float


def reliability(*, labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> Reliability:
    """Reliability of the predicted grade (top label) of N records.

    `labels` int `[N]`, `probabilities` float `[N, 5]`. Guo et al. 2017, On calibration of modern
    neural networks. Raises `ValueError` for bad shapes or values.
    """
    truth, grades = grades_array(labels, what="labels"), grade_of(probabilities)
    if len(truth) != len(grades):
        raise ValueError(f"{len(truth)} labels, {len(grades)} probabilities: give as many")
    sure = np.asarray(probabilities, dtype=np.float64).max(axis=1).clip(0, 1)
    edges = np.linspace(0, 1, bins + 1)
    place = np.digitize(sure, edges[1:-1], right=True)
    counts = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, values, minlength=bins) for values in (sure, truth == grades)]
    with np.errstate(invalid="ignore"):
        confidence, accuracy = (total / counts for total in sums)
    error = float(np.abs(sums[0] - sums[1]).sum() / len(truth))
    return Reliability(
        edges=edges, counts=counts, confidence=confidence, accuracy=accuracy, error=error
    )


@dataclass(frozen=True, kw_only=True)
class Roc:
    """A receiver operating characteristic: float64 `[points]` each, from (0, 0) to (1, 1).

    At `thresholds[i]` and above a record counts as positive; the first is infinite. `area` lies
    under the curve.
    """

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    area: float


def roc(*, positive: ArrayLike, scores: ArrayLike) -> Roc | None:
    """The ROC of `scores` float `[N]` for `positive` bool `[N]`; None where all are alike."""
    from sklearn.metrics import auc, roc_curve

    truth = np.asarray(positive, dtype=bool)
    if truth.all() or not truth.any():
        return None
    false, true, thresholds = roc_curve(truth, np.asarray(scores, dtype=np.float64))
    area = float(auc(false, true))
    assert not math.isnan(area)
    return Roc(false_positive_rate=false, true_positive_rate=true, thresholds=thresholds, area=area)
