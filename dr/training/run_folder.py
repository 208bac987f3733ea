"""The folder of a run: who owns it, what lies where, and its `result.json`."""

import dataclasses
import io
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from dr.config import TrainConfig
from dr.files import make_writable_folder, write_csv, write_json, write_whole
from dr.loading.split import Split
from dr.scoring.metrics import grade_of, score_predictions, summarize, to_json
from dr.urls import mask_values

if TYPE_CHECKING:
    import pandas as pd

RESULT = "result.json"
CHANCES = ["p0", "p1", "p2", "p3", "p4"]
PREDICTIONS = "predictions.csv"
PREDICTION_COLUMNS = ("name", "patient", "fold", "label", "score", *CHANCES)
TEST_SCORES = "test_scores.json"
GRADES_FILE = "out_of_fold.npy"
UNSCORED = 255
LOCK_WAIT_S = 5.0
"""How long a fold that another process holds is waited for: ranks outlive their parent a little."""


@dataclass(frozen=True)
class RunFolder:
    """Paths in a run's folder. `identity` is the digest of what decides the run's result."""

    path: Path
    identity: str

    def fold(self, fold: int) -> Path:
        """The folder of one fold."""
        return self.path / f"fold-{fold}"

    def result(self) -> dict[str, Any]:
        """What `result.json` holds."""
        values: dict[str, Any] = json.loads((self.path / RESULT).read_text())
        return values


def claim_run_folder(outputs: Path, name: str, identity: str, *, resume: str) -> RunFolder:
    """Make the run's folder, or find the one of the same run.

    `resume=auto` takes a folder of the same identity; `never` takes the first free of `name`,
    `name-2`, `name-3`. Raises ValueError where `outputs` cannot be written, or the folder is that
    of another run.
    """
    make_writable_folder(outputs, key="outputs")
    number = 1
    while True:
        path = outputs / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()
            return RunFolder(path, identity)
        except FileExistsError:
            if resume == "auto":
                _check_same_run(path, identity)
                return RunFolder(path, identity)
            number += 1


def _check_same_run(path: Path, identity: str) -> None:
    result = path / RESULT
    if not result.is_file():
        return
    try:
        found = json.loads(result.read_text()).get("identity")
    except (ValueError, AttributeError):
        found = "unreadable"
    if found != identity:
        raise ValueError(
            f"{path}: is the folder of another config (its {RESULT} names {str(found)[:8]}, this "
            f"run is {identity[:8]}); choose other outputs=..., or add resume=never"
        )


