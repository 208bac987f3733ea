"""A comparison in forms that other programs read: CSV, JSON, Markdown."""

import csv
import io
import json
import math
from typing import Any

from dr.reporting.comparison import Comparison, p_value, verdict
from dr.reporting.judging import Judgement
from dr.reporting.runs import RunSummary
from dr.reporting.setting_groups import Setting
from dr.reporting.values import printable, setting_texts
from dr.scoring.intervals import Difference, Interval

SCHEMA_VERSION = 1


def to_json(comparison: Comparison) -> str:
    """All of a comparison; what is undefined is null. `schema_version` grows with its form."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "reference": comparison.reference,
        "columns": list(comparison.columns),
        "rows": [_row(row, comparison) for row in comparison.rows],
        "notes": list(comparison.notes),
    }
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=True, default=str)


def _row(row: Setting, comparison: Comparison) -> dict[str, Any]:
    summary = row.summary
    return {
        "name": row.name,
        "state": summary.state,
        "settings": {key: summary.settings.get(key) for key in comparison.columns},
        "qwk": _number((summary.pooled or {}).get("qwk")),
        **_judged(row, comparison),
        "verdict": verdict(row, comparison=comparison),
        "cohort": row.cohort,
        "optimistic": summary.optimistic,
        "pooled": _scores(summary.pooled),
        "mean": _scores(summary.mean),
        "sd": _scores(summary.sd),
        "folds": {str(fold): _scores(scores) for fold, scores in summary.folds.items()},
        "sources": {name: _scores(scores) for name, scores in summary.sources.items()},
        "test": _scores(summary.test),
        "runs": [_run(run) for run in row.runs],
    }


def _judged(row: Setting, comparison: Comparison) -> dict[str, Any]:
    judged = row.judgement or Judgement(score=Interval(math.nan))
    versus = judged.versus or Difference(math.nan)
    return {
        "low": _number(judged.score.low),
        "high": _number(judged.score.high),
        "seed_sd": _number(judged.seed_sd),
        "difference": _number(versus.value),
        "difference_low": _number(versus.low),
        "difference_high": _number(versus.high),
        "p_value": _number(p_value(row, comparison)),
        "about_settings": None if row.judgement is None else judged.about_settings,
        "may_be_best": judged.may_be_best,
    }


def _run(run: RunSummary) -> dict[str, Any]:
    return {
        "name": run.name,
        "seed": run.settings.get("seed"),
        "state": run.state,
        "qwk": _number((run.pooled or {}).get("qwk")),
        "folds_done": len(run.folds),
        "folds_planned": len(run.planned_folds),
        "skipped": run.skipped,
        "problem": run.problem,
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _scores(scores: dict[str, float] | None) -> dict[str, float | None] | None:
    if not scores:
        return None
    return {name: _number(value) for name, value in scores.items()}


def _table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows, numbers in full and what is undefined empty."""
    rows = [row.summary.settings for row in comparison.rows]
    settings = [setting_texts(rows, key) for key in comparison.columns]
    header = ["name", *comparison.labels, "runs", "qwk", "low", "high", "seed_sd"]
    header += ["difference", "difference_low", "difference_high", "p_value", "verdict"]
    header += ["mean", "sd", *(f"fold_{fold}" for fold in comparison.folds), "state"]
    lines = [
        [printable(row.name), *(texts[place] for texts in settings), *_cells(row, comparison)]
        for place, row in enumerate(comparison.rows)
    ]
    return header, lines


def _cells(row: Setting, comparison: Comparison) -> list[str]:
    found = _row(row, comparison)
    numbers = ("qwk", "low", "high", "seed_sd")
    differences = ("difference", "difference_low", "difference_high", "p_value")
    folds = [row.summary.folds.get(fold, {}).get("qwk") for fold in comparison.folds]
    return [
        str(len(row.complete)),
        *(_text(found[name]) for name in numbers + differences),
        found["verdict"],
        *(_text(scores.get("qwk")) for scores in (row.summary.mean, row.summary.sd)),
        *map(_text, folds),
        found["state"],
    ]


def _text(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"


def to_csv(comparison: Comparison) -> str:
    """A row a setting, its numbers with six digits; what is undefined is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    header, rows = _table(comparison)
    writer.writerows([header, *rows])
    return stream.getvalue().rstrip("\n")


def to_markdown(comparison: Comparison) -> str:
    """A table for a README or a pull request, its notes below."""
    header, rows = _table(comparison)
    empty = [all(not row[place] for row in rows) for place in range(len(header))]
    lines = [
        "| " + " | ".join(_escaped(cell) for cell, bare in zip(row, empty, strict=True) if not bare)
        for row in (header, ["---"] * len(header), *rows)
    ]
    notes = "".join(f"\n\n{_escaped(note)}" for note in comparison.notes)
    return " |\n".join(lines) + " |" + notes


def _escaped(text: str) -> str:
    for mark in "\\|<>*_`[]":
        text = text.replace(mark, f"\\{mark}")
    return text
