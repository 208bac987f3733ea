"""Heat maps: which parts of a photograph raise and lower the score that a network gives it.

Grad-CAM as Captum computes it, of the score instead of a class, and with both signs: what raises
the score is Grad-CAM's map, what lowers it the map of its counterfactual (Selvaraju et al. 2017,
Grad-CAM: visual explanations from deep networks via gradient-based localization).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dr.config import TrainConfig
from dr.loading.decoding import decode_at
from dr.modeling.backbones import Normalisation, normalisation
from dr.modeling.objectives import Objective, build_objective
from dr.shards.shard_set import ShardSet
from dr.training.checkpoint import WEIGHTS
from dr.training.keeping import load_kept_model

Pixels = NDArray[np.uint8]
STRENGTH = 0.7
"""How far an overlay hides the photograph where the map is strongest, from 0 to 1."""

RAISES, LOWERS = (255, 132, 0), (40, 110, 255)
"""RGB of what raises and what lowers the score."""


@dataclass(frozen=True)
class Explained:
    """A photograph as the network saw it, and with its heat map laid over it.

    Both are uint8 `[S, S, 3]`, RGB.
    """

    photograph: Pixels
    heat_map: Pixels | None


def explain(
    run: Path,
    *,
    config: TrainConfig,
    image_size: int,
    shards: ShardSet,
    fold_of: Mapping[str, int],
    maps: bool = True,
) -> dict[str, Explained]:
    """Photographs of a run's shards by name, each with a heat map by the model of its fold.

    `fold_of` says of each name wanted which fold's kept model explains it; names that are not in
    `shards` are left out. Without `maps` there are only photographs.

    Raises:
        ValueError: a record or a fold's weights cannot be read, or the network has no map of
            features to explain by.
    """
    pictures = _photographs(shards, fold_of, image_size, fast=config.loader.dct == "fast")
    if not maps:
        return {name: Explained(picture, None) for name, picture in pictures.items()}
    # Recomputed activations are out of reach of the gradient that a map is made from.
    config = replace(config, model=replace(config.model, grad_checkpointing=False))
    objective, scaling = build_objective(config.objective), normalisation(config.model)
    found: dict[str, Explained] = {}
    for fold in sorted({fold_of[name] for name in pictures}):
        model = load_kept_model(run / f"fold-{fold}" / WEIGHTS, config, image_size=image_size)
        for name in (name for name in pictures if fold_of[name] == fold):
            heat = heat_map(model, pictures[name], objective=objective, normalisation=scaling)
            found[name] = Explained(pictures[name], overlay(pictures[name], heat))
    return found


def _photographs(
    shards: ShardSet, wanted: Mapping[str, int], image_size: int, *, fast: bool
) -> dict[str, Pixels]:
    records = {name: record for record, name in enumerate(shards.table["name"]) if name in wanted}
    return {
        name: decode_at(shards.read_image(records[name]), size=image_size, fast_dct=fast)
        for name in wanted
        if name in records
    }


def heat_map(
    model: nn.Module, picture: Pixels, *, objective: Objective, normalisation: Normalisation
) -> NDArray[np.float32]:
    """How much each place of a picture raises the score, or lowers it.

    Args:
        model: a timm network that ends in maps of features, float32 on the CPU; left in
            evaluation mode.
        picture: uint8 `[S, S, 3]`, RGB.
        objective: what the network was trained for.
        normalisation: of its inputs.

    Returns:
        float32 `[S, S]` in [-1, 1], above 0 what raises the score; the strongest place is 1 or
        -1. It is as coarse as the network's last map of features, enlarged bilinearly.

    Raises:
        ValueError: the network has no such map, as transformers of tokens don't.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    model.eval()
    camera = LayerGradCam(lambda inputs: objective.explained(model(inputs)), last_features(model))
    inputs = _inputs(picture, normalisation)
    coarse = camera.attribute(inputs)
    _check_map(coarse, model)
    fine = LayerAttribution.interpolate(coarse, picture.shape[:2], "bilinear")[0, 0]
    heat: NDArray[np.float32] = fine.detach().float().numpy()
    strongest = np.abs(heat).max()
    return heat / strongest if strongest > 0 else heat


def last_features(model: nn.Module) -> nn.Module:
    """The module whose output is a timm network's last map of features."""
    info = getattr(getattr(model, "feature_info", None), "info", None) or model.feature_info
    assert isinstance(info, list), "timm networks tell their features"
    return model.get_submodule(info[-1]["module"])


def _check_map(coarse: Tensor, model: nn.Module) -> None:
    if coarse.ndim != 4 or coarse.shape[2] != coarse.shape[3]:
        raise ValueError(
            f"model.name: {type(model).__name__} has no map of features to draw a heat map from; "
            "convolutional networks have one"
        )


def _inputs(picture: Pixels, scaling: Normalisation) -> Tensor:
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    mean, std = (
        torch.tensor(values)[None, :, None, None] for values in (scaling.mean, scaling.std)
    )
    return (pixels - mean) / std


def overlay(picture: Pixels, heat: NDArray[np.float32]) -> Pixels:
    """A heat map `[S, S]` in [-1, 1] over the gray picture, uint8 `[S, S, 3]`."""
    gray = picture.astype(np.float32).mean(axis=2, keepdims=True)
    paint = np.where(heat[..., None] > 0, np.array(RAISES), np.array(LOWERS))
    part = STRENGTH * np.abs(heat)[..., None]
    mixed: Pixels = (gray * (1 - part) + paint * part).round().clip(0, 255).astype(np.uint8)
    return mixed
