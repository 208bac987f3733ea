import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dr.compose import build
from dr.config import OBJECTIVES, CrossEntropyConfig, ModelConfig, RegressionConfig, TrainConfig
from dr.loading.decoding import decode_at
from dr.modeling.backbones import Normalisation, build_model, normalisation
from dr.modeling.objectives import build_objective
from dr.reporting.runs import read_config
from dr.shards.opening import open_shards
from dr.shipping.heat_maps import LOWERS, RAISES, explain, heat_map, last_features, overlay
from dr.training.keeping import load_kept_model

PLAIN = Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
OFFERED = ("tf_efficientnet_b4", "tf_efficientnet_b0", "tf_efficientnet_lite0", "convnext_tiny")


def noise(size: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def network(name: str, objective_name: str = "cross_entropy") -> nn.Module:
    torch.manual_seed(0)
    objective = build_objective(OBJECTIVES[objective_name]())
    config = ModelConfig(name=name, weights="none")
    return build_model(config, outputs=objective.outputs, head=objective.head)


class RedMinusGreen(nn.Module):
    """Scores `bias` plus how much red there is, less how much green."""

    def __init__(self, bias: float = 2.0) -> None:
        super().__init__()
        self.features = nn.AvgPool2d(8)
        self.bias = bias
        self.feature_info = [{"module": "features"}]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        means = self.features(inputs).mean(dim=(2, 3))
        return (self.bias + means[:, 0] - means[:, 1])[:, None]


@pytest.mark.parametrize("bias", [2.0, 40.0, -40.0])
def test_what_raises_the_score_is_positive_and_what_lowers_it_negative(bias: float) -> None:
    """Also where the score is clamped to 4 or to 0."""
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, :32, 0] = 255
    picture[:, 32:, 1] = 255
    objective = build_objective(RegressionConfig())
    heat = heat_map(RedMinusGreen(bias), picture, objective=objective, normalisation=PLAIN)
    assert heat.shape == (64, 64) and heat.dtype == np.float32
    assert heat[:, :20].min() == pytest.approx(1)
    assert heat[:, -20:].max() == pytest.approx(-1)


def test_a_picture_without_effect_has_an_empty_map() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    objective = build_objective(RegressionConfig())
    heat = heat_map(RedMinusGreen(), black, objective=objective, normalisation=PLAIN)
    assert not heat.any()


def test_the_map_is_grad_cam_as_the_paper_defines_it() -> None:
    model, picture = network("test_efficientnet").eval(), noise(96)
    scaling = normalisation(ModelConfig(name="test_efficientnet"))
    mean, std = torch.tensor(scaling.mean), torch.tensor(scaling.std)
    inputs = ((torch.from_numpy(picture) / 255 - mean) / std).permute(2, 0, 1)[None]
    features = model.blocks(model.bn1(model.conv_stem(inputs))).detach().requires_grad_()
    logits = model.forward_head(model.bn2(model.conv_head(features)))
    score = (logits.softmax(dim=1) * torch.arange(5)).sum()
    weights = torch.autograd.grad(score, features)[0].mean(dim=(2, 3), keepdim=True)
    coarse = (weights * features).sum(dim=1, keepdim=True)
    fine = F.interpolate(coarse, (96, 96), mode="bilinear")[0, 0].detach().numpy()
    objective = build_objective(CrossEntropyConfig())
    heat = heat_map(model, picture, objective=objective, normalisation=scaling)
    np.testing.assert_allclose(heat, fine / np.abs(fine).max(), atol=1e-4)


@pytest.mark.parametrize("name", OFFERED)
def test_every_network_on_offer_has_a_map(name: str) -> None:
    objective = build_objective(CrossEntropyConfig())
    scaling = normalisation(ModelConfig(name=name))
    heat = heat_map(network(name), noise(), objective=objective, normalisation=scaling)
    assert np.isfinite(heat).all()
    assert np.abs(heat).max() == pytest.approx(1)
    assert heat.std() > 0


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_has_a_map(name: str) -> None:
    objective = build_objective(OBJECTIVES[name]())
    model = network("test_efficientnet", name)
    heat = heat_map(model, noise(96), objective=objective, normalisation=PLAIN)
    assert np.abs(heat).max() == pytest.approx(1)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_what_is_explained_rises_with_the_score(name: str) -> None:
    torch.manual_seed(0)
    objective = build_objective(OBJECTIVES[name]())
    logits = 2 * torch.randn(200, objective.outputs)
    score, explained = objective.decode(logits)[0], objective.explained(logits)
    order = explained.argsort()
    assert (score[order].diff() >= -1e-6).all()


