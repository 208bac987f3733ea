"""The page of one run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dr.reporting.html.charts import Chart, Series, config
from dr.reporting.html.gallery import Mistake, Pictures, Shown, shown
from dr.reporting.html.page import own_version, render
from dr.reporting.html.run_curves import (
    epoch_table,
    fold_series,
    time_charts,
    training_curves,
    waiting_share,
)
from dr.reporting.html.run_files import Predictions, RunFiles
from dr.reporting.html.run_grades import (
    calibration_error,
    grade_charts,
    probability_charts,
    ranks_by_score,
    referable_roc,
)
from dr.reporting.html.run_tables import (
    FINISHED,
    SCORE_NAMES,
    Intervals,
    config_table,
    data_table,
    environment_table,
    fold_state,
    pooled_scores,
    score_table,
    with_interval,
)
from dr.reporting.html.tables import Score, Table, interval, number, table, text

_HEAT_MAPS = (
    " The right picture shows what raises the score (orange) and what lowers it (blue), by "
    "Grad-CAM of the fold's own model, which never trained on the photograph. It is as coarse as "
    "the network's last feature map, and explains the score, not the disease."
)


@dataclass(frozen=True)
class Notice:
    """A sentence that must not be missed; `kind` is `warn` or `info`."""

    kind: str
    title: str
    text: str


@dataclass(frozen=True)
class Tile:
    """A headline number."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """What the template of a run's page shows."""

    name: str
    state: str
    optimistic: bool
    lead: str
    notices: list[Notice]
    tiles: list[Tile]
    scores: Table
    score_notes: list[str]
    series: list[Series]
    curves: list[Chart]
    epochs: Table | None
    grades: list[Chart]
    probabilities: list[Chart]
    probability_notices: list[Notice]
    mistakes: list[Shown]
    mistakes_note: str
    mistake_table: Table
    times: list[Chart]
    time_note: str
    data: Table
    environment: Table
    config: Table
    footer: str

    @property
    def mistakes_have_pictures(self) -> bool:
        """Whether the gallery shows pictures."""
        return any(one.picture for one in self.mistakes)

    @property
    def sections(self) -> list[tuple[str, str]]:
        """Anchors and titles of the sections that the page has."""
        known = {
            "scores": ("Scores", True),
            "curves": ("Training", self.curves),
            "grades": ("Grades", self.grades),
            "probabilities": ("Probabilities", self.probabilities),
            "mistakes": ("Mistakes", self.mistakes),
            "time": ("Time", self.times),
            "origin": ("Origin", True),
            "config": ("Config", True),
        }
        return [(key, title) for key, (title, there) in known.items() if there]


def run_page(
    files: RunFiles,
    *,
    mistakes: Sequence[Mistake] = (),
    pictures: Mapping[str, Pictures] | None = None,
    intervals: Intervals | None = None,
) -> str:
    """The page of a run as HTML.

    `mistakes` fill the gallery, with the `pictures` of their names; `intervals` are the pooled
    scores', by name.
    """
    page = _page(files, mistakes, pictures or {}, intervals or {})
    return render("run.html.j2", page=page, chart_config=config())


def _page(
    files: RunFiles,
    mistakes: Sequence[Mistake],
    pictures: Mapping[str, Pictures],
    intervals: Intervals,
) -> RunPage:
    run, found = files.summary, files.predictions
    gallery = [shown(mistake, pictures) for mistake in mistakes]
    return RunPage(
        name=run.name,
        state=run.state,
        optimistic=run.optimistic,
        lead=_lead(files),
        notices=_notices(files),
        tiles=[] if found is None else _tiles(files, found, intervals),
        scores=score_table(files, intervals),
        score_notes=_score_notes(files),
        series=fold_series(files),
        curves=training_curves(files) if files.histories else [],
        epochs=epoch_table(files) if files.histories else None,
        grades=[] if found is None else grade_charts(found),
        probabilities=[] if found is None else probability_charts(files, found),
        probability_notices=_probability_notices(files),
        mistakes=gallery,
        mistakes_note=_mistakes_note(gallery),
        mistake_table=_mistake_table(mistakes),
        times=time_charts(files) if files.histories else [],
        time_note=_time_note(files),
        data=data_table(files),
        environment=environment_table(files),
        config=config_table(files),
        footer=_footer(files),
    )


def _lead(files: RunFiles) -> str:
    settings, data = files.settings, files.data
    parts = [
        f"{settings.get('model.name')} with {settings.get('objective.name')}",
        f"{settings.get('schedule.name')} schedule",
        f"{settings.get('epochs')} epochs",
        f"seed {settings.get('seed')}",
    ]
    if "image_size" in data:
        parts.insert(1, f"{data['image_size']} px")
    if "records" in data:
        parts.append(f"{data['records']:,} photographs of {data['patients']:,} patients")
    if "date" in files.environment:
        parts.append(f"made {str(files.environment['date'])[:10]}")
    return ", ".join(parts) + "."


