import json
import math

import pytest
import yaml

from dr.reporting.runs import read_run, read_runs


def test_a_finished_run_reads_back(make_run):
    folder = make_run("net_ramp_decay_1a2b3c4d", changes={"seed": 7})
    written = json.loads((folder / "result.json").read_text())
    run = read_run(folder)
    assert (run.name, run.state, run.problem) == ("net_ramp_decay_1a2b3c4d", "complete", None)
    assert run.pooled == written["pooled"]
    assert (run.mean, run.sd) == (written["mean"], written["sd"])
    assert list(run.folds) == list(run.planned_folds) == [0, 1, 2, 3, 4]
    assert run.folds[3] == written["folds"]["3"]
    assert run.optimistic is False
    assert run.data_digest == "sha256:0a1b2c3d4e5f"


def test_settings_are_flat_and_only_those_that_decide_the_result(make_run):
    settings = read_run(make_run("run")).settings
    assert settings["schedule.max_lr"] == 0.001
    assert settings["augment.transforms"] == [{"name": "HorizontalFlip", "p": 0.5}]
    assert settings["accel.precision"] == "float32"
    assert settings["folds"] == 5
    assert settings["data"] == "eyepacs 0a1b2c3d"
    groups = {key.partition(".")[0] for key in settings}
    assert groups.isdisjoint({"preparation", "loader", "fold", "outputs"})
    assert {"data.kind", "accel.name", "accel.threads"}.isdisjoint(settings)


def test_undefined_scores_read_as_nan(make_run):
    run = read_run(make_run("all", done=1, changes={"folds": 1}))
    assert run.state == "complete"
    assert math.isnan(run.folds[0]["qwk"])
    assert math.isnan(run.sd["qwk"])
    assert run.folds[0]["epoch"] == 6
    assert run.pooled is None


def test_a_run_without_all_folds_is_unfinished(make_run):
    run = read_run(make_run("some", done=3))
    assert (run.state, len(run.folds), len(run.planned_folds)) == ("unfinished", 3, 5)


def test_a_run_cut_off_before_its_first_score_is_unfinished(make_run):
    nothing = {"mean": None, "sd": None, "pooled": None, "folds": {}, "complete": False}
    run = read_run(make_run("begun", result=nothing))
    assert (run.state, run.mean, run.sd, run.problem) == ("unfinished", {}, {}, None)


def test_records_left_out_and_shared_test_records_are_counted(make_run):
    test = {"name": "o", "digest": "0a1b2c3d4e", "ensemble": {"qwk": 0.5}, "shared": 4}
    run = read_run(make_run("odd", result={"skipped": 2, "test": test}))
    assert (run.skipped, run.test_shared) == (2, 4)
    assert (read_run(make_run("plain")).skipped, read_run(make_run("bare")).test_shared) == (0, 0)


def test_a_run_without_a_result_is_unfinished_with_the_folds_it_asked_for(make_run):
    folder = make_run("fresh", changes={"folds": 4, "fold": 2})
    (folder / "result.json").unlink()
    run = read_run(folder)
    assert (run.state, run.folds, run.planned_folds) == ("unfinished", {}, (0, 1, 2, 3))
    assert "data" not in run.settings


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema_version": 2}, "has schema_version 2, this dr reads up to 1: update dr"),
        ({"schema_version": None}, "has no schema_version"),
        ({"complete": "yes"}, "complete is 'yes', not true or false"),
        ({"folds": {"0": {"qwk": "high"}}}, "folds.0.qwk is 'high', not a number"),
        ({"folds": {"0": {"loss": 1.0}}}, "folds.0 has no qwk"),
        ({"folds": {"first": {}}}, "folds has the key 'first', not a number"),
        ({"folds": [1]}, "folds is [1], not a mapping"),
        ({"planned_folds": ["a"]}, "planned_folds is ['a'], not a list of folds"),
        ({"data": {"name": "eyepacs"}}, "data.digest is None, not a text"),
        ({"pooled": 0.6}, "pooled is 0.6, not a mapping"),
    ],
)
def test_a_result_of_another_form_is_unreadable_and_says_why(make_run, change, problem):
    run = read_run(make_run("odd", result=change))
    assert run.state == "unreadable"
    assert "result.json" in run.problem
    assert problem in run.problem
    assert run.pooled is None
    assert run.settings["seed"] == 0


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("result.json", b'{"schema_version": 1,', "result.json is no JSON: "),
        ("result.json", b"[]", "result.json has no schema_version"),
        ("result.json", b'"\xff\xfe"', "result.json is no JSON in UTF-8"),
        ("config.yaml", b"a: [1\nb: 2", "config.yaml is no YAML, line 2"),
        ("config.yaml", b"", "config.yaml holds no mapping"),
        ("folds.csv", b"\xff\xfe\xfa", "folds.csv is no CSV in UTF-8"),
    ],
)
def test_a_broken_file_is_named_and_leaves_other_runs_readable(make_run, file, content, problem):
    good, bad = make_run("a_good"), make_run("b_bad")
    (bad / file).write_bytes(content)
    runs = read_runs(good.parent)
    assert [run.state for run in runs] == ["complete", "unreadable"]
    assert problem in runs[1].problem
    assert "\n" not in runs[1].problem


