import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.comparing import write_runs
from dr.reporting.comparison import Asked, compare
from dr.reporting.html.compared import comparison_data
from dr.reporting.html.comparison_page import (
    MOST_CURVES,
    ComparisonData,
    Curve,
    Difference,
    comparison_page,
    mean_curve,
)
from dr.reporting.runs import read_runs
from tests.conftest import HOSTILE
from tests.reporting.html.test_run_page import Page


def difference(name: str, value: float, **given: Any) -> Difference:
    known = {"low": value - 0.02, "high": value + 0.02, "p": 0.03, "verdict": "better"}
    return Difference(name=name, difference=value, **(known | {"told_apart": True} | given))


def curve(name: str, epochs: int = 3) -> Curve:
    values = [place / 10 for place in range(epochs)]
    numbers = list(range(1, epochs + 1))
    return Curve(name=name, epochs=numbers, learning_rate=values, qwk=values, loss=values)


def test_a_comparison_of_run_folders_is_a_table_and_curves(make_run: Any) -> None:
    make_run("a", skill=1.5)
    make_run("b", changes={"schedule__max_lr": 0.01})
    last = make_run("c", done=2)
    runs = compare(read_runs(last.parent))
    page = Page(comparison_page(comparison_data(runs)))
    assert [row[0] for row in page.tables[0]] == ["run", "a", "b", "c"]
    assert page.tables[0][0][:4] == ["run", "max_lr", "runs", "pooled QWK"]
    assert page.tables[0][3][2:4] == ["0 of 1", "–"]
    assert all(any(note in text for text in page.texts) for note in runs.notes)
    titles = [spec["description"].split(",")[0] for spec in page.specs() if "layer" in spec]
    assert titles == ["QWK by epoch", "Loss by epoch", "Learning rate by epoch"]


def test_a_judged_comparison_shows_its_intervals_and_differences(tmp_path: Path) -> None:
    write_runs(tmp_path, runs=6, patients=60)
    runs = compare(read_runs(tmp_path), Asked(baseline="simulated_0000"))
    data = comparison_data(runs)
    judged = [row.judgement for row in runs.rows]
    expected = [one.versus for one in judged if one.versus is not None]
    found = [(one.difference, one.low, one.high) for one in data.differences]
    assert found == [(one.value, one.low, one.high) for one in expected]
    assert [one.p for one in data.differences] == [
        one.p_adjusted for one in judged if one.versus is not None
    ]
    page = Page(comparison_page(data))
    score = judged[0].score
    assert f"{score.low:.4f} to {score.high:.4f}" in page.tables[0][1][3]


def test_the_mean_curve_covers_the_epochs_that_all_folds_have(make_run: Any) -> None:
    run: Path = make_run("a", done=3)
    path = run / "fold-1" / "history.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:4]) + "\n")
    found = mean_curve(run)
    assert found is not None and list(found.epochs) == [1, 2, 3]
    tables = [pd.read_csv(run / f"fold-{fold}" / "history.csv") for fold in range(3)]
    assert found.qwk == pytest.approx(np.mean([table["qwk"][:3] for table in tables], axis=0))


def test_a_run_that_has_not_begun_has_no_curve(make_run: Any) -> None:
    assert mean_curve(make_run("a", done=0)) is None


def test_differences_are_drawn_and_listed() -> None:
    given = [
        difference("one", 0.04, p=0.0002),
        difference("two", -0.01, p=None, verdict="not told apart", told_apart=False),
        difference("two", -0.02, p=0.2, verdict="not told apart", told_apart=False),
    ]
    page = Page(comparison_page(ComparisonData(columns=["run"], rows=[["a"]], differences=given)))
    spec = next(spec for spec in page.specs() if "Forest" in spec.get("description", ""))
    rows = spec["data"]["values"]
    assert [row["name"] for row in rows] == ["one", "two (1)", "two (2)"]
    assert [row["clear"] for row in rows] == [True, False, False]
    assert "1 of 3 are told apart" in spec["description"]
    assert page.tables[1][1] == ["one", "+0.0400", "+0.0200 to +0.0600", "< 0.001", "better"]
    assert page.tables[1][2][3] == "–"


def test_more_curves_than_can_be_told_apart_are_left_out_and_that_is_said() -> None:
    curves = [curve(f"run {place}") for place in range(MOST_CURVES + 5)]
    page = Page(comparison_page(ComparisonData(columns=["run"], rows=[], curves=curves)))
    assert any("5 more are not drawn" in text for text in page.texts)
    shown = [given for given in page.all("button") if "data-key" in given]
    assert len(shown) == MOST_CURVES


def test_values_that_are_not_finite_are_not_drawn() -> None:
    given = Curve(name="a", epochs=[1, 2], learning_rate=[1.0, 1.0], qwk=[math.nan, 0.5], loss=[])
    with pytest.raises(ValueError):
        comparison_page(ComparisonData(columns=["run"], rows=[], curves=[given]))
    given = Curve(name="a", epochs=[1, 2], learning_rate=[1, 1], qwk=[math.nan, 0.5], loss=[1, 1])
    page = Page(comparison_page(ComparisonData(columns=["run"], rows=[], curves=[given])))
    assert page.specs()[0]["data"]["values"] == [{"epoch": 2, "series": "r0", "value": 0.5}]


def test_a_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="a row has 1 values for 2 columns"):
        comparison_page(ComparisonData(columns=["run", "QWK"], rows=[["a"]]))


def test_hostile_names_stay_text() -> None:
    data = ComparisonData(
        title=HOSTILE[0],
        lead=HOSTILE[1],
        columns=["run", HOSTILE[0]],
        rows=[[name, name] for name in HOSTILE],
        notes=HOSTILE,
        baseline=HOSTILE[0],
        differences=[difference(name, 0.1, verdict=name) for name in HOSTILE],
        curves=[curve(name) for name in HOSTILE],
    )
    page = Page(comparison_page(data))
    scripts = [given for given in page.all("script") if given.get("type") != "application/json"]
    assert scripts == [{}, {"type": "module"}, {"type": "module"}]
    assert not page.all("img") and not page.all("svg")
    assert [row[0] for row in page.tables[0][1:]] == list(HOSTILE)
    assert not any(name.startswith("on") for _, given in page.elements for name in given)
