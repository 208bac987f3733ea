"""Charts of a run's out-of-fold predictions: grade by grade, and their probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dr.config import GRADES
from dr.reporting.html.charts import Chart, Row
from dr.reporting.html.grade_charts import (
    bars_by_grade,
    confusion,
    reliability_diagram,
    roc_curve,
)
from dr.reporting.html.run_files import Predictions, RunFiles
from dr.reporting.html.tables import Cell, Table, number, table, text
from dr.scoring.kappa import confusion_matrix
from dr.scoring.metrics import REFERABLE, grade_of
from dr.scoring.reliability import Reliability, Roc, reliability, roc

GRADE_NAMES = ("0 none", "1 mild", "2 moderate", "3 severe", "4 proliferative")
"""Grades of the International Clinical Diabetic Retinopathy scale, in short."""
_SPREAD = ("regression", "huber")
_ROC_POINTS = 200


def grade_charts(predictions: Predictions) -> list[Chart]:
    """The confusion matrix, and recall and precision of every grade."""
    counts = confusion_matrix(predictions.labels, grade_of(predictions.probabilities))
    return [_confusion(counts), _recall_and_precision(counts)]


def _confusion(counts: NDArray[np.int64]) -> Chart:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows: list[Row] = [
        {
            "label": GRADE_NAMES[label],
            "grade": GRADE_NAMES[grade],
            "count": f"{counts[label, grade]:,}",
            "share": round(float(shares[label, grade]), 4),
            "percent": f"{shares[label, grade]:.0%}" if counts[label].sum() else "",
        }
        for label in range(GRADES)
        for grade in range(GRADES)
    ]
    right = f"{np.trace(counts):,} of {counts.sum():,} are graded right."
    return Chart(
        title="Confusion matrix",
        caption="Photographs by label (row) and predicted grade (column), and shares of the row.",
        spec=confusion(rows, description=f"Confusion matrix: {right}", grades=GRADE_NAMES),
        table=_confusion_table(counts),
    )


def _confusion_table(counts: NDArray[np.int64]) -> Table:
    rows = [
        [text(GRADE_NAMES[label]), *(_counted(counts[label], grade) for grade in range(GRADES))]
        for label in range(GRADES)
    ]
    return table("Labels (rows) by predicted grade", ["label", *GRADE_NAMES], rows)


def _counted(row: NDArray[np.int64], grade: int) -> Cell:
    share = f"{row[grade] / row.sum():.0%}" if row.sum() else ""
    return Cell(f"{row[grade]:,}", float(row[grade]), share)


def _recall_and_precision(counts: NDArray[np.int64]) -> Chart:
    right = np.diag(counts).astype(np.float64)
    with np.errstate(invalid="ignore"):
        recall, precision = right / counts.sum(axis=1), right / counts.sum(axis=0)
    rows = [
        {"grade": name, "measure": measure, "value": round(float(values[grade]), 4)}
        for grade, name in enumerate(GRADE_NAMES)
        for measure, values in (("recall", recall), ("precision", precision))
        if np.isfinite(values[grade])
    ]
    colours = {"recall": "var(--accent)", "precision": "var(--s1)"}
    return Chart(
        title="Recall and precision",
        caption="Recall: the share of a grade's photographs that get it. Precision: the share of "
        "those graded so that have it.",
        spec=bars_by_grade(
            rows, description="Recall and precision of every grade.", measures=colours
        ),
        table=_grade_table(counts, recall, precision),
    )


def _grade_table(
    counts: NDArray[np.int64], recall: NDArray[np.float64], precision: NDArray[np.float64]
) -> Table:
    rows = [
        [
            text(name),
            number(float(recall[grade])),
            number(float(precision[grade])),
            number(float(counts[grade].sum()), ",.0f"),
            number(float(counts[:, grade].sum()), ",.0f"),
        ]
        for grade, name in enumerate(GRADE_NAMES)
    ]
    columns = ["grade", "recall", "precision", "photographs", "graded so"]
    return table("Recall and precision by grade", columns, rows)


def probability_charts(files: RunFiles, predictions: Predictions) -> list[Chart]:
    """The reliability diagram, and the ROC of referable retinopathy where it is defined."""
    found = [_reliability(predictions), _referable(files, predictions)]
    return [chart for chart in found if chart is not None]


def calibration_error(predictions: Predictions) -> float:
    """Expected calibration error of the predicted grade."""
    return _reliability_of(predictions).error


def _reliability_of(predictions: Predictions) -> Reliability:
    return reliability(labels=predictions.labels, probabilities=predictions.probabilities)


def _reliability(predictions: Predictions) -> Chart:
    found = _reliability_of(predictions)
    rows = [
        {
            "bin": f"{found.edges[place]:.1f} to {found.edges[place + 1]:.1f}",
            "confidence": round(float(found.confidence[place]), 4),
            "accuracy": round(float(found.accuracy[place]), 4),
            "count": int(found.counts[place]),
        }
        for place in np.flatnonzero(found.counts)
    ]
    said = f"Expected calibration error {found.error:.3f}"
    return Chart(
        title="Calibration",
        caption=f"{said}. On the diagonal, probabilities are right as often as they say; below it, "
        "the model is too sure of itself.",
        spec=reliability_diagram(rows, description=f"Reliability diagram. {said}."),
        table=_reliability_table(rows),
    )


def _reliability_table(rows: Sequence[Row]) -> Table:
    cells = [
        [
            text(row["bin"]),
            number(row["confidence"]),
            number(row["accuracy"]),
            number(row["count"], ",d"),
        ]
        for row in rows
    ]
    columns = ["probability", "mean probability", "share that is right", "photographs"]
    return table("Calibration of the predicted grade", columns, cells)


def ranks_by_score(files: RunFiles) -> bool:
    """Whether the run's objective spreads a score over two grades instead of telling chances."""
    return files.settings.get("objective.name") in _SPREAD


