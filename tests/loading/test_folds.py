import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from dr.loading.folds import assign_folds, check_patients_apart, given_folds

TABLE = Path(os.environ.get("DR_PHOTOGRAPHS", "photographs")) / "eyepacs_trainLabels_full.csv"


def counts(folds: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return pd.crosstab(folds, labels).to_numpy()


def synthetic_table(patients: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Two eyes a patient, the second mostly of the first's grade; the grades as in EyePACS."""
    rng = np.random.default_rng(seed)
    first = rng.choice(5, size=patients, p=[0.735, 0.07, 0.15, 0.025, 0.02])
    second = np.where(rng.random(patients) < 0.8, first, rng.permutation(first))
    names = [str(number) for number in rng.permutation(patients) for _ in range(2)]
    return np.stack([first, second], axis=1).ravel(), names


@st.composite
def label_tables(draw: st.DrawFn) -> tuple[list[str], list[int], int]:
    """Patients of one to three images, and a number of folds that each grade's patients allow."""
    eyes = draw(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), max_size=25))
    folds = draw(st.integers(2, 4))
    for grade in {grade for grades in eyes for grade in grades} or {0}:
        missing = folds - sum(grade in grades for grades in eyes)
        eyes += [[grade]] * missing
    patients = [f"p{number}" for number, grades in enumerate(eyes) for _ in grades]
    return patients, [grade for grades in eyes for grade in grades], folds


@settings(max_examples=50)
@given(table=label_tables(), seed=st.integers(0, 5), data=st.data())
def test_patients_stay_whole_and_the_row_order_does_not_matter(
    table: tuple[list[str], list[int], int], seed: int, data: st.DataObject
) -> None:
    patients, labels, folds = table
    found = assign_folds(labels=labels, patients=patients, folds=folds, seed=seed)
    assert found.dtype == np.int64
    assert set(found.tolist()) == set(range(folds))
    check_patients_apart(found, patients)
    order = data.draw(st.permutations(range(len(labels))))
    moved = assign_folds(
        labels=[labels[row] for row in order],
        patients=[patients[row] for row in order],
        folds=folds,
        seed=seed,
    )
    np.testing.assert_array_equal(moved, found[list(order)])


@settings(max_examples=50)
@given(
    holding=st.lists(st.just(0) | st.integers(5, 20), min_size=5, max_size=5).filter(any),
    folds=st.integers(2, 5),
    seed=st.integers(0, 5),
)
def test_single_image_patients_are_dealt_as_evenly_as_can_be(
    holding: list[int], folds: int, seed: int
) -> None:
    labels = np.repeat(np.arange(5), holding)
    patients = [str(row) for row in range(len(labels))]
    table = counts(assign_folds(labels=labels, patients=patients, folds=folds, seed=seed), labels)
    assert np.ptp(table, axis=0).max() <= 1


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_balance_is_close_to_scikit_learns(folds: int) -> None:
    labels, patients = synthetic_table(1200, seed=3)
    ours = counts(assign_folds(labels=labels, patients=patients, folds=folds, seed=0), labels)
    theirs = np.empty(len(labels), dtype=int)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    for fold, (_, rows) in enumerate(splitter.split(labels, labels, patients)):
        theirs[rows] = fold
    allowed = np.ptp(counts(theirs, labels), axis=0).max() + 1
    assert np.ptp(ours, axis=0).max() <= allowed


