"""Runs that were scored on the same records in the same folds, and what each predicted there."""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dr.reporting.runs import RunSummary

UNSCORED = 255
_GRADES_FILE = "out_of_fold.npy"
_FOLDS_FILE = "folds.csv"
Grades = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Complete runs on the same data in the same folds.

    `labels` and `patients` (numbered from 0) are int64 `[records]`, of the records that all runs
    scored; `grades` uint8 `[runs, records]` are the predicted ones. `records` is how many the
    folds hold.
    """

    runs: tuple[RunSummary, ...]
    labels: NDArray[np.int64]
    patients: NDArray[np.int64]
    grades: Grades
    records: int

    @property
    def names(self) -> tuple[str, ...]:
        """Those of its runs."""
        return tuple(run.name for run in self.runs)

    @property
    def patient_count(self) -> int:
        """How many patients the scored records are of."""
        return int(self.patients.max()) + 1


def cohorts(runs: Sequence[RunSummary]) -> tuple[list[Cohort], dict[str, str]]:
    """Put complete, scored runs into cohorts; and why others are in none, by the run's name.

    The largest cohort comes first.
    """
    found: dict[tuple[str | None, str | None], list[RunSummary]] = defaultdict(list)
    for run in runs:
        if run.state == "complete" and not math.isnan((run.pooled or {}).get("qwk", math.nan)):
            found[run.data_digest, run.folds_digest].append(run)
    read = [_read_cohort(members) for members in found.values()]
    whole = [cohort for cohort, _ in read if cohort is not None]
    problems = {name: problem for _, own in read for name, problem in own.items()}
    return sorted(whole, key=lambda cohort: -len(cohort.runs)), problems


def _read_cohort(runs: list[RunSummary]) -> tuple[Cohort | None, dict[str, str]]:
    try:
        content = (runs[0].folder / _FOLDS_FILE).read_bytes()
        labels, patients, keys = _parse_folds(content)
    except (OSError, ValueError, KeyError) as error:
        return None, {run.name: f"folds.csv can't be read ({_why(error)})" for run in runs}
    kept, grades, problems = [], [], {}
    for run in runs:
        try:
            aligned = (run.folder / _FOLDS_FILE).read_bytes() == content
            grades.append(_read_grades(run.folder, keys, aligned=aligned))
            kept.append(run)
        except (ValueError, OSError, KeyError) as error:
            problems[run.name] = f"its predictions can't be read ({_why(error)})"
    if not kept:
        return None, problems
    table = np.stack(grades)
    scored = (table != UNSCORED).all(axis=0)
    if not scored.any():
        return None, problems | {
            run.name: "no record is scored by all runs on these folds" for run in kept
        }
    _, numbers = np.unique(patients[scored], return_inverse=True)
    cohort = Cohort(
        runs=tuple(kept),
        labels=labels[scored],
        patients=numbers,
        grades=table[:, scored],
        records=len(labels),
    )
    return cohort, problems


def _why(error: Exception) -> str:
    """The cause without the path, so that runs with the same one go together."""
    if isinstance(error, KeyError):
        return f"there is no column {error.args[0]}"
    return str(getattr(error, "strerror", None) or error)


def _parse_folds(
    content: bytes,
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[tuple[str, str]]]:
    """Labels and numbered patients `[records]`, and each record's name and fold."""
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    labels = np.array([int(row["label"]) for row in rows], dtype=np.int64)
    _, patients = np.unique([row["patient"] for row in rows], return_inverse=True)
    return labels, patients.astype(np.int64), [(row["name"], row["fold"]) for row in rows]


def _read_grades(folder: Path, keys: list[tuple[str, str]], *, aligned: bool) -> Grades:
    """The predicted grade of each record of `keys` (name and fold): uint8 `[records]`.

    `UNSCORED` where there is none. `aligned`: whether the run's own folds are in the order of
    `keys`. Raises ValueError or OSError where no file gives the grades.
    """
    path = folder / _GRADES_FILE
    if aligned and path.is_file():
        grades = np.load(path, allow_pickle=False)
        if grades.shape == (len(keys),) and grades.dtype == np.uint8:
            return np.asarray(grades)
    return _from_predictions(folder, keys)


def _from_predictions(folder: Path, keys: list[tuple[str, str]]) -> Grades:
    graded: dict[tuple[str, str], list[int]] = defaultdict(list)
    paths = sorted(folder.glob("fold-*/predictions.csv"))
    if not paths:
        raise ValueError("no fold has a predictions.csv")
    for path in paths:
        for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))):
            graded[row["name"], row["fold"]].append(_grade(row))
    for grades in graded.values():
        grades.reverse()
    return np.array([graded[key].pop() if graded[key] else UNSCORED for key in keys], np.uint8)


def _grade(row: dict[str, Any]) -> int:
    """The most probable grade, the lower of equals."""
    chances = [float(row[f"p{grade}"]) for grade in range(5)]
    return chances.index(max(chances))
