"""The scores of a set of predictions, and their summary over folds."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dr.config import GRADES
from dr.scoring.kappa import confusion_matrix, grades_array, kappa_of_confusion

SCORES = ("qwk", "accuracy", "loss", "macro_auc", "sensitivity", "specificity")
REFERABLE = 2
"""The lowest grade of referable retinopathy: moderate non-proliferative (ICDR 2)."""


def _probabilities_array(probabilities: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(probabilities, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != GRADES or len(array) == 0:
        raise ValueError(f"probabilities have the shape {array.shape}: give [N, {GRADES}]")
    wrong = ~((array >= 0) & (array <= 1 + 1e-3)).all(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        found = array[row].tolist()
        raise ValueError(f"probabilities of record {row} are {found}: each must be in [0, 1]")
    return array


def grade_of(probabilities: ArrayLike) -> NDArray[np.int64]:
    """Predicted grade of each record: the most probable one, the lower of equals.

    `probabilities` is float [N, 5]; returns int64 [N]. Raises `ValueError` for another shape or
    for values outside [0, 1], `nan` among them.
    """
    grades: NDArray[np.int64] = _probabilities_array(probabilities).argmax(axis=1).astype(np.int64)
    return grades


def score_predictions(
    *, labels: ArrayLike, probabilities: ArrayLike, losses: ArrayLike | None
) -> dict[str, float]:
    """All of `SCORES` for predictions of N records.

    `labels` int [N], `probabilities` float [N, 5], `losses` float [N] or None. QWK, accuracy,
    and sensitivity and specificity for referable retinopathy (grade 2 and above) are those of
    the predicted grade; `macro_auc` is the mean of the one-vs-rest areas under the ROC curve
    over the grades that some records have and others have not; `loss` is the mean. A score that
    the records leave undefined is `nan`. Raises `ValueError` for bad shapes or values.
    """
    truth = grades_array(labels, what="labels")
    chances = _probabilities_array(probabilities)
    if len(truth) != len(chances):
        raise ValueError(f"{len(truth)} labels, {len(chances)} probabilities: give as many")
    table = confusion_matrix(truth, grade_of(chances))
    healthy, referable = table[:REFERABLE], table[REFERABLE:]
    return {
        "qwk": kappa_of_confusion(table),
        "accuracy": float(np.trace(table) / table.sum()),
        "loss": _mean_loss(losses, len(truth)),
        "macro_auc": macro_auc(truth, chances),
        "sensitivity": _share(referable[:, REFERABLE:].sum(), referable.sum()),
        "specificity": _share(healthy[:, :REFERABLE].sum(), healthy.sum()),
    }


def _share(part: np.int64, whole: np.int64) -> float:
    return float(part / whole) if whole else math.nan


def _mean_loss(losses: ArrayLike | None, records: int) -> float:
    if losses is None:
        return math.nan
    array = np.asarray(losses, dtype=np.float64)
    if array.shape != (records,):
        raise ValueError(f"losses have the shape {array.shape}: give one for {records} records")
    return float(array.mean())


def macro_auc(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Mean one-vs-rest area under the ROC curve, over the grades that occur and are not all.

    `labels` int64 [N], `probabilities` float64 [N, 5]; `nan` where there is no such grade.
    """
    counts = np.bincount(labels, minlength=GRADES)
    areas = [
        area_under_roc(labels == grade, probabilities[:, grade])
        for grade in range(GRADES)
        if 0 < counts[grade] < len(labels)
    ]
    return float(np.mean(areas)) if areas else math.nan


def area_under_roc(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Mann and Whitney's U over the number of pairs; ties share their mean rank."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    own = int(positive.sum())
    above = float(ranks[positive].sum()) - own * (own + 1) / 2
    return above / (own * (len(scores) - own))


def summarize(
    scores: Mapping[int, Mapping[str, float]],
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and sample standard deviation (n - 1) of each of `SCORES` over folds.

    A fold's `nan` makes that score's mean and deviation `nan`: an undefined fold is not dropped
    in silence. The deviation of one fold is `nan`. Raises `ValueError` without folds, or where a
    fold lacks a score.
    """
    if not scores:
        raise ValueError("no fold's scores to summarize: give those of one fold at least")
    for fold, own in scores.items():
        lacking = [name for name in SCORES if name not in own]
        if lacking:
            raise ValueError(f"fold {fold} lacks {', '.join(lacking)}: give all of {SCORES}")
    table = np.array([[scores[fold][name] for name in SCORES] for fold in sorted(scores)])
    with np.errstate(invalid="ignore"):
        mean = table.mean(axis=0)
        sd = table.std(axis=0, ddof=1) if len(table) > 1 else np.full_like(mean, math.nan)
    return _named(mean), _named(sd)


def _named(values: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(SCORES, values.tolist(), strict=True))


def to_json(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Scores as JSON can hold them: `nan` and infinity become null."""
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}


def from_json(scores: Mapping[str, float | None]) -> dict[str, float]:
    """The reverse of `to_json`: null becomes `nan`."""
    return {name: math.nan if value is None else value for name, value in scores.items()}
