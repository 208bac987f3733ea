import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from dr.reporting.cohorts import cohorts
from dr.reporting.runs import RunSummary

FOLDS = [("a_left", "a", 2, 0), ("a_right", "a", 0, 0), ("b_left", "b", 4, 1), ("c", "c", 1, 1)]
CHANCES = {0: "0.9,0.1,0,0,0", 1: "0,0.5,0.5,0,0", 2: "0,0,1,0,0", 4: "0,0,0.2,0,0.8"}


def write_run(
    folder: Path, grades: list[int | None], *, order: list[int] | None = None, fast: bool = False
) -> RunSummary:
    """A run whose records of FOLDS got `grades` (None: not scored), its files in `order`."""
    rows = [(*FOLDS[place], grades[place]) for place in order or range(4)]
    folder.mkdir()
    with (folder / "folds.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("name", "patient", "label", "fold"), *(r[:4] for r in rows)])
    for fold in (0, 1):
        lines = ["name,patient,fold,label,score,p0,p1,p2,p3,p4"]
        lines += [
            f"{name},{patient},{fold},{label},0,{CHANCES[grade]}"
            for name, patient, label, own, grade in rows
            if own == fold and grade is not None
        ]
        (folder / f"fold-{fold}").mkdir()
        (folder / f"fold-{fold}" / "predictions.csv").write_text("\n".join(lines) + "\n")
    if fast:
        stored = [255 if row[4] is None else row[4] for row in rows]
        np.save(folder / "out_of_fold.npy", np.array(stored, np.uint8))
        for path in folder.glob("fold-*/predictions.csv"):
            path.unlink()
    return RunSummary(
        folder=folder,
        name=folder.name,
        state="complete",
        pooled={"qwk": 0.5},
        data_digest="d",
        folds_digest="f",
    )


def test_runs_are_aligned_record_by_record_whatever_the_order_of_their_files(tmp_path):
    runs = [
        write_run(tmp_path / "plain", [2, 0, 4, 1]),
        write_run(tmp_path / "turned", [1, 2, 0, 4], order=[3, 1, 0, 2]),
        write_run(tmp_path / "fast", [0, 1, 2, 4], fast=True),
        write_run(tmp_path / "fast-turned", [4, 2, 1, 0], order=[2, 0, 3, 1]),
    ]
    (found,), problems = cohorts(runs)
    assert problems == {}
    assert found.labels.tolist() == [2, 0, 4, 1]
    assert found.patients.tolist() == [0, 0, 1, 2]
    assert found.patient_count == 3
    assert found.grades.tolist() == [[2, 0, 4, 1], [1, 2, 0, 4], [0, 1, 2, 4], [4, 2, 1, 0]]


def test_only_records_that_all_runs_scored_are_compared(tmp_path):
    runs = [
        write_run(tmp_path / "whole", [2, 0, 4, 1]),
        write_run(tmp_path / "partly", [2, None, None, 1], fast=True),
    ]
    (found,), _ = cohorts(runs)
    assert found.grades.tolist() == [[2, 1], [2, 1]]
    assert found.patients.tolist() == [0, 1]
    assert found.records == 4


def test_runs_on_other_data_or_folds_unfinished_and_unscored_ones_are_apart(tmp_path):
    run = write_run(tmp_path / "a", [2, 0, 4, 1])
    other = replace(write_run(tmp_path / "b", [2, 0, 4, 1]), folds_digest="g")
    data = replace(write_run(tmp_path / "c", [2, 0, 4, 1]), data_digest="e")
    unfinished = replace(run, name="open", state="unfinished")
    unscored = replace(run, name="unscored", pooled=None)
    undefined = replace(run, name="undefined", pooled={"qwk": float("nan")})
    found, _ = cohorts([run, other, data, unfinished, unscored, undefined])
    assert [one.names for one in found] == [("a",), ("b",), ("c",)]


def test_what_cannot_be_read_is_told_and_the_others_are_judged(tmp_path):
    names = ("good", "strange", "empty", "gone")
    runs = [write_run(tmp_path / name, [2, 0, 4, 1]) for name in names]
    (runs[1].folder / "fold-0" / "predictions.csv").write_text("name\nx\n")
    (runs[2].folder / "fold-1" / "predictions.csv").write_bytes(b"\xff\xfe")
    for path in runs[3].folder.glob("fold-*/predictions.csv"):
        path.unlink()
    (found,), problems = cohorts(runs)
    assert found.names == ("good",)
    assert "there is no column fold" in problems["strange"]
    assert "can't be read" in problems["empty"]
    assert "no fold has a predictions.csv" in problems["gone"]


def test_folds_that_cannot_be_read_leave_their_runs_unjudged(tmp_path):
    runs = [write_run(tmp_path / name, [2, 0, 4, 1]) for name in ("a", "b")]
    (runs[0].folder / "folds.csv").unlink()
    found, problems = cohorts(runs)
    assert found == []
    assert set(problems) == {"a", "b"}
