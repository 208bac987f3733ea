"""Folds: stratified by grade, whole patients, or as a column of the label table gives them.

A fold is a number from 0; -1 marks rows that every fold trains on and none scores.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dr.config import GRADES

ALWAYS_TRAINED = -1
TRAIN_NAMES = frozenset({"train", "training"})
HELD_OUT_NAMES = frozenset({"val", "valid", "validation", "test"})


def assign_folds(
    *,
    labels: ArrayLike,
    patients: Sequence[str],
    folds: int,
    seed: int,
    sources: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Deal whole patients to folds so that every fold holds its share of every grade.

    Patients with the same grades are shuffled and dealt evenly. The few that are left over go,
    rarest grades first, each to the fold that keeps the grades most even: a criterion like that of
    scikit-learn's `StratifiedGroupKFold`, on some tens of patients instead of all of them.
    Every fold gets each grade, except where hardly more patients than folds have it and they have
    others beside. The result depends on each patient's grades and the seed, not on the order of
    the rows.

    Args:
        labels: integers `[N]`, grades 0 to 4.
        patients: `[N]`, the patient each row belongs to.
        folds: how many, at least 1; with 1 nothing is held out and all rows get -1.
        seed: decides which of many equally good splits is taken.
        sources: integers from 0 `[N]`, the source each row belongs to: every fold then holds its
            share of every grade of every source too. A patient belongs to one source.

    Returns:
        int64 `[N]`: each row's fold, 0 to `folds - 1`.

    Raises:
        ValueError: a label is no grade, or fewer patients than `folds` have some grade.
    """
    grades, names = _checked_labels(labels, patients), np.asarray(patients, dtype=str)
    if folds < 1:
        raise ValueError(f"folds={folds}: must be at least 1")
    if folds == 1 or not len(grades):
        return np.full(len(grades), ALWAYS_TRAINED, dtype=np.int64)
    if sources is None:
        _, patient = np.unique(names, return_inverse=True)
        strata = counts = _counted(patient, grades)
    else:
        source = np.asarray(sources, dtype=np.int64)
        keys = np.char.add(np.char.mod("%06d/", source), names)
        _, patient = np.unique(keys, return_inverse=True)
        counts = _counted(patient, grades)
        strata = np.hstack([_counted(patient, source * GRADES + grades), counts])
    _check_enough_patients(counts, folds)
    return _deal(strata, folds, np.random.default_rng(seed))[patient]


