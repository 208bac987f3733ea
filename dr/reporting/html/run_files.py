"""What a run's page is made from: the files of its folder, read once."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dr.reporting.runs import RunSummary, flatten, read_config, read_run

if TYPE_CHECKING:
    import pandas as pd

CHANCES = ["p0", "p1", "p2", "p3", "p4"]
History = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Out-of-fold predictions of all finished folds, N records.

    `names` text and `folds` int64 `[N]`, `labels` int64 `[N]`, `scores` float64 `[N]` in [0, 4],
    `probabilities` float64 `[N, 5]`.
    """

    names: list[str]
    folds: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """A run folder's content. `settings` has every key of the config, dotted.

    `histories` are the columns of each fold's `history.csv`, `nan` where a cell is empty;
    `predictions` are None where no fold has any; `data` is what `result.json` says of the data.
    """

    summary: RunSummary
    settings: dict[str, object]
    environment: dict[str, Any]
    data: dict[str, Any]
    histories: dict[int, History]
    predictions: Predictions | None


def read_run_files(folder: Path) -> RunFiles:
    """Read a run folder.

    Raises ValueError, naming the file, where it is none or a file of it cannot be read.
    """
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"run={folder}: holds no config.yaml; name a run folder")
    summary = read_run(folder)
    if summary.state == "unreadable":
        raise ValueError(f"run={folder}: {summary.problem}")
    return RunFiles(
        summary=summary,
        settings=flatten(read_config(folder / "config.yaml")),
        environment=_document(folder / "environment.json"),
        data=_document(folder / "result.json").get("data", {}),
        histories=read_histories(folder),
        predictions=_predictions(folder, summary),
    )


def _document(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON ({error})") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path}: holds no mapping")
    return document


def read_histories(folder: Path) -> dict[int, History]:
    """The columns of each fold's `history.csv` that holds an epoch, by fold."""
    paths = {
        int(path.parent.name.removeprefix("fold-")): path
        for path in folder.glob("fold-*/history.csv")
        if path.parent.name.removeprefix("fold-").isdecimal()
    }
    found = {fold: _history(paths[fold]) for fold in sorted(paths)}
    return {fold: history for fold, history in found.items() if len(history["epoch"])}


def _history(path: Path) -> History:
    read = _csv(path)
    try:
        columns = {str(name): read[name].to_numpy(dtype=np.float64) for name in read}
    except ValueError as error:
        raise ValueError(f"{path}: {error}; train this fold again") from error
    if "epoch" not in columns:
        raise ValueError(f"{path}: has no column epoch; train this fold again")
    return columns


def _predictions(folder: Path, summary: RunSummary) -> Predictions | None:
    import pandas as pd

    paths = [folder / f"fold-{fold}" / "predictions.csv" for fold in sorted(summary.folds)]
    parts = [_whole(path) for path in paths if path.is_file()]
    table = pd.concat(parts) if parts else pd.DataFrame()
    if not len(table):
        return None
    return Predictions(
        names=[str(name) for name in table["name"]],
        folds=table["fold"].to_numpy(dtype=np.int64),
        labels=table["label"].to_numpy(dtype=np.int64),
        scores=table["score"].to_numpy(dtype=np.float64),
        probabilities=table[CHANCES].to_numpy(dtype=np.float64),
    )


def _whole(path: Path) -> "pd.DataFrame":
    """A `predictions.csv` whose cells are all there and numbers where they must be."""
    import pandas as pd

    table, numbers = _csv(path), ["fold", "label", "score", *CHANCES]
    lacking = [name for name in ("name", *numbers) if name not in table]
    if lacking:
        raise ValueError(f"{path}: lacks the columns {', '.join(lacking)}; train this fold again")
    table[numbers] = table[numbers].apply(pd.to_numeric, errors="coerce")
    if table[numbers].isna().to_numpy().any():
        raise ValueError(f"{path}: holds a cell that is no number; train this fold again")
    return table


def _csv(path: Path) -> "pd.DataFrame":
    import pandas as pd

    texts = {"name": str, "patient": str}
    try:
        return pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=[""])
    except ValueError as error:
        raise ValueError(f"{path}: is no CSV in UTF-8 ({error})") from error
