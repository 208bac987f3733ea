import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from dr.reporting.comparison import compare, differing_settings, short_labels
from dr.reporting.runs import RunSummary, read_runs
from dr.reporting.text_table import render_table


def summary(name: str = "run", *, qwk: float = 0.6, **changes: object) -> RunSummary:
    run = RunSummary(
        folder=Path(name),
        name=name,
        state="complete",
        settings={"seed": 0, "schedule.name": "cosine", "data": "eyepacs 0a1b"},
        folds={fold: {"qwk": qwk + 0.01 * fold} for fold in range(3)},
        planned_folds=(0, 1, 2),
        mean={"qwk": qwk + 0.01},
        sd={"qwk": 0.01},
        pooled={"qwk": qwk},
        data_digest="0a1b",
        folds_digest="ffee",
    )
    return replace(run, **changes)


def lines_with(table: str, text: str) -> list[str]:
    return [line for line in table.splitlines() if text in line]


def test_runs_go_best_first_then_unscored_unfinished_and_unreadable():
    runs = [
        summary("broken", state="unreadable", problem="p", pooled=None),
        summary("partial", state="unfinished", pooled=None, qwk=0.9),
        summary("unscored", pooled=None),
        summary("worse", qwk=0.5),
        summary("undefined", pooled={"qwk": float("nan")}),
        summary("better", qwk=0.7),
    ]
    names = [run.name for run in compare(runs).rows]
    assert names == ["better", "worse", "undefined", "unscored", "partial", "broken"]


def test_only_differing_settings_are_columns():
    one = {"seed": 0, "epochs": 5, "model.name": "a", "augment.transforms": [{"name": "Flip"}]}
    runs = [summary(settings=one), summary(settings=one | {"model.name": "b"})]
    assert differing_settings(runs) == ("model.name",)
    assert differing_settings(runs[:1]) == ()
    other = one | {"augment.transforms": [{"name": "Flip", "p": 0.1}]}
    assert differing_settings([runs[0], summary(settings=other)]) == ("augment.transforms",)


def test_a_variants_own_settings_are_no_difference_beside_another_variant():
    decay = {"schedule.name": "ramp_decay", "schedule.max_lr": 1e-3, "schedule.decay": 0.8}
    cosine = {"schedule.name": "cosine", "schedule.max_lr": 1e-3, "schedule.warmup_steps": 5}
    both = [summary(settings=decay), summary(settings=cosine)]
    assert differing_settings(both) == ("schedule.name",)
    slower = summary(settings=decay | {"schedule.decay": 0.9})
    assert differing_settings([*both, slower]) == ("schedule.name", "schedule.decay")


def test_a_setting_that_an_older_run_lacks_is_a_difference():
    old = summary(settings={"seed": 0})
    assert differing_settings([old, summary(settings={"seed": 0, "ema": 0.99})]) == ("ema",)
    assert differing_settings([old, summary(settings={"seed": 0, "ema": None})]) == ()
    assert differing_settings([old, summary(settings={"seed": 0, "data": "eyepacs"})]) == ()
    assert differing_settings([old, summary(settings={})]) == ()


def test_labels_are_short_where_unambiguous():
    keys = ("schedule.max_lr", "schedule.name", "model.name", "seed", "a.decay", "b.decay")
    assert short_labels(keys) == ("max_lr", "schedule", "model", "seed", "a.decay", "b.decay")
    assert short_labels(("model.name", "other.model")) == ("model.name", "other.model")


def test_the_full_table_holds_every_number_on_the_runs_line(make_run):
    make_run("good", skill=1.4, changes={"schedule__max_lr": 3e-5})
    outputs = make_run("plain", changes={"schedule__max_lr": 1e-6}).parent
    runs = {run.name: run for run in read_runs(outputs)}
    table = render_table(compare(list(runs.values())))
    header = table.splitlines()[0].split("  ")
    assert [text.strip() for text in header if text.strip()] == [
        "run", "max_lr", "pooled QWK", "mean ± sd", *(f"fold {n}" for n in range(5)), "state",
    ]  # fmt: skip
    for name, rate in (("good", "3e-05"), ("plain", "1e-06")):
        run = runs[name]
        qwks = [f"{run.folds[fold]['qwk']:.4f}" for fold in range(5)]
        mean = [f"{run.mean['qwk']:.4f}", "±", f"{run.sd['qwk']:.4f}"]
        expected = [name, rate, f"{run.pooled['qwk']:.4f}", *mean, *qwks, "complete"]
        assert lines_with(table, name)[0].split() == expected


def test_states_say_how_far_a_run_has_come():
    runs = [
        summary("done"),
        summary("partial", state="unfinished", pooled=None, planned_folds=tuple(range(5))),
        summary("broken", state="unreadable", problem="result.json is no JSON", folds={}),
        summary("open", state="unfinished", planned_folds=(), folds={}),
    ]
    table = render_table(compare(runs))
    ends = {"done": "complete", "partial": "3 of 5 folds", "open": "unfinished"}
    ends["broken"] = "unreadable: result.json is no JSON"
    for name, end in ends.items():
        assert lines_with(table, name)[0].endswith(f"  {end}")


