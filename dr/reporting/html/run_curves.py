"""Charts of how a run went: curves of every fold, and where its time went."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dr.reporting.html.charts import Chart, Row, Series, Spec
from dr.reporting.html.epoch_charts import MEAN, lines_by_epoch
from dr.reporting.html.row_charts import bars
from dr.reporting.html.run_files import History, RunFiles
from dr.reporting.html.tables import Table, number, seconds, table, text

_STAGES = {
    "start": "opening the data, making folds",
    "building": "building networks",
    "training": "training",
    "evaluation": "evaluation",
    "saving": "saving",
    "gathering": "gathering scores",
    "rest": "the rest",
}
_EPOCH_COLUMNS = {
    "epoch": ("epoch", ".0f"),
    "learning_rate": ("learning rate", ".3g"),
    "train_loss": ("training loss", ".4f"),
    "loss": ("loss", ".4f"),
    "qwk": ("QWK", ".4f"),
    "accuracy": ("accuracy", ".4f"),
    "macro_auc": ("macro AUC", ".4f"),
    "seconds": ("seconds", ".1f"),
    "images_per_second": ("images a second", ".1f"),
    "data_wait": ("waiting for data", ".1%"),
}


def fold_series(files: RunFiles) -> list[Series]:
    """A series a fold that has begun, and their mean where there are several."""
    series = [
        Series(str(fold), f"fold {fold}", place) for place, fold in enumerate(files.histories)
    ]
    return [*series, Series(MEAN, "mean of folds", None)] if _is_averaged(files) else series


def _is_averaged(files: RunFiles) -> bool:
    return len(files.histories) > 1


def training_curves(files: RunFiles) -> list[Chart]:
    """Loss, QWK, accuracy and learning rate by epoch, as far as the run has them."""
    found = [
        _loss(files),
        _score(files, "qwk", "QWK", "Agreement with the labels on the held-out fold."),
        _score(files, "accuracy", "Accuracy", "Share of held-out photographs graded right."),
        _learning_rate(files),
    ]
    return [chart for chart in found if chart is not None]


def _loss(files: RunFiles) -> Chart | None:
    rows = _rows(files, "train_loss", part="training") + _rows(files, "loss", part="held out")
    rings = ", a ring marks the epoch that was kept" if _kept(files, "loss") else ""
    caption = f"Held out: full lines; training: dashed{rings}."
    return _chart(files, rows, "Loss", caption, form=".4f", axis=".2f", kept=_kept(files, "loss"))


def _score(files: RunFiles, column: str, title: str, caption: str) -> Chart | None:
    rows = _rows(files, column)
    return _chart(files, rows, title, caption, form=".4f", axis=".2f", kept=_kept(files, column))


def _learning_rate(files: RunFiles) -> Chart | None:
    shared = _share_rates(list(files.histories.values()))
    if not shared:
        rows = _rows(files, "learning_rate", averaged=False)
        caption = "At the end of each epoch."
        return _chart(files, rows, "Learning rate", caption, form=".3g", axis=".1e")
    longest = max(files.histories.values(), key=lambda history: len(history["epoch"]))
    rows = _points(longest, "learning_rate", "rate")
    if not rows:
        return None
    spec = lines_by_epoch(
        rows,
        [Series("rate", "learning rate", None)],
        description="Learning rate by epoch.",
        y="learning rate",
        form=".3g",
        axis_form=".1e",
    )
    caption = "At the end of each epoch, the same in every fold."
    return Chart(title="Learning rate", caption=caption, spec=spec)


def _share_rates(histories: Sequence[History]) -> bool:
    rates = [history.get("learning_rate", np.array([])) for history in histories]
    longest = max(rates, key=len)
    return all(np.allclose(rate, longest[: len(rate)], equal_nan=True) for rate in rates)


def _chart(
    files: RunFiles,
    rows: list[Row],
    title: str,
    caption: str,
    *,
    form: str,
    axis: str,
    kept: Sequence[Row] = (),
    zero: bool = False,
) -> Chart | None:
    """A chart of lines that the legend shows and hides; None where there is no value."""
    if not rows:
        return None
    spec = lines_by_epoch(
        rows,
        fold_series(files),
        description=f"{title} by epoch, a line a fold. A table holds the numbers of all epochs.",
        y=title if title.isupper() else title.lower(),
        form=form,
        axis_form=axis,
        kept=kept,
        zero=zero,
    )
    return Chart(title=title, caption=caption, spec=spec, series=True)


def _rows(
    files: RunFiles, column: str, *, part: str | None = None, averaged: bool = True
) -> list[Row]:
    rows = [
        row
        for fold, history in files.histories.items()
        for row in _points(history, column, str(fold), part)
    ]
    if averaged and rows and _is_averaged(files):
        rows += _points(_mean(files, column), column, MEAN, part)
    return rows


def _points(history: History, column: str, key: str, part: str | None = None) -> list[Row]:
    given: dict[str, Any] = {"series": key} if part is None else {"series": key, "part": part}
    return [
        {"epoch": int(epoch), "value": _rounded(value), **given}
        for epoch, value in zip(history["epoch"], history.get(column, []), strict=False)
        if math.isfinite(value)
    ]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _mean(files: RunFiles, column: str) -> History:
    """Mean over the folds, of the epochs that all of them have."""
    histories = list(files.histories.values())
    epochs = min((history["epoch"] for history in histories), key=len)
    nothing = np.full(len(epochs), math.nan)
    values = [history.get(column, nothing)[: len(epochs)] for history in histories]
    return {"epoch": epochs, column: np.mean(values, axis=0)}


def _kept(files: RunFiles, column: str) -> list[Row]:
    """Where each finished fold stood at the epoch whose weights it kept."""
    kept = {fold: scores.get("epoch") for fold, scores in files.summary.folds.items()}
    return [
        row
        for fold, history in files.histories.items()
        for row in _points(history, column, str(fold))
        if row["epoch"] == kept.get(fold)
    ]


def epoch_table(files: RunFiles) -> Table:
    """All epochs of all folds."""
    known = set().union(*files.histories.values())
    columns = {name: shown for name, shown in _EPOCH_COLUMNS.items() if name in known}
    rows = [
        [
            text(f"fold {fold}"),
            *(number(_at(history, name, row), form) for name, (_, form) in columns.items()),
        ]
        for fold, history in files.histories.items()
        for row in range(len(history["epoch"]))
    ]
    return table("All epochs", ["fold", *(title for title, _ in columns.values())], rows)


def _at(history: History, name: str, row: int) -> float | None:
    return float(history[name][row]) if name in history else None


def time_charts(files: RunFiles) -> list[Chart]:
    """The stages of the run, time waiting for data, and speed, as far as they were recorded."""
    waiting = "Share of an epoch's training time in which the device waited for pictures."
    speed = "Training pictures a second, waiting included."
    waits, speeds = _rows(files, "data_wait"), _rows(files, "images_per_second")
    found = [
        _stages(files),
        _chart(files, waits, "Waiting for data", waiting, form=".1%", axis="~%", zero=True),
        _chart(files, speeds, "Images a second", speed, form=".1f", axis="~s", zero=True),
    ]
    return [chart for chart in found if chart is not None]


def _stages(files: RunFiles) -> Chart | None:
    spent = stage_seconds(files)
    total = sum(spent.values())
    if total <= 0:
        return None
    rows: list[Row] = [
        {"name": _STAGES.get(name, name), "value": taken, "text": _part(taken, total)}
        for name, taken in sorted(spent.items(), key=lambda entry: -entry[1])
    ]
    shown = [[text(row["name"]), number(row["value"], ".1f")] for row in rows]
    return Chart(
        title="Where the time went",
        caption=f"{seconds(total)} in all, {_processes(files)}.",
        spec=_stage_bars(rows),
        table=table("Time by stage", ["stage", "seconds"], shown),
        wide=True,
    )


def _stage_bars(rows: list[Row]) -> Spec:
    most = rows[0]
    description = f"Time by stage, the longest first: {most['name']}, {most['text']}."
    return bars(rows, description=description, title="time")


def _part(taken: float, total: float) -> str:
    share = taken / total
    return f"{seconds(taken)} · {'<1%' if share < 0.01 else f'{share:.0%}'}"


def stage_seconds(files: RunFiles) -> dict[str, float]:
    """Seconds of each stage, over all processes that trained a part of the run."""
    spent: dict[str, float] = {}
    for entry in _timings(files):
        for stage, taken in entry.items():
            if stage not in ("date", "total") and isinstance(taken, int | float):
                spent[stage] = spent.get(stage, 0.0) + float(taken)
    return {stage: taken for stage, taken in spent.items() if taken > 0}


def _timings(files: RunFiles) -> Iterable[dict[str, Any]]:
    given = files.environment.get("timings", [])
    return [entry for entry in given if isinstance(entry, dict)] if isinstance(given, list) else []


def _processes(files: RunFiles) -> str:
    count = len(list(_timings(files)))
    return "in one go" if count == 1 else f"in {count} goes that reached their end"


def waiting_share(files: RunFiles) -> float | None:
    """The share of all training time that was spent waiting for data; None: not recorded."""
    histories = [h for h in files.histories.values() if "data_wait" in h and "seconds" in h]
    total = sum(float(np.nansum(history["seconds"])) for history in histories)
    if total <= 0:
        return None
    waited = sum(float(np.nansum(h["seconds"] * h["data_wait"])) for h in histories)
    return waited / total