def test_the_digest_of_the_folds_ignores_the_order_of_rows_only(make_run):
    one, two, other = make_run("one"), make_run("two"), make_run("other", partition=1)
    head, *rows = (two / "folds.csv").read_text().splitlines()
    (two / "folds.csv").write_text("\n".join([head, *reversed(rows)]) + "\n")
    digests = [read_run(run).folds_digest for run in (one, two, other)]
    assert digests[0] == digests[1] != digests[2]


def test_only_visible_folders_with_a_config_are_runs(make_run):
    outputs = make_run("b").parent
    make_run("a")
    make_run(".hidden")
    (outputs / "notes").mkdir()
    (outputs / "README.md").write_text("text")
    assert [run.name for run in read_runs(outputs)] == ["a", "b"]


def test_no_runs_says_how_to_make_one(tmp_path):
    (tmp_path / ".cache").mkdir()
    for folder, message in ((tmp_path / "gone", "no such folder"), (tmp_path, "holds no run")):
        with pytest.raises(ValueError, match=message) as caught:
            read_runs(folder)
        for part in (str(folder), "python -m dr.train", "outputs=DIR"):
            assert part in str(caught.value)


def test_fold_columns_leave_the_planned_folds_open(make_run):
    folder = make_run("column", changes={"fold_column": "site"})
    (folder / "result.json").unlink()
    assert read_run(folder).planned_folds == ()
    assert yaml.safe_load((folder / "config.yaml").read_text())["fold_column"] == "site"


def test_sources_and_the_test_set_read_back(make_run):
    scores = {"qwk": 0.5, "accuracy": None, "records": 30}
    test = {"name": "aptos", "digest": "0123456789", "folds": [], "ensemble": {"qwk": 0.4}}
    run = read_run(make_run("several", result={"sources": {"a": scores}, "test": test}))
    assert run.sources["a"]["qwk"] == 0.5
    assert math.isnan(run.sources["a"]["accuracy"])
    assert (run.test, run.test_name) == ({"qwk": 0.4}, "aptos 01234567")
    waiting = read_run(make_run("waiting", result={"test": test | {"ensemble": None}}))
    assert (waiting.test, waiting.test_name, waiting.sources) == (None, "aptos 01234567", {})
    plain = read_run(make_run("plain"))
    assert (plain.test, plain.test_name) == (None, None)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"sources": []}, "sources is [], not a mapping"),
        ({"sources": {"a": {}}}, "sources.a has no qwk"),
        ({"test": {"ensemble": None}}, "test.name is None, not a text"),
        ({"test": {"name": "a", "digest": "b", "ensemble": {}}}, "test.ensemble has no qwk"),
    ],
)
def test_sources_and_test_sets_of_another_form_are_unreadable(make_run, change, problem):
    run = read_run(make_run("odd", result=change))
    assert (run.state, run.problem) == ("unreadable", f"result.json: {problem}")
