"""All that is told of one set of predictions: grade by grade, referable or not, calibration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dr.config import GRADES
from dr.scoring.intervals import Interval, interval
from dr.scoring.kappa import confusion_matrix
from dr.scoring.metrics import REFERABLE, area_under_roc, grade_of, macro_auc
from dr.scoring.resampling import DRAWS, kappa_draws, kappa_of_sums, patient_sums, patient_weights

BINS = 15
Values = NDArray[np.float64]
Grades = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Predictions of N records: `labels` int64 `[N]`, `scores` `[N]` in [0, 4], `probabilities`
    `[N, 5]`, `patients` `[N]` numbered from 0, `folds` int64 `[N]`.
    """

    labels: Grades
    scores: Values
    probabilities: Values
    patients: Grades
    folds: Grades

    @property
    def grades(self) -> Grades:
        """The most probable grade of each record."""
        return grade_of(self.probabilities)

    @property
    def referable(self) -> NDArray[np.bool_]:
        """Whether each label is referable retinopathy (grade 2 or more)."""
        referable: NDArray[np.bool_] = self.labels >= REFERABLE
        return referable

    @property
    def referable_chance(self) -> Values:
        """The probability of referable retinopathy, `[N]`."""
        chance: Values = self.probabilities[:, REFERABLE:].sum(axis=1)
        return chance

    @property
    def patient_count(self) -> int:
        """How many patients there are."""
        return int(self.patients.max()) + 1

    def part(self, chosen: NDArray[np.bool_]) -> "Predicted":
        """The predictions of some records."""
        _, patients = np.unique(self.patients[chosen], return_inverse=True)
        return Predicted(
            labels=self.labels[chosen],
            scores=self.scores[chosen],
            probabilities=self.probabilities[chosen],
            patients=patients,
            folds=self.folds[chosen],
        )


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """Sensitivity and specificity for referable retinopathy at a threshold of its probability.

    `asked` is the specificity or sensitivity that thresholds were to reach on the other folds.
    """

    name: str
    asked: float
    sensitivity: Interval
    specificity: Interval


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Predictions in bins of their confidence, all arrays `[bins]`, empty bins left out."""

    confidence: Values
    accuracy: Values
    records: NDArray[np.int64]

    @property
    def error(self) -> float:
        """Expected calibration error: the mean gap, weighted by records (Guo et al., 2017)."""
        gaps = np.abs(self.confidence - self.accuracy)
        return float((gaps * self.records).sum() / self.records.sum())


def qwk_interval(predicted: Predicted, grades: Grades, *, draws: int = DRAWS) -> Interval:
    """Kappa of `grades` `[N]` with its interval over patients."""
    sums = patient_sums(predicted.labels, grades[None], predicted.patients)
    value = float(kappa_of_sums(sums.sum(axis=0, dtype=np.float64))[0])
    drawn = kappa_draws(sums, draws=draws)[:, 0]
    return interval(value, drawn, patients=predicted.patient_count)


def share_interval(
    hits: NDArray[np.bool_], patients: Grades, *, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """The share of `hits` `[N]` with its interval over patients; `nan` of no records."""
    if len(hits) == 0:
        return Interval(math.nan)
    _, owners = np.unique(patients, return_inverse=True)
    table = np.stack([np.bincount(owners, weights=hits), np.bincount(owners)], axis=1)
    parts = patient_weights(len(table), draws=draws, generator=np.random.default_rng(seed))
    drawn = np.concatenate([weights @ table for weights in parts])
    value = float(np.mean(hits))
    return interval(value, drawn[:, 0] / drawn[:, 1], patients=len(table))


def auc_draws(
    positive: NDArray[np.bool_], scores: Values, patients: Grades, *, draws: int, seed: int = 0
) -> Values:
    """The area under the ROC curve of resamples of the patients: `[draws]`.

    `positive` and `scores` are `[N]`, `patients` `[N]` numbered from 0. Equal scores count half;
    a resample without positives or without negatives is `nan`.
    """
    order = np.argsort(scores, kind="stable")
    _, group = np.unique(scores[order], return_inverse=True)
    first = np.searchsorted(group, group, side="left")
    last = np.searchsorted(group, group, side="right")
    owners, hits = patients[order], positive[order]
    generator = np.random.default_rng(seed)
    parts = patient_weights(int(patients.max()) + 1, draws=draws, generator=generator)
    return np.concatenate([_aucs(part[:, owners], hits, first, last) for part in parts])


def _aucs(
    weights: NDArray[np.float32],
    positive: NDArray[np.bool_],
    first: NDArray[np.intp],
    last: NDArray[np.intp],
) -> Values:
    """Of records in the order of their scores: those from `first` to `last` share their score."""
    negatives = np.cumsum(np.where(positive, 0, weights), axis=1, dtype=np.float64)
    below = np.concatenate([np.zeros((len(weights), 1)), negatives], axis=1)
    beaten = (below[:, first] + below[:, last]) / 2
    own = np.where(positive, weights, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        areas: Values = (own * beaten).sum(axis=1) / (own.sum(axis=1) * below[:, -1])
    return areas


def referable_auc(predicted: Predicted, *, draws: int = DRAWS) -> Interval:
    """The area under the ROC curve for referable retinopathy; `nan` where all labels are alike."""
    if predicted.referable.all() or not predicted.referable.any():
        return Interval(math.nan)
    value = area_under_roc(predicted.referable, predicted.referable_chance)
    drawn = auc_draws(
        predicted.referable, predicted.referable_chance, predicted.patients, draws=draws
    )
    return interval(value, drawn, patients=predicted.patient_count)


def macro_auc_interval(predicted: Predicted, *, draws: int = DRAWS) -> Interval:
    """The mean one-vs-rest area under the ROC curve, over the grades that occur and are not all."""
    counts = np.bincount(predicted.labels, minlength=GRADES)
    kept = [grade for grade in range(GRADES) if 0 < counts[grade] < len(predicted.labels)]
    if not kept:
        return Interval(math.nan)
    drawn = [
        auc_draws(
            predicted.labels == grade,
            predicted.probabilities[:, grade],
            predicted.patients,
            draws=draws,
        )
        for grade in kept
    ]
    value = macro_auc(predicted.labels, predicted.probabilities)
    return interval(value, np.mean(drawn, axis=0), patients=predicted.patient_count)


def recall_by_grade(predicted: Predicted) -> list[Interval]:
    """Of the records of each grade, the share that was graded so, with intervals: `[5]`."""
    grades = predicted.grades
    return [
        share_interval(grades[own] == grade, predicted.patients[own])
        for grade in range(GRADES)
        for own in [predicted.labels == grade]
    ]


def confusion(predicted: Predicted) -> NDArray[np.int64]:
    """Counts by label (row) and predicted grade (column): `[5, 5]`."""
    return confusion_matrix(predicted.labels, predicted.grades)


def reliability(predicted: Predicted, *, bins: int = BINS) -> Reliability:
    """How often the predicted grade is right, by how probable it was held, in equal-width bins."""
    confidence = predicted.probabilities.max(axis=1)
    right = predicted.grades == predicted.labels
    number = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    counts = np.bincount(number, minlength=bins)
    kept = counts > 0
    return Reliability(
        confidence=np.bincount(number, weights=confidence, minlength=bins)[kept] / counts[kept],
        accuracy=np.bincount(number, weights=right, minlength=bins)[kept] / counts[kept],
        records=counts[kept],
    )


def threshold_of_specificity(healthy: Values, asked: float) -> float:
    """The lowest threshold that leaves a share `asked` of the chances `healthy` `[N]` below it."""
    needed = math.ceil(asked * len(healthy))
    return float(np.nextafter(np.sort(healthy)[needed - 1], np.inf)) if needed else -math.inf


def threshold_of_sensitivity(ill: Values, asked: float) -> float:
    """The highest threshold that a share `asked` of the chances `ill` `[N]` reaches."""
    needed = math.ceil(asked * len(ill))
    return float(np.sort(ill)[len(ill) - needed]) if needed else math.inf


def operating_point(
    predicted: Predicted, *, specificity: float | None = None, sensitivity: float | None = None
) -> OperatingPoint:
    """Sensitivity and specificity, at each fold's threshold from the other folds.

    Exactly one of `specificity` and `sensitivity` is given. With a single fold the threshold comes
    from the very records that it is applied to, which `name` says.
    """
    asked = sensitivity if specificity is None else specificity
    assert asked is not None
    positive = np.zeros(len(predicted.labels), dtype=bool)
    folds = np.unique(predicted.folds)
    for fold in folds:
        own = predicted.folds == fold
        others = ~own if len(folds) > 1 else own
        ill, healthy = (
            predicted.referable_chance[others & (predicted.referable == kind)]
            for kind in (True, False)
        )
        if specificity is not None:
            threshold = threshold_of_specificity(healthy, specificity)
        else:
            threshold = threshold_of_sensitivity(ill, asked)
        positive[own] = predicted.referable_chance[own] >= threshold
    kind = "specificity" if sensitivity is None else "sensitivity"
    fitted = "" if len(folds) > 1 else ", fitted on these very records"
    ill = predicted.referable
    return OperatingPoint(
        name=f"{kind} {asked:.0%}{fitted}",
        asked=asked,
        sensitivity=share_interval(positive[ill], predicted.patients[ill]),
        specificity=share_interval(~positive[~ill], predicted.patients[~ill]),
    )


def by_subgroup(
    predicted: Predicted, groups: NDArray[np.object_], *, draws: int = DRAWS
) -> Mapping[str, tuple[int, Interval]]:
    """Records and kappa with its interval in each group of `groups` `[N]`, by the group's name."""
    found = {}
    for name in sorted(set(groups.tolist()), key=str):
        part = predicted.part(groups == name)
        found[str(name)] = (len(part.labels), qwk_interval(part, part.grades, draws=draws))
    return found
