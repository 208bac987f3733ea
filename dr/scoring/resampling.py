"""Quadratic weighted kappa of many resamples of the patients, for many models at once.

Kappa of integer grades is a function of six sums over records (their number, and the sums of
label, grade, label^2, grade^2 and label x grade), and so a resample is a product of matrices.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
SUMS = 6
_CHUNK = 16_000_000
"""Weights (draws x patients) that are held at once."""

Sums = NDArray[np.float32]
Values = NDArray[np.float64]


def patient_sums(
    labels: NDArray[np.integer], grades: NDArray[np.integer], patients: NDArray[np.integer]
) -> Sums:
    """What kappa needs of each patient and model: float32 `[patients, models, 6]`.

    `labels` int `[records]` and `grades` int `[models, records]` are from 0 to 4, `patients` int
    `[records]` numbers each record's patient from 0, leaving none out.
    """
    order = np.argsort(patients, kind="stable")
    starts = np.flatnonzero(np.diff(patients[order], prepend=-1))
    y, g = labels[order].astype(np.int64)[None, :], grades[:, order].astype(np.int64)
    parts = (np.ones_like(y), y, g, y**2, g**2, y * g)
    sums = np.empty((len(starts), len(g), SUMS), np.float32)
    for place, part in enumerate(parts):
        sums[:, :, place] = np.add.reduceat(part, starts, axis=1).T
    return sums


def kappa_of_sums(sums: NDArray[np.floating]) -> Values:
    """Kappa float64 `[...]` of sums over records `[..., 6]`; `nan` where it is undefined."""
    n, y, g, yy, gg, yg = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = yy + gg - 2 * y * g / n
        kappa: Values = 1 - (yy + gg - 2 * yg) / np.where(expected > 1e-9 * n, expected, np.nan)
    return kappa


def patient_weights(
    patients: int, *, draws: int, generator: np.random.Generator
) -> Iterator[NDArray[np.float32]]:
    """How often each resample holds each patient, float32 `[some draws, patients]` at a time."""
    step = max(1, _CHUNK // patients)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        weights = np.empty((rows, patients), np.float32)
        for row in range(rows):
            drawn = generator.integers(patients, size=patients)
            weights[row] = np.bincount(drawn, minlength=patients)
        yield weights


def kappa_draws(sums: Sums, *, draws: int = DRAWS, seed: int = 0) -> Values:
    """Kappa of each model in `draws` resamples of the patients: float64 `[draws, models]`.

    Patients are drawn with replacement, all records of one together, and the same ones for all
    models (Efron and Tibshirani, An Introduction to the Bootstrap, 1993). `sums` is
    `patient_sums`. Undefined ones are `nan`. The same seed gives the same draws.
    """
    patients, models, _ = sums.shape
    flat = np.ascontiguousarray(sums.reshape(patients, models * SUMS))
    generator = np.random.default_rng(seed)
    parts = [
        kappa_of_sums((weights @ flat).reshape(-1, models, SUMS))
        for weights in patient_weights(patients, draws=draws, generator=generator)
    ]
    return np.concatenate(parts)