def referable_roc(files: RunFiles, predictions: Predictions) -> Roc | None:
    """The ROC of grade 2 and above, ranked by its probability, or by the score (regression)."""
    ranked = predictions.probabilities[:, REFERABLE:].sum(axis=1)
    if ranks_by_score(files):
        ranked = predictions.scores
    return roc(positive=predictions.labels >= REFERABLE, scores=ranked)


def _referable(files: RunFiles, predictions: Predictions) -> Chart | None:
    curve = referable_roc(files, predictions)
    if curve is None:
        return None
    point = _operating_point(predictions)
    by = "the score" if ranks_by_score(files) else "the probability of grade 2 or above"
    rows = _roc_rows(curve, ceiling=GRADES - 1 if ranks_by_score(files) else 1)
    return Chart(
        title="Referable retinopathy (grade 2 and above)",
        caption=f"Area under the ROC curve {curve.area:.3f}, ranked by {by}. The ring: where the "
        f"predicted grades stand, sensitivity {point['sensitivity']:.2f} at specificity "
        f"{1 - point['false']:.2f}.",
        spec=roc_curve(rows, point, description=f"ROC curve, area {curve.area:.3f}."),
        table=_roc_table(rows),
    )


def _roc_rows(curve: Roc, *, ceiling: float) -> list[Row]:
    places = np.linspace(0, len(curve.thresholds) - 1, min(_ROC_POINTS, len(curve.thresholds)))
    return [
        {
            "place": order,
            "false": round(float(curve.false_positive_rate[place]), 4),
            "sensitivity": round(float(curve.true_positive_rate[place]), 4),
            "threshold": round(min(float(curve.thresholds[place]), ceiling), 4),
        }
        for order, place in enumerate(np.unique(places.round().astype(int)))
    ]


def _operating_point(predictions: Predictions) -> dict[str, Any]:
    graded = grade_of(predictions.probabilities) >= REFERABLE
    truth = predictions.labels >= REFERABLE
    return {
        "place": 0,
        "false": round(float(graded[~truth].mean()), 4),
        "sensitivity": round(float(graded[truth].mean()), 4),
    }


def _roc_table(rows: Sequence[Row]) -> Table:
    wanted = [0.8, 0.85, 0.9, 0.95, 0.98]
    cells = []
    for sensitivity in wanted:
        row = next(row for row in rows if row["sensitivity"] >= sensitivity)
        cells.append(
            [
                text(f"{sensitivity:.0%} at least"),
                number(row["sensitivity"]),
                number(1 - row["false"]),
                number(row["threshold"], ".3f"),
            ]
        )
    columns = ["wanted sensitivity", "sensitivity", "specificity", "threshold"]
    return table("Specificity at chosen sensitivities", columns, cells)
