"""Which records a fold trains on and is scored on."""

import logging

import numpy as np
import pandas as pd
import pytest

from dr.loading.folds import assign_folds
from dr.loading.split import Split, split_records


def table_of(patients: int = 40, **columns: list[str]) -> pd.DataFrame:
    grades = np.random.default_rng(0).integers(0, 5, patients)
    names = [f"p{number}" for number in range(patients)]
    table = {"patient": np.repeat(names, 2), "label": np.repeat(grades, 2)}
    return pd.DataFrame({**table, **columns})


def split(table: pd.DataFrame, folds: int = 4, column: str | None = None, seed: int = 0) -> Split:
    return split_records(table, folds=folds, fold_column=column, seed=seed)


def test_every_record_is_held_out_once_and_patients_stay_together() -> None:
    table = table_of()
    found = split(table)
    assert found.count == 4
    held = np.concatenate([found.held_out(fold) for fold in range(4)])
    assert np.array_equal(np.sort(held), np.arange(80))
    for fold in range(4):
        trained = found.training(fold)
        assert np.array_equal(np.union1d(trained, found.held_out(fold)), np.arange(80))
        patients = [set(table["patient"][rows]) for rows in (trained, found.held_out(fold))]
        assert not patients[0] & patients[1]


def test_folds_are_those_of_assign_folds() -> None:
    table = table_of()
    expected = assign_folds(
        labels=table["label"].to_numpy(), patients=table["patient"].tolist(), folds=4, seed=3
    )
    assert np.array_equal(split(table, seed=3).fold_of, expected)
    assert not np.array_equal(split(table, seed=4).fold_of, expected)


def test_one_fold_trains_on_everything() -> None:
    found = split(table_of(), folds=1)
    assert found.count == 1
    assert np.array_equal(found.training(0), np.arange(80))
    assert len(found.held_out(0)) == 0


def test_a_column_gives_numbered_folds() -> None:
    values = [str(row // 2 % 3) for row in range(80)]
    found = split(table_of(site=values), folds=9, column="site")
    assert found.count == 3
    assert np.array_equal(found.held_out(1), np.flatnonzero(np.array(values) == "1"))
    assert np.array_equal(found.training(1), np.flatnonzero(np.array(values) != "1"))


def test_a_column_gives_training_and_validation() -> None:
    found = split(table_of(part=["train"] * 60 + ["val"] * 20), column="part")
    assert found.count == 1
    assert np.array_equal(found.training(0), np.arange(60))
    assert np.array_equal(found.held_out(0), np.arange(60, 80))


def test_rows_of_minus_1_are_always_trained_on_and_never_scored() -> None:
    found = split(table_of(fold=["-1"] * 20 + ["0"] * 30 + ["1"] * 30), column="fold")
    always = np.arange(20)
    for fold in range(2):
        assert np.isin(always, found.training(fold)).all()
        assert not np.isin(always, found.held_out(fold)).any()
    assert found.count == 2


def test_a_missing_column_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"fold_column=site: .* only patient, label"):
        split(table_of(), column="site")


def test_a_patient_on_both_sides_is_refused() -> None:
    with pytest.raises(ValueError, match="p30 in"):
        split(table_of(part=["train"] * 61 + ["val"] * 19), column="part")


LINKS = [(f"p{number}", f"p{number + 7}") for number in range(0, 30, 3)] + [("p7", "p8")]


@pytest.mark.parametrize("sources", [None, np.repeat([0, 1], 40)])
def test_linked_patients_share_a_fold(sources: np.ndarray | None) -> None:
    table = table_of()
    found = split_records(
        table,
        folds=4,
        fold_column=None,
        seed=0,
        sources=sources,
        links=LINKS,
        group_duplicates=True,
    )
    fold = dict(zip(table["patient"], found.fold_of, strict=True))
    assert all(fold[one] == fold[other] for one, other in LINKS)
    assert sorted(set(found.fold_of)) == [0, 1, 2, 3]
    assert max(np.bincount(found.fold_of)) <= 28


def test_without_links_grouping_changes_nothing_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = table_of()
    for links, said in (((), "has no effect"), (None, "is not known")):
        caplog.clear()
        found = split_records(
            table, folds=4, fold_column=None, seed=0, links=links, group_duplicates=True
        )
        assert np.array_equal(found.fold_of, split(table).fold_of)
        assert f"group_duplicates=true: {said}" in caplog.text or said in caplog.text


def test_parted_patients_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    table = table_of()
    plain = split(table)
    fold = dict(zip(table["patient"], plain.fold_of, strict=True))
    parted = [pair for pair in LINKS if fold[pair[0]] != fold[pair[1]]]
    assert 0 < len(parted) < len(LINKS)
    with caplog.at_level(logging.WARNING):
        found = split_records(table, folds=4, fold_column=None, seed=0, links=LINKS)
    assert np.array_equal(found.fold_of, plain.fold_of)
    assert f"{len(parted)} pairs of copied photographs have patients in different" in caplog.text
    assert "group_duplicates=true" in caplog.text


def test_one_fold_parts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    split_records(table_of(), folds=1, fold_column=None, seed=0, links=LINKS)
    assert caplog.text == ""


def test_a_column_that_parts_linked_patients_is_refused_or_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = table_of(part=["train"] * 60 + ["val"] * 20)
    links = [("p1", "p2"), ("p3", "p35")]
    options = {"folds": 4, "fold_column": "part", "seed": 0, "links": links}
    with pytest.raises(ValueError, match=r"group_duplicates=true: 1 pairs .*p3 and p35"):
        split_records(table, **options, group_duplicates=True)
    split_records(table, **options)
    assert "1 pairs of copied photographs" in caplog.text
    caplog.clear()
    split_records(table, **options | {"links": links[:1]}, group_duplicates=True)
    assert caplog.text == ""
