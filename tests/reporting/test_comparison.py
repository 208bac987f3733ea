import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.comparing import write_runs
from dr.checks.doors import check_compare
from dr.compose import build, compose
from dr.config import CompareConfig, ConfigError
from dr.reporting.comparison import Asked, compare, p_value, verdict
from dr.reporting.formats import to_csv, to_json, to_markdown
from dr.reporting.runs import RunSummary, read_runs
from dr.reporting.selecting import find_run, find_setting, keep_runs
from dr.reporting.setting_groups import group_by, group_settings
from dr.reporting.text_table import render_table


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six complete runs of three rates, seeds 0 and 1 each, on 60 patients."""
    folder = tmp_path_factory.mktemp("outputs")
    write_runs(folder, runs=6, patients=60)
    return folder


def run(name: str, *, seed: int = 0, qwk: float = 0.5, **changes: object) -> RunSummary:
    made = RunSummary(
        folder=Path(name),
        name=name,
        state="complete",
        settings={"seed": seed, "schedule.name": "cosine", "epochs": 5},
        folds={0: {"qwk": qwk}, 1: {"qwk": qwk + 0.1}},
        planned_folds=(0, 1),
        mean={"qwk": qwk + 0.05, "loss": 1.0},
        sd={"qwk": 0.07},
        pooled={"qwk": qwk},
        data_digest="d",
        folds_digest="f",
    )
    return dataclasses.replace(made, **changes)


def test_runs_that_differ_in_their_seed_alone_are_one_row_with_their_means():
    (one,) = group_settings([run("b", seed=1, qwk=0.6), run("a", seed=0, qwk=0.5)])
    assert [own.name for own in one.runs] == ["a", "b"]
    assert one.summary.pooled["qwk"] == pytest.approx(0.55)
    assert one.summary.folds[1]["qwk"] == pytest.approx(0.65)
    assert one.summary.settings["seed"] == [0, 1]
    assert one.summary.state == "complete"


def test_unfinished_seeds_are_flagged_and_never_averaged_over():
    open_run = run("c", seed=2, qwk=0.9, state="unfinished", pooled=None, folds={0: {"qwk": 0.9}})
    (one,) = group_settings([run("a"), run("b", seed=1, qwk=0.6), open_run])
    assert one.summary.pooled["qwk"] == pytest.approx(0.55)
    assert one.summary.state == "unfinished"
    assert len(one.complete) == 2
    table = render_table(compare([run("a"), run("b", seed=1), open_run]))
    assert "seed 2: 1 of 2 folds" in table
    assert "2 of 3" in table


def test_a_second_run_of_a_seed_other_folds_and_other_data_stay_apart():
    runs = [run("a"), run("a-2"), run("b", seed=1), run("c", seed=2, folds_digest="g")]
    assert [len(one.runs) for one in group_settings(runs)] == [2, 1, 1]
    assert len(group_settings([run("a"), run("b", seed=1, data_digest="e")])) == 2
    broken = [run(name, state="unreadable", pooled=None) for name in "ab"]
    assert len(group_settings(broken)) == 2


def test_what_older_runs_lack_is_no_other_setting_where_it_is_null():
    newer = run("b", seed=1)
    newer = dataclasses.replace(newer, settings=newer.settings | {"ema_decay": None})
    assert len(group_settings([run("a"), newer])) == 1


def test_grouping_by_a_setting_pools_whatever_else_differs():
    rates = [
        run(f"r{rate}{epochs}", settings={"seed": 0, "epochs": epochs, "lr": rate}, qwk=rate)
        for rate in (0.1, 0.3)
        for epochs in (5, 6)
    ]
    by_epochs = group_by(rates, "epochs")
    assert [len(one.runs) for one in by_epochs] == [2, 2]
    assert by_epochs[0].summary.settings == {"epochs": 5}
    assert by_epochs[0].summary.pooled["qwk"] == pytest.approx(0.2)
    compared = compare(rates, Asked(by="epochs"))
    assert compared.columns == ("epochs",)
    assert all(row.judgement is None for row in compared.rows)


def test_a_comparison_of_seeds_is_about_settings_and_says_so(outputs):
    compared = compare(read_runs(outputs))
    assert len(compared.rows) == 3
    assert all(row.judgement.about_settings for row in compared.rows)
    words = {verdict(row, comparison=compared) for row in compared.rows}
    assert words <= {"best", "may be best", "below best"}
    assert any("new seeds" in note for note in compared.notes)
    assert not any("trained models" in note for note in compared.notes)
    assert all(np.isnan(p_value(row, compared)) for row in compared.rows)


def test_a_comparison_of_single_seeds_never_calls_a_setting_better(outputs):
    runs = keep_runs(read_runs(outputs), {"seed": 0})
    compared = compare(runs)
    words = {verdict(row, comparison=compared) for row in compared.rows}
    assert words <= {"best model", "not told apart", "models differ"}
    assert any("between these trained models" in note for note in compared.notes)
    against = compare(runs, Asked(baseline=runs[1].name))
    words = {verdict(row, comparison=against) for row in against.rows}
    assert words <= {"baseline model", "not told apart", "models differ"}


def test_of_two_rows_the_difference_has_a_p_value(outputs):
    compared = compare([one for one in read_runs(outputs) if one.name < "simulated_0004"])
    assert sorted(np.isnan(p_value(row, compared)) for row in compared.rows) == [False, True]


def test_where_keeps_runs_by_short_keys_values_and_lists(outputs):
    runs = read_runs(outputs)
    assert len(keep_runs(runs, {"seed": 1})) == 3
    assert len(keep_runs(runs, {"schedule": {"max_lr": 0.0002}})) == 2
    assert len(keep_runs(runs, {"max_lr": [0.0001, 0.0002], "seed": 0})) == 2
    assert len(keep_runs(runs, {"schedule": "ramp_decay"})) == 6
    with pytest.raises(ValueError, match=r"where\.seed=7: no such run; seed is 0, 1"):
        keep_runs(runs, {"seed": 7})
    with pytest.raises(ValueError, match="sede: is no setting of these runs; near are seed"):
        keep_runs(runs, {"sede": 1})


def test_names_and_keys_are_found_by_their_ends_or_refused(outputs):
    runs = read_runs(outputs)
    assert find_run(runs, "0003") == "simulated_0003"
    with pytest.raises(ValueError, match="baseline=nowhere: no finished run"):
        find_run(runs, "nowhere")
    with pytest.raises(ValueError, match="6 finished runs"):
        find_run(runs, "")
    assert find_setting(runs, "schedule") == "schedule.name"
    assert find_setting(runs, "max_lr") == "schedule.max_lr"
    with pytest.raises(ValueError, match=r"name: may be .* or .*; give the whole key"):
        find_setting(runs, "name")


@pytest.mark.parametrize("sort", ["qwk", "mean", "name"])
def test_rows_go_in_the_order_asked_for(outputs, sort):
    compared = compare(read_runs(outputs), Asked(sort=sort))
    keys = {
        "qwk": [-row.summary.pooled["qwk"] for row in compared.rows],
        "mean": [-row.summary.mean["qwk"] for row in compared.rows],
        "name": [row.name for row in compared.rows],
    }
    assert keys[sort] == sorted(keys[sort])


def test_json_holds_what_the_table_shows(outputs):
    compared = compare(read_runs(outputs), Asked(baseline="simulated_0000"))
    document = json.loads(to_json(compared))
    assert document["schema_version"] == 1
    assert document["reference"] == "baseline"
    for held, row in zip(document["rows"], compared.rows, strict=True):
        assert held["qwk"] == row.summary.pooled["qwk"]
        assert (held["low"], held["high"]) == (row.judgement.score.low, row.judgement.score.high)
        assert [one["seed"] for one in held["runs"]] == [0, 1]
        if row.judgement.reference:
            assert held["p_value"] is None
        else:
            assert held["p_value"] == row.judgement.p_adjusted
            assert held["difference_low"] < held["difference"] < held["difference_high"]


def test_csv_has_a_row_a_setting_and_reads_back(outputs):
    compared = compare(read_runs(outputs))
    rows = list(csv.DictReader(io.StringIO(to_csv(compared))))
    assert [row["name"] for row in rows] == [row.name for row in compared.rows]
    for held, row in zip(rows, compared.rows, strict=True):
        assert float(held["qwk"]) == pytest.approx(row.summary.pooled["qwk"], abs=1e-6)
        assert float(held["max_lr"]) == row.summary.settings["schedule.max_lr"]
        assert held["runs"] == "2"


def test_markdown_escapes_what_would_be_markup():
    lines = to_markdown(compare([run("a|b<c>"), run("plain_name")])).splitlines()
    assert lines[0].startswith("| name | ")
    assert r"a\|b\<c\>" in lines[2]
    cells = [line.replace(r"\|", "").count("|") for line in lines[:4]]
    assert len(set(cells)) == 1


def test_bad_values_of_the_door_are_told_all_at_once():
    bad = {"format": "xml", "sort": "size", "draws": 1, "where": "x", "by": "a", "baseline": "b"}
    with pytest.raises(ConfigError) as caught:
        build(CompareConfig, bad, check_compare)
    keys = [problem.key for problem in caught.value.problems]
    assert keys == ["format", "sort", "draws", "where", "baseline"]


def test_the_door_takes_dotted_keys_of_where():
    config = compose("compare", CompareConfig, ["where.schedule=cosine", "where.model.name=b4"])
    assert config.where == {"schedule": "cosine", "model": {"name": "b4"}}