def _counted(patient: NDArray[np.intp], strata: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each patient's rows in each stratum; there are at least as many strata as grades."""
    counts = np.zeros((patient.max() + 1, max(GRADES, strata.max() + 1)), dtype=np.int64)
    np.add.at(counts, (patient, strata), 1)
    return counts


def given_folds(
    values: Sequence[str], *, column: str, patients: Sequence[str]
) -> tuple[NDArray[np.int64], int]:
    """Folds as a column of the label table gives them.

    Either names: rows of `train` are trained on and never scored (-1), rows of `val`, `valid`,
    `validation` or `test` are fold 0. Or fold numbers from 0 without a gap, at least two of them;
    -1 may stand beside them (and beside a single fold 0) for rows that are never scored.

    Args:
        values: `[N]`, the column.
        column: its name, for messages.
        patients: `[N]`, the patient each row belongs to.

    Returns:
        int64 `[N]`, each row's fold, and the number of folds.

    Raises:
        ValueError: the values are of neither form, leave nothing to train on or to score, or put
            a patient on both sides.
    """
    texts = [str(value).strip().lower() for value in values]
    found = set(texts)
    if found <= TRAIN_NAMES | HELD_OUT_NAMES:
        fold_of = {text: ALWAYS_TRAINED if text in TRAIN_NAMES else 0 for text in found}
    elif all(re.fullmatch(r"-1|[0-9]+", text) for text in found):
        fold_of = {text: int(text) for text in found}
    else:
        raise ValueError(_unusable(column, values, "holds other values"))
    numbers = sorted(set(fold_of.values()) - {ALWAYS_TRAINED})
    if numbers != list(range(len(numbers))) or not numbers or len(set(fold_of.values())) < 2:
        raise ValueError(_unusable(column, values, "leaves a fold, or the training rows, empty"))
    folds = np.array([fold_of[text] for text in texts], dtype=np.int64)
    check_patients_apart(folds, patients)
    return folds, len(numbers)


def check_patients_apart(folds: ArrayLike, patients: Sequence[str]) -> None:
    """Make sure that no patient's rows lie in two folds (-1 counts as one).

    Raises:
        ValueError: some do; names the first such patients and their folds.
    """
    fold_of = np.asarray(folds, dtype=np.int64)
    names, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    if len(fold_of) != len(patient):
        raise ValueError(f"{len(fold_of)} folds for {len(patient)} patients: give one a row")
    pairs = np.unique(np.stack([patient, fold_of], axis=1), axis=0)
    torn = np.flatnonzero(np.bincount(pairs[:, 0], minlength=len(names)) > 1)
    if not len(torn):
        return
    shown = [f"{names[one]} in {pairs[pairs[:, 0] == one, 1].tolist()}" for one in torn[:3]]
    raise ValueError(
        f"{len(torn)} patients lie in more than one fold ({_some(shown, len(torn))}): their eyes "
        "are alike, so a fold would be scored on what it trained on; give each patient one fold"
    )


def _checked_labels(labels: ArrayLike, patients: Sequence[str]) -> NDArray[np.int64]:
    grades = np.asarray(labels)
    if grades.shape != (len(patients),):
        raise ValueError(f"{grades.shape} labels for {len(patients)} patients: give one a row")
    if len(grades) and not np.isin(grades, np.arange(GRADES)).all():
        strange = sorted({str(grade) for grade in grades[~np.isin(grades, np.arange(GRADES))]})
        raise ValueError(f"labels {_some(strange, len(strange))}: folds need grades 0 to 4")
    return grades.astype(np.int64)


def _check_enough_patients(counts: NDArray[np.int64], folds: int) -> None:
    for grade, holding in enumerate((counts > 0).sum(axis=0)):
        if 0 < holding < folds:
            raise ValueError(
                f"folds={folds}: only {holding} patients have grade {grade}, so some fold would "
                f"have none; set folds={holding}"
                + (" (no validation)" if holding == 1 else " or fewer, or add patients")
            )


def _deal(counts: NDArray[np.int64], folds: int, random: np.random.Generator) -> NDArray[np.int64]:
    order = random.permutation(len(counts))
    _, pattern = np.unique(counts, axis=0, return_inverse=True)
    by_pattern = order[np.argsort(pattern[order], kind="stable")]
    sizes = np.bincount(pattern)
    rank = np.arange(len(counts)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    left = rank >= np.repeat(sizes - sizes % folds, sizes)
    fold_of = np.empty(len(counts), dtype=np.int64)
    fold_of[by_pattern] = rank % folds
    _deal_greedily(by_pattern[left], counts, fold_of, random.permutation(folds))
    return fold_of


def _deal_greedily(
    left: NDArray[np.int64],
    counts: NDArray[np.int64],
    fold_of: NDArray[np.int64],
    folds: NDArray[np.int64],
) -> None:
    # Integers, so that no machine's rounding decides between equally good folds.
    shares = counts * (2**28 // np.maximum(1, counts.sum(axis=0)))
    totals = np.zeros((len(folds), counts.shape[1]), dtype=np.int64)
    for one in left[np.argsort(-shares[left].sum(axis=1), kind="stable")]:
        # The variance over folds grows by 2 * total * share, up to terms equal for all folds.
        cost = totals @ shares[one]
        best = np.lexsort((totals.sum(axis=1), cost))[0]
        totals[best] += shares[one]
        fold_of[one] = folds[best]


def _unusable(column: str, values: Sequence[str], problem: str) -> str:
    distinct = sorted({str(value) for value in values})
    return (
        f"fold_column={column!r} {problem} ({_some(distinct, len(distinct))}): it must name "
        "`train` and `val` rows (or valid, validation, test), or number at least two folds from 0"
    )


def _some(items: Iterable[str], count: int, *, shown: int = 8) -> str:
    first = list(items)[:shown]
    return ", ".join(first) + (", ..." if count > len(first) else "")