@contextmanager
def locked(folder: Path, *, what: str, wait_s: float | None = None) -> Iterator[None]:
    """Hold a folder's lock, which a dead process does not hold, and tidy up after such a one.

    A process that is about to die is waited for. Raises ValueError, naming the process and its
    machine, where a live one holds the lock after `wait_s` seconds, None being `LOCK_WAIT_S`.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / ".holder"
    lock = FileLock(folder / ".lock", timeout=LOCK_WAIT_S if wait_s is None else wait_s)
    try:
        lock.acquire()
    except Timeout as error:
        by = holder.read_text() if holder.is_file() else "another process"
        raise ValueError(f"{folder}: {what} is being trained by {by}") from error
    try:
        holder.write_text(f"process {os.getpid()} on {platform.node()}")
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink()
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def write_start(
    run: RunFolder,
    config: TrainConfig,
    *,
    environment: Mapping[str, Any],
    table: "pd.DataFrame",
    split: Split,
    data: Mapping[str, Any],
) -> None:
    """Write what is known before training: config, environment, folds, an incomplete result."""
    if (run.path / RESULT).is_file():
        return
    text = yaml.safe_dump(
        mask_values(dataclasses.asdict(config)), sort_keys=False, allow_unicode=True
    )
    write_json(run.path / "environment.json", environment)
    columns = table[["name", "patient", "label"]].assign(fold=split.fold_of)
    if "sources" in data:
        columns["source"] = table["source"]
    names = [str(column) for column in columns]
    rows = [dict(zip(names, row, strict=True)) for row in columns.itertuples(index=False)]
    write_csv(run.path / "folds.csv", names, rows)
    write_whole(run.path / "config.yaml", text)
    result = {
        "schema_version": 1,
        "complete": False,
        "optimistic": config.select == "best",
        "identity": run.identity,
        "data": dict(data),
        "planned_folds": list(range(split.count)),
        "folds": {},
        "mean": None,
        "sd": None,
        "pooled": None,
    }
    write_json(run.path / RESULT, result)


def update_result(run: RunFolder) -> dict[str, Any]:
    """Gather the finished folds into `result.json`, and return it."""
    from filelock import FileLock

    with FileLock(run.path / ".lock"):
        result = run.result()
        scores = {
            fold: json.loads(path.read_text())
            for fold in result["planned_folds"]
            if (path := run.fold(fold) / "scores.json").is_file()
        }
        result["folds"] = {str(fold): entry for fold, entry in scores.items()}
        result["complete"] = set(scores) == set(result["planned_folds"])
        result["skipped"] = sum(entry.get("skipped", 0) for entry in scores.values())
        result |= _summary(run, scores)
        if "test" in result:
            result["test"]["folds"] = _test_folds(run, result)
        write_json(run.path / RESULT, result)
        return result


def _summary(run: RunFolder, scores: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    scored = {fold: entry for fold, entry in scores.items() if entry["records"]}
    if not scored:
        return {"mean": None, "sd": None, "pooled": None}
    numbers = {
        fold: {key: float("nan") if value is None else value for key, value in entry.items()}
        for fold, entry in scored.items()
    }
    import pandas as pd

    mean, sd = summarize(numbers)
    summary = {"mean": to_json(mean), "sd": to_json(sd)}
    table = pd.concat([read_predictions(run.fold(fold) / PREDICTIONS) for fold in sorted(scored)])
    _write_grades(run, table)
    return {**summary, "pooled": _pooled(table, scored), **_by_source(run, table)}


def _write_grades(run: RunFolder, table: "pd.DataFrame") -> None:
    """Keep the predicted grades where many runs' can be read fast: uint8, a row of folds.csv each.

    A record that was not scored has `UNSCORED`.
    """
    import pandas as pd

    folds = pd.read_csv(run.path / "folds.csv", dtype={"name": str}, na_filter=False)
    keys = ["name", "fold", "turn"]  # a name may be there twice
    scored = table.assign(grade=grade_of(table[CHANCES].to_numpy()))
    both = [part.assign(turn=part.groupby(keys[:2]).cumcount()) for part in (folds, scored)]
    joined = both[0][keys].merge(both[1][[*keys, "grade"]], on=keys, how="left")
    grades = joined["grade"].fillna(UNSCORED).to_numpy().astype(np.uint8)
    buffer = io.BytesIO()
    np.save(buffer, grades)
    write_whole(run.path / GRADES_FILE, buffer.getvalue())


def read_predictions(path: Path) -> "pd.DataFrame":
    """A table of `PREDICTION_COLUMNS`; names and patients are text."""
    import pandas as pd

    return pd.read_csv(path, dtype={"name": str, "patient": str}, na_filter=False)


def _scores_of(table: "pd.DataFrame") -> dict[str, float]:
    return score_predictions(
        labels=table["label"].to_numpy(), probabilities=table[CHANCES].to_numpy(), losses=None
    )


def _pooled(table: "pd.DataFrame", scored: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    pooled = _scores_of(table)
    records = sum(entry["records"] for entry in scored.values())
    losses = [entry["loss"] for entry in scored.values()]
    if None not in losses:
        weighted = sum(entry["loss"] * entry["records"] for entry in scored.values())
        pooled["loss"] = weighted / records
    return {**to_json(pooled), "records": records}


def _by_source(run: RunFolder, table: "pd.DataFrame") -> dict[str, Any]:
    """The pooled out-of-fold scores of each source, where the run has several."""
    import pandas as pd

    sources = run.result()["data"].get("sources")
    if sources is None:
        return {}
    folds = pd.read_csv(run.path / "folds.csv", dtype=str, na_filter=False)
    source_of = dict(zip(folds["name"], folds["source"], strict=True))
    parts = dict(list(table.groupby(table["name"].map(source_of))))
    names = [source["name"] for source in sources if source["name"] in parts]
    return {"sources": {name: _source_scores(parts[name]) for name in names}}


def _source_scores(table: "pd.DataFrame") -> dict[str, Any]:
    scores = _scores_of(table)
    del scores["loss"]
    return {**to_json(scores), "records": len(table)}


def outside_scores(folder: Path, *, digest: str) -> dict[str, Any] | None:
    """A fold's scores on the test set of a digest, None where it has none."""
    path = folder / TEST_SCORES
    if not path.is_file():
        return None
    scores: dict[str, Any] = json.loads(path.read_text())
    return scores if scores.pop("digest") == digest else None


def _test_folds(run: RunFolder, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    digest = result["test"]["digest"]
    found = {
        fold: outside_scores(run.fold(fold), digest=digest) for fold in result["planned_folds"]
    }
    return [{"fold": fold, **scores} for fold, scores in found.items() if scores is not None]
