import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from dr.scoring.metrics import (
    SCORES,
    from_json,
    grade_of,
    score_predictions,
    summarize,
    to_json,
)


def predictions(seed: int, records: int, grades: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, grades, records)
    logits = rng.normal(size=(records, 5)) + 2 * np.eye(5)[labels]
    if seed % 2:
        logits = logits.round()
    chances = np.exp(logits)
    return labels, chances / chances.sum(axis=1, keepdims=True)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 80), st.integers(1, 5))
def test_scores_are_sklearns(seed, records, grades):
    labels, chances = predictions(seed, records, grades)
    losses = -np.log(chances[np.arange(records), labels])
    ours = score_predictions(labels=labels, probabilities=chances, losses=losses)
    assert tuple(ours) == SCORES
    predicted = chances.argmax(axis=1)
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert ours["loss"] == pytest.approx(sk.log_loss(labels, chances, labels=range(5)))
    truth, call = labels >= 2, predicted >= 2
    for name, positive in (("sensitivity", True), ("specificity", False)):
        recall = sk.recall_score(truth, call, pos_label=positive, zero_division=math.nan)
        assert ours[name] == pytest.approx(recall, nan_ok=True)
    if len({*labels, *predicted}) > 1:
        kappa = sk.cohen_kappa_score(labels, predicted, weights="quadratic", labels=range(5))
        assert ours["qwk"] == pytest.approx(kappa, abs=1e-12)


def test_macro_auc_of_all_grades_is_sklearns():
    labels, chances = predictions(4, 300)
    ours = score_predictions(labels=labels, probabilities=chances, losses=None)
    theirs = sk.roc_auc_score(labels, chances, multi_class="ovr", average="macro")
    assert ours["macro_auc"] == pytest.approx(theirs)
    assert math.isnan(ours["loss"])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(2, 4))
def test_macro_auc_is_the_mean_of_sklearns_over_the_grades_that_occur(seed, records, grades):
    labels, chances = predictions(seed, records, grades)
    occurring = set(labels.tolist())
    areas = []
    if len(occurring) > 1:
        areas = [sk.roc_auc_score(labels == grade, chances[:, grade]) for grade in occurring]
    ours = score_predictions(labels=labels, probabilities=chances, losses=None)["macro_auc"]
    assert ours == pytest.approx(np.mean(areas) if areas else math.nan, nan_ok=True)


def test_macro_auc_counts_ties_as_half():
    chances = [[0.5, 0.5, 0, 0, 0], [0.5, 0.5, 0, 0, 0], [0.2, 0.8, 0, 0, 0]]
    ours = score_predictions(labels=[0, 1, 1], probabilities=chances, losses=None)
    assert ours["macro_auc"] == pytest.approx(0.75)


def test_one_grade_alone_leaves_scores_undefined():
    chances = np.eye(5)[[0, 0, 0]]
    ours = score_predictions(labels=[0, 0, 0], probabilities=chances, losses=[1, 2, 3])
    undefined = {name for name, value in ours.items() if math.isnan(value)}
    assert undefined == {"qwk", "macro_auc", "sensitivity"}
    assert (ours["accuracy"], ours["specificity"], ours["loss"]) == (1, 1, 2)


def test_the_predicted_grade_is_the_most_probable_the_lower_of_equals():
    chances = [[0.1, 0.2, 0.3, 0.4, 0], [0, 0.4, 0.2, 0.4, 0], [0.2] * 5]
    grades = grade_of(chances)
    assert grades.dtype == np.int64
    assert grades.tolist() == [3, 1, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 1]}, "2 labels, 3 probabilities"),
        ({"labels": [0, 1, 5]}, "labels hold 5"),
        ({"probabilities": np.ones((3, 4)) / 4}, r"probabilities have the shape \(3, 4\)"),
        ({"probabilities": [[0.2] * 5, [0.2] * 5, [math.nan] * 5]}, "probabilities of record 2"),
        ({"probabilities": np.eye(5)[:3] * 7}, "of record 0 are .*must be in"),
        ({"losses": [1.0]}, r"losses have the shape \(1,\): give one for 3 records"),
    ],
)
def test_bad_predictions_are_refused(change, message):
    good = {"labels": [0, 1, 2], "probabilities": np.eye(5)[:3], "losses": None}
    with pytest.raises(ValueError, match=message):
        score_predictions(**(good | change))


def fold_scores(**scores: float) -> dict[str, float]:
    return dict.fromkeys(SCORES, 0.5) | scores


def test_summary_is_mean_and_sample_deviation():
    values = [0.61, 0.58, 0.66]
    mean, sd = summarize({fold: fold_scores(qwk=qwk) for fold, qwk in enumerate(values)})
    assert mean["qwk"] == pytest.approx(np.mean(values))
    assert sd["qwk"] == pytest.approx(
        math.sqrt(sum((v - np.mean(values)) ** 2 for v in values) / 2)
    )
    assert (mean["loss"], sd["loss"]) == (0.5, 0)
    assert tuple(mean) == tuple(sd) == SCORES


def test_summary_lets_an_undefined_fold_show():
    mean, sd = summarize({0: fold_scores(qwk=math.nan), 1: fold_scores()})
    assert math.isnan(mean["qwk"])
    assert math.isnan(sd["qwk"])
    assert mean["accuracy"] == 0.5


@pytest.mark.filterwarnings("error")
def test_summary_of_one_fold_has_no_deviation():
    mean, sd = summarize({3: fold_scores(qwk=0.7, epoch=4)})
    assert mean["qwk"] == 0.7
    assert "epoch" not in mean
    assert all(math.isnan(value) for value in sd.values())


def test_summary_refuses_missing_folds_and_scores():
    with pytest.raises(ValueError, match="no fold's scores"):
        summarize({})
    with pytest.raises(ValueError, match="fold 2 lacks accuracy, loss"):
        summarize({2: {"qwk": 1.0}})


def test_json_form_keeps_undefined_scores_as_null():
    scores = {"qwk": math.nan, "loss": math.inf, "accuracy": 0.25, "records": 7}
    text = json.dumps(to_json(scores), allow_nan=False)
    assert text == '{"qwk": null, "loss": null, "accuracy": 0.25, "records": 7}'
    back = from_json(json.loads(text))
    assert math.isnan(back["qwk"])
    assert back["accuracy"] == 0.25
    assert isinstance(back["records"], int)


def test_importing_the_scores_does_not_import_sklearn():
    code = "import sys, dr.scoring.metrics; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