def test_a_network_of_tokens_is_refused() -> None:
    objective = build_objective(CrossEntropyConfig())
    with pytest.raises(ValueError, match="has no map of features"):
        heat_map(network("test_vit"), noise(160), objective=objective, normalisation=PLAIN)


def test_the_last_features_are_those_before_the_head() -> None:
    assert last_features(network("test_efficientnet")) is not None
    model = network("convnext_tiny")
    assert last_features(model) is model.stages[-1]


def test_an_overlay_is_gray_where_nothing_matters_and_coloured_where_much_does() -> None:
    picture, heat = noise(4), np.zeros((4, 4), np.float32)
    heat[0], heat[3] = 1, -1
    mixed = overlay(picture, heat)
    assert mixed.dtype == np.uint8 and mixed.shape == picture.shape
    gray = picture.astype(float).mean(axis=2)
    np.testing.assert_allclose(mixed[1], gray[1][:, None].repeat(3, 1), atol=0.6)
    for row, colour in ((0, RAISES), (3, LOWERS)):
        np.testing.assert_allclose(
            mixed[row], 0.3 * gray[row][:, None] + 0.7 * np.array(colour), atol=0.6
        )


@pytest.fixture(scope="module")
def explained_run(finished_run: Path) -> tuple[Path, TrainConfig]:
    return finished_run, build(TrainConfig, read_config(finished_run / "config.yaml"))


def test_each_photograph_is_explained_by_the_model_of_its_fold(
    explained_run: tuple[Path, TrainConfig], tiny_shards: Path
) -> None:
    run, config = explained_run
    shards = open_shards(tiny_shards)
    fold_of = {"3_left": 0, "7_right": 2, "not there": 1}
    found = explain(run, config=config, image_size=32, shards=shards, fold_of=fold_of)
    assert set(found) == {"3_left", "7_right"}
    record = list(shards.table["name"]).index("7_right")
    photograph = decode_at(shards.read_image(record), size=32)
    np.testing.assert_array_equal(found["7_right"].photograph, photograph)
    maps = []
    for fold in (2, 0):
        path = run / f"fold-{fold}" / "model.safetensors"
        heat = heat_map(
            load_kept_model(path, config, image_size=32),
            photograph,
            objective=build_objective(config.objective),
            normalisation=normalisation(config.model),
        )
        maps.append(overlay(photograph, heat))
    np.testing.assert_array_equal(found["7_right"].heat_map, maps[0])
    assert (maps[0] != maps[1]).any()


def test_without_maps_no_model_is_read(
    explained_run: tuple[Path, TrainConfig], tiny_shards: Path, tmp_path: Path
) -> None:
    run, config = explained_run
    bare = tmp_path / "run"
    shutil.copytree(run, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    given = {"config": config, "image_size": 32, "shards": open_shards(tiny_shards)}
    found = explain(bare, fold_of={"3_left": 0}, maps=False, **given)
    assert found["3_left"].heat_map is None
    with pytest.raises(ValueError, match="cannot be loaded"):
        explain(bare, fold_of={"3_left": 0}, **given)


def test_checkpointed_gradients_do_not_stand_in_the_way(
    explained_run: tuple[Path, TrainConfig], tiny_shards: Path
) -> None:
    run, config = explained_run
    given = {"image_size": 32, "shards": open_shards(tiny_shards), "fold_of": {"3_left": 0}}
    plain = explain(run, config=config, **given)["3_left"].heat_map
    model = dataclasses.replace(config.model, grad_checkpointing=True)
    found = explain(run, config=dataclasses.replace(config, model=model), **given)
    np.testing.assert_array_equal(found["3_left"].heat_map, plain)