@pytest.mark.parametrize("width", [None, 80])
def test_optimistic_scores_are_marked_and_explained(width):
    runs = [summary("honest", qwk=0.5), summary("best", qwk=0.7, optimistic=True)]
    table = render_table(compare(runs), width=width)
    assert "0.7000*" in table
    assert "0.7100 ± 0.0100*" in table
    assert re.search(r"0\.72(00)?\* ", table)
    assert "0.5000*" not in table
    assert "\n* epoch picked on the fold it is scored on: optimistic\n" in table
    assert "*" not in render_table(compare(runs[:1]), width=width)


def header_of(table: str) -> list[str]:
    return [text.strip() for text in table.splitlines()[0].split("  ") if text.strip()]


def test_sources_have_columns_only_where_some_run_has_several():
    one = summary("one", qwk=0.5)
    two = summary("two", qwk=0.6, sources={"eyepacs": {"qwk": 0.61}, "aptos": {"qwk": 0.72}})
    assert not [text for text in header_of(render_table(compare([one]))) if "eyepacs" in text]
    table = render_table(compare([one, two]))
    before = ["run", "pooled QWK", "mean ± sd"]
    assert header_of(table)[:5] == [*before, "QWK eyepacs", "QWK aptos"]
    assert lines_with(table, "two")[0].split()[4:7] == ["0.0100", "0.6100", "0.7200"]
    assert lines_with(table, "one")[0].split()[4:7] == ["0.0100", "-", "-"]
    for width in (60, 85):
        narrow = render_table(compare([one, two]), width=width)
        assert "QWK by source" in narrow
        assert "eyepacs 0.61 aptos 0.72" in narrow
        assert max(map(cell_len, narrow.splitlines())) <= width


@pytest.mark.parametrize("width", [None, 60, 90])
def test_the_test_score_is_named_as_such_and_never_marked_optimistic(width):
    tested = summary("b", qwk=0.5, test={"qwk": 0.4321}, test_name="aptos 0a1b", optimistic=True)
    waiting = summary("a", qwk=0.6, test_name="aptos 0a1b")
    table = render_table(compare([waiting, tested]), width=width)
    assert "test QWK" in table.partition("0.4321")[0]
    assert "0.4321" in table
    assert "0.4321*" not in table
    assert "together on an outside set: aptos 0a1b" in " ".join(table.split())
    assert [run.name for run in compare([tested, waiting]).rows] == ["a", "b"]
    assert "test QWK" not in render_table(compare([waiting]), width=width)


def test_a_test_set_that_shares_photographs_with_the_training_is_marked():
    fair = summary("fair", test={"qwk": 0.4321}, test_name="aptos 0a1b")
    leaking = summary("leaking", test={"qwk": 0.8765}, test_name="aptos 0a1b", test_shared=3)
    table = render_table(compare([fair, leaking]))
    assert "0.8765!" in table
    assert "0.4321!" not in table
    assert "! its records seem to be among those trained on" in table
    assert "!" not in render_table(compare([fair]))


def test_records_that_were_left_out_stand_beside_the_state():
    table = render_table(compare([summary("whole"), summary("partly", skipped=2)]))
    assert "complete, 2 unreadable records left out" in table
    assert table.count("left out") == 1


def test_different_test_sets_are_named_as_not_comparable():
    one = summary("one", test={"qwk": 0.4}, test_name="aptos 0a1b")
    two = summary("two", test={"qwk": 0.5}, test_name="messidor 9f9f")
    notes = compare([one, two]).notes
    assert "Not comparable: these runs have different test sets." in notes
    assert {"test QWK on aptos 0a1b: one", "test QWK on messidor 9f9f: two"} <= set(notes)


def test_runs_on_different_folds_or_data_are_named_as_not_comparable():
    first, same = summary("first"), summary("same")
    folds = summary("folds", folds_digest="0123456789")
    data = summary("other", data_digest="beef", settings={"data": "aptos beef"})
    assert "comparable" not in render_table(compare([first, same]))
    notes = compare([first, same, folds]).notes
    assert notes[0] == "Not comparable: these runs were scored on different folds."
    assert notes[1:3] == (
        "(1) eyepacs 0a1b, folds ffee: first, same",
        "(2) eyepacs 0a1b, folds 01234567: folds",
    )
    table = render_table(compare([data, first]))
    assert "\nNot comparable: these runs were scored on different data.\n" in table
    assert "\n(1) eyepacs 0a1b, folds ffee: first\n(2) aptos beef, folds ffee: other\n" in table
    odd = replace(folds, name="two\nlines")
    assert compare([first, odd]).notes[2].endswith(": two\\nlines")
    unscored = replace(folds, folds={}, pooled=None, state="unfinished")
    assert "comparable" not in render_table(compare([first, unscored]))


def test_several_scored_runs_are_told_what_another_seed_does():
    assert "another seed" in render_table(compare([summary("a"), summary("b")]))
    assert "another seed" not in render_table(compare([summary("a")]))


