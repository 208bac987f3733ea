"""Fine-tuning: a fold starts from the kept weights of the same fold of another run.

The other run's folds are looked up, so that no fold is scored on patients whom its weights were
trained on already. What a run starts from is kept in its own folder.
"""

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dr.config import ObjectiveConfig, PreparationConfig, TrainConfig
from dr.digests import digest_of, digest_of_file
from dr.files import write_whole
from dr.modeling.weights import RUN, RunWeights
from dr.training.checkpoint import WEIGHTS
from dr.training.keeping import SCORES_FILE
from dr.training.run_folder import RESULT

KEPT = "source"
"""What a run started from, in its folder: the files of the other run that are needed again."""
_FILES = ("config.yaml", "environment.json", "folds.csv", RESULT)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SourceRun:
    """A run that another one starts from: its `settings`, its `result`, when it was `made`.

    `ancestor` is the run that it started from itself.
    """

    folder: Path
    settings: dict[str, Any]
    result: dict[str, Any]
    made: str
    ancestor: "SourceRun | None"

    @property
    def folds(self) -> int:
        """How many folds the run has."""
        return len(self.result["planned_folds"])

    @property
    def key(self) -> str:
        """Stands for `model.weights=run:DIR` in a run's identity, wherever DIR lies."""
        return RUN + digest_of([self.result["identity"], self.made])

    def fold_for(self, fold: int) -> int:
        """The fold that another run's `fold` starts from: the same one, or the only one."""
        return 0 if self.folds == 1 else fold

    def weights_path(self, fold: int) -> Path:
        """The kept weights that another run's `fold` starts from."""
        return self.folder / f"fold-{self.fold_for(fold)}" / WEIGHTS

    def start(self, fold: int, objective: ObjectiveConfig) -> RunWeights:
        """What another run's `fold` starts from; the head as well where its outputs mean the same.

        They do where both objectives have as many outputs of the same kind of head.
        """
        return RunWeights(self.weights_path(fold), head=_head(objective) == self._head())

    def _head(self) -> tuple[int, str]:
        from dr.compose import build

        return _head(build(ObjectiveConfig, self.settings["objective"]))


def _head(objective: ObjectiveConfig) -> tuple[int, str]:
    from dr.modeling.objectives import build_objective

    built = build_objective(objective)
    return built.outputs, built.head


def open_source(config: TrainConfig) -> SourceRun | None:
    """The run that `model.weights=run:DIR` names, None where it names none.

    A run that goes on or is trained again (`resume=FOLDER`, `rerun=FOLDER`) starts from what it
    kept. Raises ValueError where DIR is no run, or its network another one.
    """
    if not config.model.weights.startswith(RUN):
        return None
    source = _open(_folder(config), key=f"model.weights={config.model.weights}")
    name = source.settings["model"]["name"]
    if name != config.model.name:
        raise ValueError(
            f"model.weights={config.model.weights}: was trained as model.name={name}, this run "
            f"is model.name={config.model.name}; set model.name={name}"
        )
    return source


def _folder(config: TrainConfig) -> Path:
    again = [config.rerun, None if config.resume in ("auto", "never") else config.resume]
    for folder in (Path(name) for name in again if name is not None):
        with suppress(OSError, KeyError, TypeError):
            stored = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
            if stored["model"]["weights"] == config.model.weights and (folder / KEPT).is_dir():
                return folder / KEPT
    return Path(config.model.weights.removeprefix(RUN)).expanduser()


def _open(folder: Path, *, key: str) -> SourceRun:
    for name in _FILES:
        if not (folder / name).is_file():
            raise ValueError(f"{key}: holds no {name}; name the folder of a finished run")
    values = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    return SourceRun(
        folder=folder,
        settings=values,
        result=json.loads((folder / RESULT).read_text()),
        made=json.loads((folder / "environment.json").read_text())["date"],
        ancestor=_open(folder / KEPT, key=key) if (folder / KEPT).is_dir() else None,
    )


