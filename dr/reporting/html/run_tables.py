"""The tables of a run's page: scores, environment, config."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from dr.reporting.html.run_files import RunFiles
from dr.reporting.html.tables import Cell, Score, Table, number, score, table, text
from dr.reporting.runs import RunSummary, Scores, flatten

SCORE_NAMES = {
    "qwk": "QWK",
    "accuracy": "accuracy",
    "macro_auc": "macro AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "loss": "loss",
}
FINISHED = "finished"
Intervals = Mapping[str, tuple[float, float]]
"""Low and high of pooled scores: of `SCORE_NAMES`, `referable_auc` and `calibration_error`."""


def with_interval(name: str, value: float, intervals: Intervals) -> Score:
    """A pooled score with its interval, where `intervals` has one by its name."""
    return Score(value, *intervals.get(name, (None, None)))


def pooled_scores(summary: RunSummary, intervals: Intervals) -> dict[str, Score]:
    """Those of `SCORE_NAMES` that the run's pooled out-of-fold predictions have."""
    return {
        name: with_interval(name, value, intervals)
        for name, value in (summary.pooled or {}).items()
        if name in SCORE_NAMES
    }


def score_table(files: RunFiles, intervals: Intervals) -> Table:
    """All scores of a run: pooled, sources, mean of folds, every planned fold, the test set."""
    columns = ["scores of", *SCORE_NAMES.values(), "photographs", "epoch kept"]
    rows = _score_rows(files, intervals)
    strong = (0,) if files.summary.pooled else ()
    return table("Scores on held-out photographs", columns, rows, strong=strong)


def _score_rows(files: RunFiles, intervals: Intervals) -> Iterator[list[Cell]]:
    run = files.summary
    mark = "*" if run.optimistic else ""
    if run.pooled:
        given = pooled_scores(run, intervals)
        cells = [score(given.get(name), mark=mark) for name in SCORE_NAMES]
        yield [text("pooled, out of fold"), *cells, *_counts(run.pooled)]
    for name, scores in run.sources.items():
        yield [text(f"source {name}"), *_scores(scores, mark), *_counts(scores)]
    if run.mean:
        spread = [_with_sd(run, name, mark) for name in SCORE_NAMES]
        yield [text("mean of folds"), *spread, number(None), number(None)]
    for fold in run.planned_folds:
        scores = run.folds.get(fold, {})
        yield [_fold(files, fold), *_scores(scores, mark), *_counts(scores)]
    if run.test:
        yield [text(f"test set {run.test_name}"), *_scores(run.test, ""), *_counts(run.test)]


def _fold(files: RunFiles, fold: int) -> Cell:
    state = fold_state(files, fold)
    return Cell(f"fold {fold}", note="" if state == FINISHED else state)


def _scores(scores: Scores, mark: str) -> list[Cell]:
    return [number(scores.get(name), mark=mark) for name in SCORE_NAMES]


def _counts(scores: Scores) -> list[Cell]:
    return [number(scores.get("records"), ",.0f"), number(scores.get("epoch"), ".0f")]


def _with_sd(run: RunSummary, name: str, mark: str) -> Cell:
    cell = number(run.mean.get(name), mark=mark)
    sd = run.sd.get(name, math.nan)
    return cell if math.isnan(sd) else Cell(cell.text, cell.order, f"sd {sd:.4f}")


def fold_state(files: RunFiles, fold: int) -> str:
    """How far a fold has come, in words."""
    if fold in files.summary.folds:
        return FINISHED
    history = files.histories.get(fold)
    if history is None:
        return "not begun"
    epochs = files.settings.get("epochs", "?")
    return f"unfinished: {len(history['epoch'])} of {epochs} epochs"


def environment_table(files: RunFiles) -> Table:
    """What the run was made with; its timings have a chart of their own."""
    known = {name: value for name, value in files.environment.items() if name != "timings"}
    return table("What the run was made with", ["what", "value"], _settings(flatten(known)))


def config_table(files: RunFiles) -> Table:
    """Every setting, as `config.yaml` holds it."""
    return table("Every setting of the run", ["key", "value"], _settings(files.settings))


def data_table(files: RunFiles) -> Table:
    """What the run was trained on."""
    known = {name: value for name, value in files.data.items() if name != "preparation"}
    prepared = files.data.get("preparation")
    extra = {"preparation": prepared} if isinstance(prepared, dict) else {}
    return table(
        "What the run was trained on", ["what", "value"], _settings(flatten(known | extra))
    )


def _settings(settings: Mapping[str, Any]) -> list[list[Cell]]:
    return [[text(key), text(spelled(value))] for key, value in settings.items()]


def spelled(value: object) -> str:
    """A setting as it is given on a command line: text bare, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