def test_markup_control_characters_and_wide_letters_in_names_are_harmless():
    names = ["[red]x[/red]", ":smile:", "esc\x1b[31m", "two\nlines", "眼底", "\udcff"]
    table = render_table(compare([summary(name) for name in names]))
    for shown in ("[red]x[/red]", ":smile:", "esc\\x1b[31m", "two\\nlines", "眼底", "\\udcff"):
        assert len(lines_with(table, f"{shown} ")) == 1
    rows = lines_with(table, "complete")
    assert len(rows) == len(names)
    assert len({cell_len(row.partition("0.6000")[0]) for row in rows}) == 1


@pytest.mark.parametrize("width", [None, 80])
def test_a_narrow_encoding_gets_text_it_can_hold(width):
    runs = [summary("ünï"), summary("眼")]
    table = render_table(compare(runs), width=width, encoding="ascii")
    assert table.isascii()
    assert "0.6100 +- 0.0100" in table
    assert "\\xfcn\\xef" in table


def long_runs() -> list[RunSummary]:
    name = "tf_efficientnet_lite0_ramp_decay_1a2b3c4"
    folds = {fold: {"qwk": 0.6 + 0.01 * fold} for fold in range(5)}
    five = {"folds": folds, "planned_folds": tuple(range(5))}
    first = {"seed": 0, "model.name": "tf_efficientnet_lite0", "schedule.max_lr": 1e-3}
    changed = first | {"seed": 1, "model.name": "resnet18", "schedule.max_lr": 3e-3}
    runs = [summary(f"{name}d", settings=first, **five)]
    runs.append(summary(f"{name}e", settings=changed, optimistic=True, **five))
    problem = "result.json is no JSON: Expecting property name enclosed in double quotes"
    return [*runs, summary("broken", state="unreadable", problem=problem, folds={})]


@pytest.mark.parametrize("width", [60, 80, 100, 120, 150, 200, 400])
def test_the_table_fits_its_terminal_and_keeps_numbers_whole(width):
    table = render_table(compare(long_runs()), width=width)
    assert max(map(cell_len, table.splitlines())) <= width
    for fold in range(1, 5):
        assert len(re.findall(rf" 0\.6{fold}(?:00)?\*?(?:\s|$)", table)) >= 2
    for whole in ("0.6000", "0.6100 ± 0.0100", "tf_efficientnet_lite0_ramp_decay_1a2b3c4d"):
        assert whole in table
    assert "complete" in table
    assert "double quotes" in " ".join(table.split())


def test_folds_share_a_column_where_a_column_each_does_not_fit():
    runs = long_runs()[:2]
    wide = render_table(compare(runs), width=400)
    assert "fold 3" in wide
    for width in (150, 80):
        table = render_table(compare(runs), width=width)
        assert "fold 3" not in table
        assert "QWK by fold" in table
        assert "0.60 0.61 0.62 0.63 0.64" in table
        assert "0.60* 0.61* 0.62* 0.63* 0.64*" in table
    assert "model=resnet18 max_lr=0.003" in render_table(compare(runs), width=80)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 90), st.integers(1, 12), st.text(min_size=1, max_size=90))
def test_rendering_takes_any_width_and_name(width, folds, name):
    scores = {fold: {"qwk": -0.1234} for fold in range(folds)}
    runs = [summary(name, folds=scores, optimistic=True), summary("other", qwk=0.5)]
    table = render_table(compare(runs), width=width)
    assert max(map(cell_len, table.splitlines())) <= max(width, 60)
    assert len(re.findall(r" -0\.12(?:34)?\*", table)) == folds


def test_settings_are_shown_as_one_types_them():
    flip = [{"name": "HorizontalFlip", "p": 0.5}, {"name": "Rotate"}]
    one = {"size": 512, "drop": None, "nesterov": True, "betas": [0.9, 0.99], "lr": 1e-5}
    other = {"size": None, "drop": 0.1, "nesterov": False, "betas": [0.9], "lr": 1.0}
    runs = [
        summary("first", settings=one | {"augment.transforms": flip}),
        summary("second", settings=other | {"augment.transforms": []}),
    ]
    row = lines_with(render_table(compare(runs)), "first")[0].split()
    shown = ["512", "null", "true", "[0.9,0.99]", "1e-05", "[HorizontalFlip,Rotate]"]
    assert row[1:7] == shown


def test_lists_that_differ_in_arguments_only_are_shown_whole():
    for_each = [{"transforms": [{"name": "Flip", "p": p}]} for p in (0.25, 0.75)]
    table = render_table(compare([summary(str(n), settings=s) for n, s in enumerate(for_each)]))
    assert '"p": 0.25' in table
    assert '"p": 0.75' in table


def test_comparing_nothing_is_refused():
    with pytest.raises(ValueError, match="no runs"):
        compare([])


def test_importing_the_comparison_stays_light():
    code = (
        "import sys, dr.reporting.comparison;"
        "heavy = {'torch', 'sklearn', 'pandas', 'matplotlib', 'scipy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