def kept_start(folder: Path) -> dict[str, str]:
    """`model.weights` in the identity of the run in `folder`; empty where no run is its start."""
    if not (folder / KEPT).is_dir():
        return {}
    return {"model.weights": _open(folder / KEPT, key=f"resume={folder}").key}


def check_finished(source: SourceRun, *, count: int, folds: Sequence[int]) -> None:
    """Make sure that there are weights for `folds` of a run of `count` folds.

    Raises ValueError where the source has another number of folds, or has not finished them.
    """
    if source.folds not in (1, count):
        raise ValueError(
            f"model.weights=run:{source.folder}: has {source.folds} folds, this run {count}; each "
            f"fold starts from the same fold, so set folds={source.folds} and the same fold_seed"
        )
    left = [fold for fold in folds if not _is_finished(source, fold)]
    if left:
        own = ", ".join(str(source.fold_for(fold)) for fold in left)
        raise ValueError(
            f"model.weights=run:{source.folder}: its fold {own} is not finished; train it first, "
            "or choose finished ones with fold=..."
        )


def _is_finished(source: SourceRun, fold: int) -> bool:
    path = source.weights_path(fold)
    return path.is_file() and (path.parent / SCORES_FILE).is_file()


def say_what_is_loaded(
    source: SourceRun, config: TrainConfig, prepared: PreparationConfig | None
) -> None:
    """Say in the log what the folds start from, whether their head does, and what is other now.

    `prepared` is how the photographs were prepared, where that is known.
    """
    before = source.result["data"]["preparation"]
    now = {} if before is None or prepared is None else dataclasses.asdict(prepared)
    differing = [
        f"{key}: {before.get(key)} before, {value} now"
        for key, value in now.items()
        if before.get(key) != value
    ]
    if differing:
        _log.warning(
            "run %s had photographs that were prepared differently (%s): its weights expect those",
            source.folder,
            ", ".join(differing),
        )
    if source.start(0, config.objective).head:
        _log.info("every fold starts from run %s, its head as well", source.folder)
        return
    _log.info(
        "every fold starts from run %s; its head starts anew: the outputs of objective=%s are not "
        "those of objective=%s",
        source.folder,
        config.objective.name,
        source.settings["objective"]["name"],
    )


def keep_source(source: SourceRun, folder: Path, folds: Sequence[int]) -> SourceRun:
    """Keep in the run folder `folder` what it takes to start `folds` again; that is then used.

    Weights are linked where the file system can, otherwise copied. Raises ValueError where the
    weights that were kept when the run began are not those of `source` any more.
    """
    kept = folder / KEPT
    _keep_files(source, kept)
    for fold in folds:
        _keep_weights(source.weights_path(fold), kept / f"fold-{source.fold_for(fold)}")
    return _open(kept, key=f"model.weights=run:{kept}")


def _keep_files(source: SourceRun, kept: Path) -> None:
    kept.mkdir(exist_ok=True)
    for name in _FILES:
        if not (kept / name).is_file():
            write_whole(kept / name, (source.folder / name).read_bytes())
    if source.ancestor is not None:
        _keep_files(source.ancestor, kept / KEPT)


def _keep_weights(path: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    kept, scores = folder / WEIGHTS, folder / SCORES_FILE
    if not kept.is_file():
        _link_or_copy(path, kept)
    elif not kept.samefile(path) and digest_of_file(kept) != digest_of_file(path):
        raise ValueError(
            f"{path}: is not the file any more that this run started from ({kept}); "
            "resume=never makes another run of it"
        )
    if not scores.is_file():
        write_whole(scores, (path.parent / SCORES_FILE).read_bytes())


def _link_or_copy(path: Path, kept: Path) -> None:
    aside = kept.with_name(f".{kept.name}.{os.getpid()}.tmp")
    try:
        try:
            os.link(path, aside)
        except OSError:
            shutil.copyfile(path, aside)
        aside.replace(kept)
    finally:
        aside.unlink(missing_ok=True)
