"""Quadratic weighted kappa, the metric every result is judged by.

J. Cohen, "Weighted kappa: nominal scale agreement with provision for scaled disagreement or
partial credit", Psychological Bulletin 70 (1968).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dr.config import GRADES


def grades_array(values: ArrayLike, *, what: str, classes: int = GRADES) -> NDArray[np.int64]:
    """Check grades and return them as int64 [N].

    Raises `ValueError`, naming `what`, for anything but a non-empty one-dimensional array of
    integers from 0 to `classes - 1`.
    """
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{what} have the shape {array.shape}: give a grade for each record")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{what} are {array.dtype}: give integers from 0 to {classes - 1}")
    outside = np.unique(array[(array < 0) | (array >= classes)])
    if outside.size:
        found = ", ".join(map(str, outside[:5]))
        raise ValueError(f"{what} hold {found}: grades go from 0 to {classes - 1}")
    return array.astype(np.int64)


def confusion_matrix(
    labels: ArrayLike, grades: ArrayLike, *, classes: int = GRADES
) -> NDArray[np.int64]:
    """Count records by label (row) and predicted grade (column): int64 [classes, classes].

    Raises `ValueError` for empty input, different lengths, and values outside 0 to
    `classes - 1`.
    """
    rows = grades_array(labels, what="labels", classes=classes)
    columns = grades_array(grades, what="predicted grades", classes=classes)
    if rows.size != columns.size:
        raise ValueError(f"{rows.size} labels, {columns.size} predicted grades: give as many")
    counts = np.bincount(rows * classes + columns, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def kappa_of_confusion(matrix: ArrayLike) -> float:
    """Quadratic weighted kappa, in [-1, 1], of a square table of counts (rows: labels).

    `nan` where it is undefined: no disagreement can be expected, because every label and every
    prediction is the same grade. Raises `ValueError` for a table that is not square, empty, or
    holds a negative or non-finite count.
    """
    counts = np.asarray(matrix, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"confusion matrix has the shape {counts.shape}: give a square one")
    if not (np.isfinite(counts).all() and (counts >= 0).all() and counts.sum() > 0):
        raise ValueError("confusion matrix must hold counts of at least 0 that are not all 0")
    grade = np.arange(len(counts))
    weights = np.square(grade[:, None] - grade[None, :])
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    disagreement = float((weights * expected).sum())
    if disagreement == 0:
        return float("nan")
    return 1 - float((weights * counts).sum()) / disagreement


def quadratic_weighted_kappa(labels: ArrayLike, grades: ArrayLike) -> float:
    """Quadratic weighted kappa of integer grades 0 to 4, each [N].

    It belongs to a whole set of records: the mean over batches or folds is another number.
    `nan` where it is undefined; raises `ValueError` as `confusion_matrix` does.
    """
    return kappa_of_confusion(confusion_matrix(labels, grades))
