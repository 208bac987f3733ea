import pytest
import timm
import torch

from dr.config import ModelConfig
from dr.modeling.backbones import Normalisation, build_model, normalisation
from dr.modeling.weights import PACKAGES


def config(name: str, **settings: float) -> ModelConfig:
    return ModelConfig(name=name, weights="none", **settings)


@pytest.mark.parametrize(("name", "side"), [("test_efficientnet", 48), ("test_resnet", 64)])
def test_convolutional_networks_average_any_image_size(name: str, side: int) -> None:
    model = build_model(config(name), outputs=5, image_size=side)
    assert model.training
    assert model.global_pool.pool_type == "avg"
    assert model(torch.zeros(2, 3, side, side + 16)).shape == (2, 5)


@pytest.mark.parametrize("side", [64, 96])
def test_transformers_are_built_for_the_image_size(side: int) -> None:
    model = build_model(config("test_vit"), outputs=1, image_size=side)
    assert model.training
    assert model(torch.zeros(2, 3, side, side)).shape == (2, 1)


def test_without_an_image_size_the_weights_own_holds() -> None:
    model = build_model(config("test_vit"), outputs=5)
    side = timm.get_pretrained_cfg("test_vit").input_size[-1]
    assert model(torch.zeros(1, 3, side, side)).shape == (1, 5)


@pytest.mark.parametrize("name", ["xcit_nano_12_p8_224", "levit_128s"])
def test_a_network_of_one_image_size_says_which(name: str) -> None:
    with pytest.raises(ValueError, match=rf"image_size=100: {name}.*image_size=224"):
        build_model(config(name), outputs=5, image_size=100)


def test_drop_rates_reach_the_network() -> None:
    model = build_model(config("test_efficientnet", drop_rate=0.3, drop_path_rate=0.2), outputs=5)
    assert model.drop_rate == 0.3
    rates = [
        module.drop_prob
        for module in model.modules()
        if isinstance(module, timm.layers.DropPath) and module.drop_prob
    ]
    assert rates and max(rates) <= 0.2


def test_a_drop_rate_that_the_network_lacks_is_refused_unless_zero() -> None:
    with torch.device("meta"):
        build_model(config("vgg11"), outputs=5)
        with pytest.raises(ValueError, match=r"model.drop_path_rate=0.1: vgg11 has no such"):
            build_model(config("vgg11", drop_path_rate=0.1), outputs=5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("efficientnet-b4", "did you mean.*efficientnet_b4"),
        ("no such thing at all", "list_models"),
        ("resnet18.imagenet", "resnet18.a1_in1k"),
        ("hf-hub:someone/something", "timm has no such model"),
    ],
)
def test_unknown_names_come_with_close_ones(name: str, words: str) -> None:
    for weights in ("none", "hub", "package"):
        with pytest.raises(ValueError, match=f"model.name={name!r}.*{words}"):
            build_model(ModelConfig(name=name, weights=weights), outputs=5)
    with pytest.raises(ValueError, match=words):
        normalisation(config(name))


def test_unpretrained_networks_need_no_weights() -> None:
    missing = ModelConfig(name="test_resnet", weights="/no/such/file.pth")
    torch.manual_seed(0)
    first = build_model(missing, outputs=5, pretrained=False).state_dict()
    torch.manual_seed(0)
    second = build_model(config("test_resnet"), outputs=5).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in second)
    with pytest.raises(ValueError, match=r"/no/such/file\.pth"):
        build_model(missing, outputs=5)


def test_normalisation_is_the_weights_own() -> None:
    imagenet = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert normalisation(config("resnet50.a1_in1k")) == imagenet
    half = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert normalisation(config("vit_tiny_patch16_224")) == half


@pytest.mark.parametrize("name", PACKAGES)
def test_the_packages_were_trained_at_one_half(name: str) -> None:
    half = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert normalisation(ModelConfig(name=name, weights="package")) == half
