"""Grades by the mean of a run's folds, through the preparation that the run's shards had."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from dr.accel.base import Accelerator
from dr.config import PreparationConfig, TrainConfig
from dr.fundus.preparation import prepare_photograph
from dr.loading.decoding import decode_at
from dr.modeling.backbones import normalisation
from dr.modeling.objectives import Objective, build_objective
from dr.progress import JobProgress
from dr.shards.labels import LabelSource
from dr.shards.preparing import prepared_photographs
from dr.training.checkpoint import WEIGHTS
from dr.training.keeping import load_kept_model
from dr.training.learner import normalisation_tensors

Pixels = NDArray[np.uint8]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A run that can predict: its config, its shards' preparation, and the models of its folds.

    `shard_size` is the side of a prepared picture in pixels, `image_size` that of training.
    """

    config: TrainConfig
    preparation: PreparationConfig
    shard_size: int
    image_size: int
    models: tuple[torch.nn.Module, ...]
    objective: Objective
    accelerator: Accelerator

    def picture(self, data: bytes) -> Pixels:
        """A photograph's bytes -> uint8 `[image_size, image_size, 3]`, exactly as in training.

        Raises UnreadablePhotograph.
        """
        prepared = prepare_photograph(data, settings=self.preparation, image_size=self.shard_size)
        return self.pixels(prepared.jpeg)

    def pixels(self, jpeg: bytes) -> Pixels:
        """A prepared JPEG -> uint8 `[image_size, image_size, 3]`, exactly as in training."""
        return decode_at(jpeg, size=self.image_size, fast_dct=self.config.loader.dct == "fast")

    @torch.no_grad()
    def grade(self, pictures: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores `[N]` and probabilities `[N, 5]` of uint8 pictures `[N, S, S, 3]`."""
        device = self.accelerator.device
        mean, std = normalisation_tensors(normalisation(self.config.model), device)
        inputs = (self.accelerator.pictures(torch.from_numpy(pictures)) - mean) / std
        parts = []
        for model in self.models:
            with self.accelerator.autocast():
                logits = model(inputs)
            parts.append(self.objective.decode(logits))
        scores, probabilities = self.objective.combine(
            torch.stack([part[0] for part in parts]), torch.stack([part[1] for part in parts])
        )
        return scores.double().cpu().numpy(), probabilities.double().cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class Graded:
    """Grades of a source's readable photographs, in its order, and the rest with its reason."""

    names: list[str]
    scores: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    unreadable: list[tuple[str, str]]


def load_run(folder: Path, accelerator: Accelerator) -> TrainedRun:
    """Load a finished run.

    Raises ValueError where the folder is no run, the run is unfinished, or its files do not fit.
    """
    import json

    from dr.compose import build

    for name in ("config.yaml", "result.json"):
        if not (folder / name).is_file():
            raise ValueError(f"run={folder}: holds no {name}; name the folder of a finished run")
    result = json.loads((folder / "result.json").read_text())
    if not result["complete"]:
        done, planned = len(result["folds"]), len(result["planned_folds"])
        raise ValueError(f"run={folder}: only {done} of {planned} folds are trained; finish it")
    config = build(TrainConfig, yaml.safe_load((folder / "config.yaml").read_text()))
    prepared = result["data"]
    if prepared["preparation"] is None:
        raise ValueError(f"run={folder}: {_why_unknown(prepared)}")
    size = prepared["image_size"]
    paths = [folder / f"fold-{fold}" / WEIGHTS for fold in result["planned_folds"]]
    models = (load_kept_model(path, config, image_size=size) for path in paths)
    return TrainedRun(
        config=config,
        preparation=PreparationConfig(**prepared["preparation"]),
        shard_size=prepared["shard_size"],
        image_size=size,
        models=tuple(accelerator.prepare_model(model).eval() for model in models),
        objective=build_objective(config.objective),
        accelerator=accelerator,
    )


def _why_unknown(prepared: dict[str, Any]) -> str:
    if all(source["preparation"] for source in prepared.get("sources", [prepared])):
        return (
            "its sources were prepared in different ways, so how a photograph is to be prepared is "
            "not known; train from shards that are prepared alike"
        )
    return (
        "its shards came without a manifest, so how their photographs were prepared is not known; "
        "train from shards made by dr.prepare"
    )


def grade_source(
    run: TrainedRun,
    source: LabelSource,
    *,
    batch_size: int,
    threads: int,
    on_error: str,
    progress: JobProgress,
) -> Graded:
    """Grade every photograph of a source.

    Raises ValueError naming a photograph that cannot be read (`on_error=fail`), or where none can.
    """
    grading = _Grading(run, batch_size)
    rows = range(len(source.table))
    for row, outcome in prepared_photographs(
        source, rows, settings=run.preparation, image_size=run.shard_size, threads=threads
    ):
        name = str(source.table["name"].iloc[row])
        if not isinstance(outcome, Exception):
            grading.add(name, outcome.jpeg)
        elif on_error == "fail":
            raise ValueError(
                f"{name}: {outcome}; remove it, or add on_error=skip to leave such out"
            ) from outcome
        else:
            grading.unreadable.append((name, str(outcome)))
        progress.advance(1)
    return grading.finished()


class _Grading:
    """Grades photographs a batch at a time, as they come."""

    def __init__(self, run: TrainedRun, batch_size: int) -> None:
        self._run, self._batch_size = run, batch_size
        self._names: list[str] = []
        self._waiting: list[Pixels] = []
        self._parts: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
        self.unreadable: list[tuple[str, str]] = []

    def add(self, name: str, jpeg: bytes) -> None:
        self._names.append(name)
        self._waiting.append(self._run.pixels(jpeg))
        if len(self._waiting) == self._batch_size:
            self._grade()

    def finished(self) -> Graded:
        if not self._names:
            raise ValueError(f"none of {len(self.unreadable)} photographs could be read")
        if self._waiting:
            self._grade()
        scores, probabilities = map(np.concatenate, zip(*self._parts, strict=True))
        return Graded(
            names=self._names,
            scores=scores,
            probabilities=probabilities,
            unreadable=self.unreadable,
        )

    def _grade(self) -> None:
        self._parts.append(self._run.grade(np.stack(self._waiting)))
        self._waiting.clear()
