"""Which records a fold trains on and which it is scored on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dr.loading.folds import assign_folds, check_patients_apart, given_folds

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Split:
    """`fold_of`: int64 `[records]`, -1 for a record that is trained on and never scored."""

    fold_of: NDArray[np.int64]
    count: int

    def training(self, fold: int) -> NDArray[np.int64]:
        """Record numbers that fold `fold` trains on."""
        return np.flatnonzero(self.fold_of != fold)

    def held_out(self, fold: int) -> NDArray[np.int64]:
        """Record numbers that fold `fold` is scored on; empty with `folds=1`."""
        return np.flatnonzero(self.fold_of == fold)


def split_records(
    table: "pd.DataFrame", *, folds: int, fold_column: str | None, seed: int
) -> Split:
    """Folds by patient over the records of `table`, or those its column `fold_column` gives.

    Raises ValueError for a column that is not there, too few patients of a grade, or a patient on
    both sides.
    """
    patients = table["patient"].tolist()
    if fold_column is None:
        fold_of = assign_folds(
            labels=table["label"].to_numpy(), patients=patients, folds=folds, seed=seed
        )
        count = folds
    else:
        if fold_column not in table:
            raise ValueError(
                f"fold_column={fold_column}: the label table has no such column, only "
                f"{', '.join(table.columns)}"
            )
        values = table[fold_column].astype(str).tolist()
        fold_of, count = given_folds(values, column=fold_column, patients=patients)
    check_patients_apart(fold_of, patients)
    return Split(fold_of, count)
