"""From a judged comparison to what its page shows."""

import math

from dr.reporting.comparison import ALPHA, Comparison, p_value, verdict
from dr.reporting.html.comparison_page import (
    MOST_CURVES,
    ComparisonData,
    Curve,
    Difference,
    Value,
    mean_curve,
)
from dr.reporting.html.tables import Score
from dr.reporting.setting_groups import Setting
from dr.reporting.values import printable, setting_texts


def comparison_data(comparison: Comparison) -> ComparisonData:
    """What the page of a comparison shows: its table, differences, notes, and curves."""
    rows = [row.summary.settings for row in comparison.rows]
    settings = [setting_texts(rows, key) for key in comparison.columns]
    folds = [f"fold {fold}" for fold in comparison.folds]
    judged = ["pooled QWK", "sd of runs", "difference", "p", "verdict"]
    return ComparisonData(
        lead=_lead(comparison),
        columns=["run", *comparison.labels, "runs", *judged, "mean", "sd", *folds, "state"],
        rows=[
            [_name(row), *(texts[place] for texts in settings), *_values(row, comparison)]
            for place, row in enumerate(comparison.rows)
        ],
        notes=comparison.notes,
        baseline=f"the {comparison.reference}",
        differences=_differences(comparison),
        curves=_curves(comparison),
    )


def _lead(comparison: Comparison) -> str:
    runs = sum(len(row.runs) for row in comparison.rows)
    return f"{runs} runs of {len(comparison.rows)} settings, best first by pooled out-of-fold QWK."


def _name(row: Setting) -> str:
    more = len(row.runs) - 1
    return printable(row.name) + (f" and {more} more" if more else "")


def _values(row: Setting, comparison: Comparison) -> list[Value]:
    summary, judged = row.summary, row.judgement
    versus = None if judged is None else judged.versus
    return [
        f"{len(row.complete)} of {len(row.runs)}",
        _score((summary.pooled or {}).get("qwk"), judged and judged.score),
        None if judged is None else judged.seed_sd,
        None if versus is None else _score(versus.value, versus),
        p_value(row, comparison),
        verdict(row, comparison=comparison),
        summary.mean.get("qwk"),
        summary.sd.get("qwk"),
        *(summary.folds.get(fold, {}).get("qwk") for fold in comparison.folds),
        _state(row),
    ]


def _score(value: float | None, bounds: object) -> Score | None:
    if value is None:
        return None
    low, high = getattr(bounds, "low", math.nan), getattr(bounds, "high", math.nan)
    return Score(value) if math.isnan(low) else Score(value, low, high)


def _state(row: Setting) -> str:
    summary = row.summary
    if summary.state == "unreadable":
        return printable(f"unreadable: {summary.problem}")
    mark = ", optimistic" if summary.optimistic else ""
    return f"{summary.state}{mark}"


def _differences(comparison: Comparison) -> list[Difference]:
    found = []
    for row in comparison.rows:
        versus = None if row.judgement is None else row.judgement.versus
        if versus is None or math.isnan(versus.low):
            continue
        p = p_value(row, comparison)
        found.append(
            Difference(
                name=_name(row),
                difference=versus.value,
                low=versus.low,
                high=versus.high,
                p=None if math.isnan(p) else p,
                verdict=verdict(row, comparison=comparison),
                told_apart=_is_told_apart(row, p, comparison),
            )
        )
    return found


def _is_told_apart(row: Setting, p: float, comparison: Comparison) -> bool:
    if comparison.baseline:
        return p < ALPHA
    return row.judgement is not None and row.judgement.may_be_best is False


def _curves(comparison: Comparison) -> list[Curve]:
    """Those of each setting's first run, as far as they can be read."""
    found = []
    for row in comparison.rows[:MOST_CURVES]:
        try:
            curve = mean_curve(row.runs[0].folder)
        except (ValueError, OSError):
            continue
        if curve is not None:
            found.append(curve)
    return found