def test_the_seed_decides() -> None:
    labels, patients = synthetic_table(1200, seed=1)
    splits = [
        assign_folds(labels=labels, patients=patients, folds=5, seed=seed) for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(splits[0], splits[1])
    assert np.mean(splits[0] == splits[2]) == pytest.approx(0.2, abs=0.1)


def test_one_fold_holds_nothing_out() -> None:
    found = assign_folds(labels=[0, 4, 0], patients=["a", "b", "a"], folds=1, seed=0)
    assert found.tolist() == [-1, -1, -1]


@pytest.mark.skipif(not TABLE.is_file(), reason="needs the EyePACS labels in DR_PHOTOGRAPHS")
def test_all_of_eyepacs_is_even_to_a_few_photographs() -> None:
    table = pd.read_csv(TABLE)
    patients, labels = table["image"].str.split("_").str[0].tolist(), table["level"].to_numpy()
    found = assign_folds(labels=labels, patients=patients, folds=5, seed=42)
    check_patients_apart(found, patients)
    assert np.ptp(counts(found, labels), axis=0).max() <= 3
    assert np.ptp(np.bincount(found)) <= 5


def test_too_few_patients_of_a_grade_are_named() -> None:
    labels, patients = [0] * 10 + [4] * 6, [*map(str, range(10)), *"aabbcc"]
    with pytest.raises(ValueError, match=r"folds=5: only 3 patients have grade 4.*folds=3"):
        assign_folds(labels=labels, patients=patients, folds=5, seed=0)
    found = assign_folds(labels=labels, patients=patients, folds=3, seed=0)
    assert counts(found, np.array(labels))[:, 1].tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("labels", "folds", "words"),
    [([0, 5], 2, "labels 5: .*0 to 4"), ([-1, 0], 2, "labels -1"), ([0, 0], 0, "folds=0")],
)
def test_bad_input_is_refused(labels: list[int], folds: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        assign_folds(labels=labels, patients=["a", "b"], folds=folds, seed=0)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test", "Val "])
def test_named_splits(name: str) -> None:
    values = ["train", name, "train"]
    folds, count = given_folds(values, column="split", patients=["a", "b", "a"])
    assert (folds.tolist(), folds.dtype, count) == ([-1, 0, -1], np.int64, 1)


@pytest.mark.parametrize(
    ("values", "expected", "count"),
    [
        (["0", "1", "2", "1"], [0, 1, 2, 1], 3),
        (["-1", "1", "0"], [-1, 1, 0], 2),
        (["-1", "0"], [-1, 0], 1),
    ],
)
def test_numbered_folds(values: list[str], expected: list[int], count: int) -> None:
    patients = [f"p{row}" for row in range(len(values))]
    folds, found = given_folds(values, column="fold", patients=patients)
    assert (folds.tolist(), found) == (expected, count)


@pytest.mark.parametrize(
    "values",
    [
        ["train", "train"],
        ["val", "val"],
        ["0", "0"],
        ["0", "2"],
        ["1", "2"],
        ["-1", "-1"],
        ["-1", "1"],
        ["train", "0"],
        ["0.0", "1.0"],
        ["", "train"],
        ["-2", "0"],
        ["holdout", "train"],
    ],
)
def test_columns_of_another_kind_are_refused_by_name_and_values(values: list[str]) -> None:
    with pytest.raises(ValueError, match="fold_column='part'") as caught:
        given_folds(values, column="part", patients=["a", "b"])
    assert all(value in str(caught.value) for value in values)


@pytest.mark.parametrize("values", [["train", "val", "val"], ["0", "1", "1"], ["-1", "0", "0"]])
def test_a_patient_on_both_sides_is_named(values: list[str]) -> None:
    with pytest.raises(ValueError, match=r"1 patients lie in more than one fold \(left in"):
        given_folds(values, column="split", patients=["left", "left", "right"])


@given(
    rows=st.lists(st.tuples(st.integers(-1, 3), st.sampled_from("abcdef")), max_size=30),
)
def test_patients_apart_agrees_with_a_count(rows: list[tuple[int, str]]) -> None:
    folds, patients = [fold for fold, _ in rows], [patient for _, patient in rows]
    torn = [one for one in set(patients) if len({f for f, p in rows if p == one}) > 1]
    if torn:
        with pytest.raises(ValueError, match=f"^{len(torn)} patients"):
            check_patients_apart(folds, patients)
    else:
        assert check_patients_apart(folds, patients) is None


def test_each_fold_holds_its_share_of_every_grade_of_every_source() -> None:
    parts = [synthetic_table(patients, seed) for patients, seed in ((600, 0), (150, 1), (900, 2))]
    labels = np.concatenate([labels for labels, _ in parts])
    patients = [f"{number}/{name}" for number, (_, names) in enumerate(parts) for name in names]
    sources = np.repeat(np.arange(3), [len(names) for _, names in parts])
    found = assign_folds(labels=labels, patients=patients, folds=5, seed=0, sources=sources)
    check_patients_apart(found, patients)
    for source in range(3):
        own = sources == source
        table = pd.crosstab(found[own], labels[own]).reindex(range(5), fill_value=0).to_numpy()
        assert (table.max(axis=0) - table.min(axis=0)).max() <= 3
        assert table.sum(axis=1).max() - table.sum(axis=1).min() <= 6
    table = counts(found, labels)
    assert (table.max(axis=0) - table.min(axis=0)).max() <= 4


@settings(max_examples=50)
@given(table=label_tables(), seed=st.integers(0, 5), data=st.data())
def test_names_of_sources_do_not_decide_the_folds_and_every_fold_gets_rows(
    table: tuple[list[str], list[int], int], seed: int, data: st.DataObject
) -> None:
    patients, labels, folds = table
    source_of = {patient: data.draw(st.integers(0, 2)) for patient in dict.fromkeys(patients)}
    sources = [source_of[patient] for patient in patients]

    def split(names: str) -> np.ndarray:
        prefixed = [f"{names[source_of[patient]]}/{patient}" for patient in patients]
        return assign_folds(
            labels=labels, patients=prefixed, folds=folds, seed=seed, sources=sources
        )

    found = split("abc")
    check_patients_apart(found, patients)
    np.testing.assert_array_equal(split("zxy"), found)


def test_a_grade_that_one_source_has_few_of_is_spread_over_the_folds() -> None:
    labels = [0] * 40 + [4] * 3 + [0] * 40 + [4] * 2
    sources = [0] * 43 + [1] * 42
    patients = [str(number) for number in range(len(labels))]
    found = assign_folds(labels=labels, patients=patients, folds=5, seed=0, sources=sources)
    assert counts(found, np.array(labels))[:, 1].tolist() == [1] * 5
    with pytest.raises(ValueError, match="folds=6: only 5 patients have grade 4"):
        assign_folds(labels=labels, patients=patients, folds=6, seed=0, sources=sources)
