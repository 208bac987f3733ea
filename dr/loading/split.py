"""Which records a fold trains on and which it is scored on."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dr.loading.folds import assign_folds, check_patients_apart, given_folds

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
_SHOWN = 3


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
    table: "pd.DataFrame",
    *,
    folds: int,
    fold_column: str | None,
    seed: int,
    sources: NDArray[np.int64] | None = None,
    links: Sequence[tuple[str, str]] | None = (),
    group_duplicates: bool = False,
) -> Split:
    """Folds by patient over the records of `table`, or those its column `fold_column` gives.

    `sources`: int64 `[records]`, the source of each; folds then hold their share of every source.
    `links`: pairs of patients who share a copied photograph, None where that is not known; with
    `group_duplicates` they stay together, without it those that were parted are warned about.

    Raises ValueError for a column that is not there, too few patients of a grade, a patient on
    both sides, or linked patients whom `fold_column` parts in spite of `group_duplicates`.
    """
    patients = table["patient"].tolist()
    if group_duplicates and not links:
        _say_nothing_to_group(links)
    if fold_column is None:
        units, unit_sources = patients, sources
        if group_duplicates and links:
            units, unit_sources = _grouped(patients, links, sources)
            together = len({patient for pair in links for patient in pair})
            _log.info("group_duplicates=true: %d patients with copies stay together", together)
        fold_of = assign_folds(
            labels=table["label"].to_numpy(),
            patients=units,
            folds=folds,
            seed=seed,
            sources=unit_sources,
        )
        count = folds
    else:
        fold_of, count = _given(table, fold_column)
    check_patients_apart(fold_of, patients)
    parted = _parted(fold_of, patients, links or ())
    if parted:
        _say_parted(parted, fold_column=fold_column, group_duplicates=group_duplicates)
    return Split(fold_of, count)


def _given(table: "pd.DataFrame", column: str) -> tuple[NDArray[np.int64], int]:
    if column not in table:
        raise ValueError(
            f"fold_column={column}: the label table has no such column, only "
            f"{', '.join(table.columns)}"
        )
    values = table[column].astype(str).tolist()
    return given_folds(values, column=column, patients=table["patient"].tolist())


def _say_nothing_to_group(links: Sequence[tuple[str, str]] | None) -> None:
    if links is None:
        _log.warning(
            "group_duplicates=true: whether the shards hold copies is not known, they came without "
            "signatures; prepare them with this version of dr.prepare"
        )
    else:
        _log.warning(
            "group_duplicates=true: has no effect, no patients share a copied photograph here"
        )


def _grouped(
    patients: Sequence[str],
    links: Sequence[tuple[str, str]],
    sources: NDArray[np.int64] | None,
) -> tuple[list[str], NDArray[np.int64] | None]:
    """For each record the first of the patients linked to its own, and that one's source."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, first, patient = np.unique(
        np.asarray(patients, dtype=str), return_index=True, return_inverse=True
    )
    ends = np.searchsorted(names, np.asarray(links, dtype=str).reshape(-1, 2))
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(names),) * 2)
    _, group = connected_components(graph, directed=False)
    _, head = np.unique(group, return_index=True)
    heads = head[group][patient]
    return names[heads].tolist(), None if sources is None else sources[first[heads]]


def _parted(
    fold_of: NDArray[np.int64], patients: Sequence[str], links: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    fold = dict(zip(patients, fold_of.tolist(), strict=True))
    return [pair for pair in links if fold[pair[0]] != fold[pair[1]]]


def _say_parted(
    parted: Sequence[tuple[str, str]], *, fold_column: str | None, group_duplicates: bool
) -> None:
    pairs = list(dict.fromkeys(parted))
    shown = ", ".join(f"{one} and {other}" for one, other in pairs[:_SHOWN])
    more = ", ..." if len(pairs) > _SHOWN else ""
    fix = "group_duplicates=true keeps them in one fold"
    if fold_column is not None:
        fix = f"give such patients one fold in the column {fold_column}"
    found = (
        f"{len(parted)} pairs of copied photographs have patients in different folds ({shown}"
        f"{more}), so folds are scored on what they trained on; {fix}"
    )
    if group_duplicates:
        raise ValueError(f"group_duplicates=true: {found}, or leave group_duplicates out")
    _log.warning("%s", found)
