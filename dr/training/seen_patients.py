"""Patients whom the weights that a run starts from were trained on already."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dr.fundus.signature import ALIKE, NORM
from dr.loading.split import Split
from dr.shards.duplicates import are_signed, read_signatures
from dr.shards.joining import parts_of
from dr.shards.opening import open_shards
from dr.shards.shard_set import ShardSet
from dr.training.fine_tuning import SourceRun

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """One of the sources of a run's data; `table` has name, patient and fold of its records."""

    table: "pd.DataFrame"
    digest: str
    place: str

    def patients(self, fold: int) -> set[str]:
        """Those whom the model of a fold was trained on."""
        return set(self.table["patient"][self.table["fold"] != fold])


def check_unseen(
    source: SourceRun, *, shards: ShardSet, split: Split, outside: ShardSet | None
) -> None:
    """Make sure that no fold is scored on a patient whom its starting weights were trained on.

    Neither the run named nor those it started from itself may have seen a fold's patients, or
    those of the test set `outside`. Patients are the same where they have the same name in the
    same data. Other data are the same people where some record has the same name and patient in
    both, unless the photographs of those are at hand and none is a copy of the other.

    Raises ValueError naming some of the patients.
    """
    run: SourceRun | None = source
    lineage: list[SourceRun] = []
    while run is not None:
        lineage.append(run)
        _check_run(lineage, shards, split, outside)
        run = run.ancestor


def _check_run(
    lineage: Sequence[SourceRun], shards: ShardSet, split: Split, outside: ShardSet | None
) -> None:
    trained = _trained_on(lineage[-1])
    pairs = [
        (part, own.table["patient"], fold_of)
        for own, fold_of in _with_folds(shards, split)
        for part in trained
        if _are_same_people(part, own)
    ]
    for fold in range(split.count):
        before = _fold_of(lineage, fold)
        seen: set[str] = set()
        for part, patients, fold_of in pairs:
            seen |= set(patients[fold_of == fold]) & part.patients(before)
        if seen:
            raise ValueError(_seen_in_fold(lineage, fold, sorted(seen)))
    if outside is not None:
        _check_outside(lineage, trained, split, outside)


def _fold_of(lineage: Sequence[SourceRun], fold: int) -> int:
    """The fold of the last run of a lineage that a run's fold comes from."""
    for run in lineage:
        fold = run.fold_for(fold)
    return fold


def _with_folds(shards: ShardSet, split: Split) -> Iterator[tuple[ShardSet, NDArray[np.int64]]]:
    parts = list(parts_of(shards).values())
    ends = list(accumulate(len(part) for part in parts))
    yield from zip(parts, np.split(split.fold_of, ends[:-1]), strict=True)


def _trained_on(run: SourceRun) -> list[_Trained]:
    import pandas as pd

    table = pd.read_csv(run.folder / "folds.csv", dtype=str, na_filter=False)
    table["fold"] = table["fold"].astype(int)
    data = run.result["data"]
    if "sources" not in data:
        return [_Trained(table=table, digest=data["digest"], place=_place(data))]
    return [
        _Trained(table=_own_names(table, part["name"]), digest=part["digest"], place=_place(part))
        for part in data["sources"]
    ]


def _place(data: dict[str, Any]) -> str:
    return str(data["shards"])


def _own_names(table: "pd.DataFrame", source: str) -> "pd.DataFrame":
    """The records of one of several sources, under the names that they have there alone."""
    rows = table[table["source"] == source]
    prefix = f"{source}/"
    texts = {key: [text.removeprefix(prefix) for text in rows[key]] for key in ("name", "patient")}
    return rows.assign(**texts)


def _are_same_people(part: _Trained, shards: ShardSet) -> bool:
    """Whether equal patients' names in both are the same people, as far as can be known."""
    if part.digest == shards.digest:
        return True
    common = part.table[["name", "patient"]].merge(shards.table[["name", "patient"]])
    if common.empty:
        return False
    names, others = common["name"].tolist(), _signed(part)
    if others is None or not are_signed(shards):
        _log.warning(
            "%s and %s share %d names and patients, and their photographs cannot be compared%s: "
            "they are taken for the same people",
            part.place,
            shards.place,
            len(names),
            "" if others is None else " without signatures",
        )
        return True
    if _some_alike(_signatures(shards, names), _signatures(others, names)):
        return True
    _log.info(
        "%s and %s share %d names, but their photographs differ: other people",
        part.place,
        shards.place,
        len(names),
    )
    return False


def _signed(part: _Trained) -> ShardSet | None:
    """The shards that a source run read, where they still lie there, with signatures."""
    folder = Path(part.place)
    if not folder.is_dir():
        return None
    try:
        shards = open_shards(folder)
    except (ValueError, OSError):
        return None
    return shards if shards.digest == part.digest and are_signed(shards) else None


def _signatures(shards: ShardSet, names: Sequence[str]) -> NDArray[np.void]:
    number = {name: place for place, name in enumerate(shards.table["name"])}
    found: NDArray[np.void] = read_signatures(shards)[[number[name] for name in names]]
    return found


def _some_alike(signatures: NDArray[np.void], others: NDArray[np.void]) -> bool:
    """Whether a pair, one of each, is of one photograph: the same bytes, or the same look."""
    same = (signatures["photograph"] == others["photograph"]).all(axis=1)
    looks, other_looks = (one["picture"].astype(np.int64) for one in (signatures, others))
    return bool((same | ((looks * other_looks).sum(axis=1) >= ALIKE * NORM**2)).any())


def _seen_in_fold(lineage: Sequence[SourceRun], fold: int, seen: Sequence[str]) -> str:
    run = lineage[-1]
    keys = ("folds", "fold_seed", "fold_column", "group_duplicates")
    folds = ", ".join(f"{key}={_spell(run.settings.get(key))}" for key in keys)
    return (
        f"{_begun(lineage)}: {len(seen)} patients of this run's fold {fold} ({_some(seen)}) are "
        f"among those that its fold {_fold_of(lineage, fold)} was trained on, so the scores would "
        f"be too good; make the folds as it did ({folds}, on the same data), or start from a run "
        "of other patients"
    )


def _begun(lineage: Sequence[SourceRun]) -> str:
    begun = f"model.weights=run:{lineage[0].folder}"
    if len(lineage) == 1:
        return begun
    identity = lineage[-1].result["identity"]
    return f"{begun}: started itself from the run {identity[:8]}"


def _check_outside(
    lineage: Sequence[SourceRun], trained: Sequence[_Trained], split: Split, outside: ShardSet
) -> None:
    folds = {_fold_of(lineage, fold) for fold in range(split.count)}
    seen: set[str] = set()
    for own in parts_of(outside).values():
        for part in trained:
            if _are_same_people(part, own):
                patients = set.union(*(part.patients(fold) for fold in folds))
                seen |= patients & set(own.table["patient"])
    if seen:
        raise ValueError(
            f"{_begun(lineage)}: {len(seen)} patients of test={outside.place} "
            f"({_some(sorted(seen))}) are among those that it was trained on; a test set holds "
            "other patients"
        )


def _some(patients: Sequence[str]) -> str:
    return ", ".join(patients[:_SHOWN]) + (", ..." if len(patients) > _SHOWN else "")


def _spell(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
