"""Who has which grade: shares, the two eyes of a patient, and mistaken labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dr.fundus.synthetic.paint import random_stream

GRADES = 5
SIDES = ("left", "right")
PATIENTS_PER_GRADE = 5
EYE_SPREAD = 0.25
SLIP = 0.15

Grades = NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """One photograph: its name, whose eye it is, its true grade, and the label it is given."""

    image: str
    patient: int
    side: str
    grade: int
    level: int


def synthetic_labels(
    *, patients: int, seed: int, grade_shares: Sequence[float], label_noise: float
) -> list[Row]:
    """The rows of a synthetic set, two a patient, patients numbered from 1; draws no picture.

    True grades have `grade_shares` (5 numbers, of any sum) as closely as the count permits, with
    one exception: a grade of nonzero share is labelled in at least 5 patients where so many fit.
    The eyes of a patient mostly have equal or neighbouring grades. `label_noise` (in [0, 1)) is
    the share of rows whose `level` is not their `grade` but another, mostly a neighbouring one.

    Raises ValueError for an argument out of range.
    """
    check_settings(patients, seed, grade_shares, label_noise)
    shares = np.array(grade_shares, dtype=np.float64) / sum(grade_shares)
    order = severity_order(seed, patients)
    for least in range(PATIENTS_PER_GRADE, 2 * PATIENTS_PER_GRADE + 1):
        counts = apportion(2 * patients, shares, least)
        grades = np.empty(2 * patients, dtype=np.int64)
        grades[order] = np.repeat(np.arange(GRADES), counts)
        levels = mislabel(seed, grades, shares, label_noise)
        if fewest_patients(levels, shares) >= PATIENTS_PER_GRADE:
            break
    return [make_row(eye, grades, levels) for eye in range(2 * patients)]


def make_row(eye: int, grades: Grades, levels: Grades) -> Row:
    """The row of the eye with this place: left and right of patient 1, then of patient 2."""
    patient, side = eye // 2 + 1, SIDES[eye % 2]
    return Row(f"{patient}_{side}", patient, side, int(grades[eye]), int(levels[eye]))


def check_settings(
    patients: int, seed: int, grade_shares: Sequence[float], label_noise: float
) -> None:
    """ValueError that names the first argument out of range, its value and the fix."""
    if patients < 1:
        raise ValueError(f"patients={patients}: give at least 1 patient")
    if seed < 0:
        raise ValueError(f"seed={seed}: give a seed of 0 or more")
    shares = list(grade_shares)
    fine = all(math.isfinite(share) and share >= 0 for share in shares)
    if len(shares) != GRADES or not fine or sum(shares) <= 0:
        fix = f"give {GRADES} shares, none negative, not all 0"
        raise ValueError(f"grade_shares={shares}: {fix}")
    if not 0 <= label_noise < 1:
        raise ValueError(f"label_noise={label_noise}: give a share of at least 0 and below 1")


def severity_order(seed: int, patients: int) -> Grades:
    """The eyes from the healthiest to the worst, those of a patient close together."""
    rng = random_stream(seed, 0, 1)
    person = rng.normal(size=(patients, 1))
    severity = person + EYE_SPREAD * rng.normal(size=(patients, 2))
    return np.argsort(severity, axis=None, kind="stable")


def apportion(total: int, shares: NDArray[np.float64], least: int) -> Grades:
    """`total` eyes shared out by largest remainder, `least` (if they fit) to each nonzero share."""
    exact = shares * total
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(counts - exact, kind="stable")
    counts[largest[: total - counts.sum()]] += 1
    least = min(least, total // int((shares > 0).sum()))
    counts = np.where(shares > 0, np.maximum(counts, least), 0)
    while counts.sum() > total:
        counts[counts.argmax()] -= 1
    return counts


def mislabel(seed: int, grades: Grades, shares: NDArray[np.float64], noise: float) -> Grades:
    """Labels: `grades` with a share of `noise` moved, the farther the rarer, within `shares`."""
    levels = grades.copy()
    present = np.flatnonzero(shares)
    if len(present) < 2:
        return levels
    rng = random_stream(seed, 0, 2)
    for eye in rng.choice(len(grades), round(noise * len(grades)), replace=False):
        steps = np.abs(np.searchsorted(present, grades[eye]) - np.arange(len(present)))
        chances = np.where(steps > 0, SLIP**steps, 0)
        levels[eye] = rng.choice(present, p=chances / chances.sum())
    return levels


def fewest_patients(levels: Grades, shares: NDArray[np.float64]) -> int:
    """In how many patients the grade of nonzero share that is in the fewest is labelled."""
    eyes = levels.reshape(-1, 2)
    return min(int((eyes == grade).any(axis=1).sum()) for grade in np.flatnonzero(shares))