def _notices(files: RunFiles) -> list[Notice]:
    run = files.summary
    found = [_unfinished(files), _optimistic(files)]
    if not run.folds or (run.state == "complete" and files.predictions is None):
        found.append(Notice("info", "No scores.", _why_no_scores(files)))
    if run.skipped:
        what = f"{run.skipped:,} photographs could not be read and are not scored."
        found.append(Notice("warn", "Left out.", what))
    if run.test_shared:
        what = f"{run.test_shared:,} photographs of the test set seem to be among those trained on."
        found.append(Notice("warn", "The test scores are too good.", what))
    dropped = int(sum(np.nansum(h.get("not_finite", 0)) for h in files.histories.values()))
    if dropped:
        what = f"{dropped:,} batches were left out: their loss or gradient was not finite."
        found.append(Notice("warn", "Numbers overflowed.", what))
    return [notice for notice in found if notice is not None]


def _unfinished(files: RunFiles) -> Notice | None:
    run = files.summary
    if run.state == "complete":
        return None
    folds_in: dict[str, list[str]] = {}
    for fold in run.planned_folds:
        folds_in.setdefault(fold_state(files, fold), []).append(str(fold))
    folds_in.pop(FINISHED, None)
    states = "; ".join(f"fold {', '.join(folds)} {state}" for state, folds in folds_in.items())
    done = f"{len(run.folds)} of {len(run.planned_folds)} folds are scored"
    alone = ", and all scores below are of these alone" if run.folds else ""
    return Notice("warn", "This run is unfinished.", f"{done}{alone}. Missing: {states}.")


def _optimistic(files: RunFiles) -> Notice | None:
    if not files.summary.optimistic:
        return None
    what = (
        "select=best picked each fold's epoch by the very photographs it is scored on, so the "
        "scores marked * are higher than those of new photographs will be. select=last, the "
        "default, or select=cross do not have this flaw."
    )
    return Notice("warn", "These scores are optimistic.", what)


def _why_no_scores(files: RunFiles) -> str:
    if files.summary.state == "complete":
        return (
            "The run was trained on everything: no fold is held out, so there is nothing to score."
        )
    return "No fold is finished yet."


def _tiles(files: RunFiles, predictions: Predictions, intervals: Intervals) -> list[Tile]:
    pooled = pooled_scores(files.summary, intervals)
    mark = "*" if files.summary.optimistic else ""
    wanted = ("qwk", "accuracy", "macro_auc", "sensitivity", "specificity")
    tiles = [_tile(SCORE_NAMES[name], pooled.get(name), mark) for name in wanted]
    curve = referable_roc(files, predictions)
    area = None if curve is None else with_interval("referable_auc", curve.area, intervals)
    tiles.append(_tile("referable AUC", area, mark))
    if not ranks_by_score(files):
        error = with_interval("calibration_error", calibration_error(predictions), intervals)
        tiles.append(_tile("calibration error", error, mark))
    return tiles


def _tile(name: str, given: Score | None, mark: str) -> Tile:
    if given is None:
        return Tile(name, number(None).text)
    return Tile(name, number(given.value, ".3f", mark=mark).text, interval(given, ".3f"))


def _score_notes(files: RunFiles) -> list[str]:
    notes = []
    if files.summary.pooled:
        notes.append(
            "Pooled: the out-of-fold predictions of all scored folds, scored once together. "
            "Sensitivity and specificity are those of the predicted grade for referable "
            "retinopathy (grade 2 and above)."
        )
    if files.summary.optimistic:
        notes.append("* epoch picked on the fold it is scored on: optimistic")
    return notes


def _probability_notices(files: RunFiles) -> list[Notice]:
    if not ranks_by_score(files):
        return []
    what = (
        f"The objective {files.settings.get('objective.name')} predicts a score; its "
        "probabilities spread that score over the two grades beside it. They say where the score "
        "lies, not how sure the model is, so the calibration below means little."
    )
    return [Notice("info", "No real probabilities.", what)]


def _mistakes_note(gallery: Sequence[Shown]) -> str:
    note = "Out-of-fold photographs graded wrong whose scores lie furthest from their labels."
    return note + (_HEAT_MAPS if any(one.heat_map for one in gallery) else "")


def _mistake_table(mistakes: Sequence[Mistake]) -> Table:
    rows = [
        [
            text(one.name),
            number(one.label, "d"),
            number(one.score, ".2f"),
            number(one.grade, "d"),
            number(one.distance, ".2f"),
            number(one.fold, "d"),
        ]
        for one in mistakes
    ]
    columns = ["photograph", "label", "score", "predicted grade", "distance", "fold"]
    return table("The worst mistakes", columns, rows)


def _time_note(files: RunFiles) -> str:
    share = waiting_share(files)
    if share is None:
        return ""
    return f"{share:.1%} of the training time was spent waiting for data."


def _footer(files: RunFiles) -> str:
    made: Any = files.environment.get("code")
    by = f"The run was made by dr {made}. " if made else ""
    return f"{by}This page was written by dr {own_version()} and holds all it shows."
