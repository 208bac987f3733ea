import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dr.reporting.html.gallery import Pictures, worst_mistakes
from dr.reporting.html.run_files import read_run_files
from dr.reporting.html.run_page import run_page
from dr.reporting.html.run_tables import pooled_scores
from dr.reporting.runs import read_run
from tests.conftest import HOSTILE

VOID = {"meta", "link", "input", "img", "br"}
SIZE_WITHOUT_PICTURES = 1_500_000


class Page(HTMLParser):
    """What a browser would make of a page: elements with attributes, text, scripts, tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        self.close()
        assert self.inside == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.inside.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] in ("script", "style"):
            self.scripts.append((self.elements[-1][1] | {"tag": self.inside[-1]}, data))
            return
        self.texts.append(data)
        if {"td", "th"} & set(self.inside):
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def specs(self) -> list[Any]:
        found = [text for given, text in self.scripts if given.get("type") == "application/json"]
        return [json.loads(text) for text in found]


def page_of(run: Path, **given: Any) -> Page:
    return Page(run_page(read_run_files(run), **given))


def test_a_page_shows_the_scores_of_the_run(finished_run: Path) -> None:
    summary = read_run(finished_run)
    scores = page_of(finished_run).tables[0]
    assert scores[0][:3] == ["scores of", "QWK", "accuracy"]
    assert scores[1][0] == "pooled, out of fold"
    assert summary.pooled is not None
    assert scores[1][1] == f"{summary.pooled['qwk']:.4f}"
    mean, sd = summary.mean["accuracy"], summary.sd["accuracy"]
    assert scores[2][2] == f"{mean:.4f}sd {sd:.4f}"
    assert [row[0] for row in scores[3:]] == ["fold 0", "fold 1", "fold 2"]
    for fold, row in enumerate(scores[3:]):
        assert row[1] == f"{summary.folds[fold]['qwk']:.4f}"
        assert row[-1] == "3"


def test_intervals_of_the_pooled_scores_stand_below_them(finished_run: Path) -> None:
    summary = read_run(finished_run)
    found = pooled_scores(summary, {"qwk": (0.1, 0.9)})
    assert (found["qwk"].low, found["qwk"].high) == (0.1, 0.9)
    assert (found["accuracy"].low, found["accuracy"].high) == (None, None)
    given = {"qwk": (0.1, 0.9), "referable_auc": (0.2, 0.8), "calibration_error": (0.0, 0.3)}
    page = page_of(finished_run, intervals=given)
    assert page.tables[0][1][1].endswith("0.1000 to 0.9000")
    assert {"0.100 to 0.900", "0.200 to 0.800", "0.000 to 0.300"} <= set(page.texts)


def test_the_confusion_matrix_counts_every_prediction(finished_run: Path) -> None:
    tables = [pd.read_csv(path) for path in sorted(finished_run.glob("fold-*/predictions.csv"))]
    table = pd.concat(tables)
    grades = table[["p0", "p1", "p2", "p3", "p4"]].to_numpy().argmax(axis=1)
    spec = next(spec for spec in page_of(finished_run).specs() if "Confusion" in str(spec))
    rows = spec["data"]["values"]
    assert sum(int(row["count"]) for row in rows) == len(table) == 60
    for label in range(5):
        for grade in range(5):
            count = int(((table["label"] == label) & (grades == grade)).sum())
            assert int(rows[5 * label + grade]["count"]) == count
            assert rows[5 * label + grade]["share"] == pytest.approx(count / 12, abs=1e-4)


def test_curves_are_those_of_the_histories(finished_run: Path) -> None:
    specs = [spec for spec in page_of(finished_run).specs() if "by epoch" in str(spec)]
    qwk = next(spec for spec in specs if spec["description"].startswith("QWK"))
    rows = {(row["series"], row["epoch"]): row["value"] for row in qwk["data"]["values"]}
    held = [pd.read_csv(finished_run / f"fold-{fold}" / "history.csv")["qwk"] for fold in range(3)]
    for fold in range(3):
        assert [rows[str(fold), epoch] for epoch in (1, 2, 3)] == pytest.approx(held[fold], 1e-5)
    assert [rows["mean", epoch] for epoch in (1, 2, 3)] == pytest.approx(np.mean(held, 0), 1e-5)
    kept = qwk["layer"][1]["data"]["values"]
    assert [(row["series"], row["epoch"]) for row in kept] == [("0", 3), ("1", 3), ("2", 3)]


def test_a_page_says_what_is_unfinished(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    shutil.rmtree(run / "fold-2")
    history = run / "fold-1" / "history.csv"
    history.write_text("\n".join(history.read_text().splitlines()[:2]) + "\n")
    result = json.loads((run / "result.json").read_text())
    result |= {"complete": False, "folds": {"0": result["folds"]["0"]}}
    (run / "result.json").write_text(json.dumps(result))
    page = page_of(run)
    text = "".join(page.texts)
    assert "This run is unfinished." in text
    assert "1 of 3 folds are scored" in text
    assert "Missing: fold 1 unfinished: 1 of 3 epochs; fold 2 not begun." in text
    assert ["fold 2not begun", *["–"] * 8] in page.tables[0]


def test_scores_of_the_best_epoch_are_marked_optimistic(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    assert "optimistic" not in "".join(page_of(run).texts)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"optimistic": True}))
    page = page_of(run)
    assert "These scores are optimistic." in "".join(page.texts)
    assert all(row[1].split("sd")[0].endswith("*") for row in page.tables[0][1:])


def test_a_run_without_predictions_has_a_page(make_run: Any) -> None:
    page = page_of(make_run("begun", done=0))
    assert "No fold is finished yet." in "".join(page.texts)
    assert {attributes["id"] for attributes in page.all("section")} == {
        *("scores", "origin", "config")
    }


def test_a_run_trained_on_everything_has_a_page(make_run: Any) -> None:
    page = page_of(make_run("all", done=1, changes={"folds": 1}))
    assert "no fold is held out" in "".join(page.texts)
    titles = [spec["description"].split(" by ")[0] for spec in page.specs() if "layer" in spec]
    assert titles[:2] == ["Loss", "Learning rate"]


def test_every_setting_and_version_is_listed(finished_run: Path) -> None:
    page = page_of(finished_run)
    found = {tuple(row) for table in page.tables for row in table}
    environment = json.loads((finished_run / "environment.json").read_text())
    assert ("schedule.max_lr", "0.01") in found
    assert ("model.weights", "none") in found
    assert ("packages.torch", environment["packages"]["torch"]) in found


def test_hostile_names_stay_text(hostile_run: Path) -> None:
    files = read_run_files(hostile_run)
    assert files.predictions is not None
    mistakes = worst_mistakes(files.predictions, 12)
    picture = Pictures(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8))
    pictures = {mistake.name: picture for mistake in mistakes}
    text = run_page(files, mistakes=mistakes, pictures=pictures)
    page = Page(text)
    for name in HOSTILE:
        assert any(name in shown for shown in page.texts), name
    scripts = [given for given in page.all("script") if given.get("type") != "application/json"]
    assert scripts == [{}, {"type": "module"}, {"type": "module"}]
    assert not page.all("svg")
    assert {image["alt"] for image in page.all("img")} >= {f"Photograph {HOSTILE[0]}"}
    assert all(str(image["src"]).startswith("data:image/jpeg;") for image in page.all("img"))
    assert not any(name.startswith("on") for _, given in page.elements for name in given)
    stages = next(spec for spec in page.specs() if "Time by stage" in str(spec))
    assert [row["name"] for row in stages["data"]["values"]] == [HOSTILE[0], HOSTILE[2]]


def test_the_policy_allows_the_own_scripts_and_nothing_else(finished_run: Path) -> None:
    page = page_of(finished_run)
    policies = [given for given in page.all("meta") if given.get("http-equiv")]
    policy = str(policies[0]["content"])
    parts = {part.split()[0]: part.split()[1:] for part in policy.split("; ")}
    assert parts["default-src"] == ["'none'"]
    assert parts["img-src"] == ["data:"]
    run = [text for given, text in page.scripts if given.get("type") != "application/json"]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run]
    assert [f"'sha256-{digest}'" for digest in digests] == parts["style-src"] + parts["script-src"]


def test_a_page_without_pictures_is_small(finished_run: Path) -> None:
    text = run_page(read_run_files(finished_run))
    assert len(text.encode()) < SIZE_WITHOUT_PICTURES
    given = [given for _, given in Page(text).elements]
    targets = [given[name] for given in given for name in ("src", "href") if name in given]
    assert targets and all(str(target).startswith(("#", "data:")) for target in targets)


def test_headings_go_down_by_one(finished_run: Path) -> None:
    levels = [
        int(tag[1]) for tag, _ in page_of(finished_run).elements if re.fullmatch("h[1-6]", tag)
    ]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_table_has_a_caption_and_headers(finished_run: Path) -> None:
    page = page_of(finished_run)
    assert len(page.all("caption")) == len(page.tables) > 8
    assert all(given["scope"] in ("col", "row") for given in page.all("th"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("environment.json", "{", "environment.json: is no JSON"),
        ("environment.json", "[]", "environment.json: holds no mapping"),
        ("result.json", "{", "result.json is no JSON"),
        ("fold-1/history.csv", "epoch,loss\n1,often\n", "could not convert string to float"),
        ("fold-1/history.csv", "loss\n1\n", "has no column epoch"),
        ("fold-1/predictions.csv", "name,fold\na,1\n", "lacks the columns label, score, p0"),
        ("fold-1/predictions.csv", "name,fold,label,score,p0,p1,p2,p3,p4\na,1\n", "no number"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    name: str, content: str, said: str, finished_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(said)):
        read_run_files(run)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config.yaml; name a run folder"):
        read_run_files(tmp_path)
