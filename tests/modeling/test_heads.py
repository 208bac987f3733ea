import pytest
import torch
from torch import nn

from dr.config import ModelConfig
from dr.modeling.backbones import build_model
from dr.modeling.heads import HEADS, MIN_GAP, install_head

SHARED = ["shared", "ordered"]


def config(name: str = "test_efficientnet") -> ModelConfig:
    return ModelConfig(name=name, weights="none")


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_vit", "test_convnext"])
@pytest.mark.parametrize("kind", SHARED)
def test_a_network_gets_one_weight_vector_and_four_biases(name: str, kind: str) -> None:
    side = 160 if name == "test_vit" else 64
    model = build_model(config(name), outputs=4, head=kind).eval()
    head = model.get_classifier()
    assert type(head) is HEADS[kind]
    assert {key: tuple(value.shape) for key, value in head.named_parameters()} == {
        "weight": (1, head.weight.shape[1]),
        "bias": (4,),
    }
    logits = model(torch.randn(3, 3, side, side))
    assert logits.shape == (3, 4)
    apart = logits.diff(dim=1)
    torch.testing.assert_close(apart, apart[:1].expand(3, 3), atol=1e-5, rtol=0)
    plain = build_model(config(name), outputs=1)
    assert set(plain.state_dict()) == set(model.state_dict())
    assert [key for key, _ in plain.named_parameters()] == [
        key for key, _ in model.named_parameters()
    ]


@pytest.mark.parametrize("kind", SHARED)
def test_a_head_starts_with_even_grades(kind: str) -> None:
    model = build_model(config(), outputs=4, head=kind)
    above = model.get_classifier().thresholds().sigmoid()
    torch.testing.assert_close(above, torch.tensor([0.8, 0.6, 0.4, 0.2]))


def test_the_rest_of_the_network_is_that_of_a_plain_head() -> None:
    torch.manual_seed(0)
    plain = build_model(config(), outputs=1)
    after = torch.rand(3)
    torch.manual_seed(0)
    model = build_model(config(), outputs=4, head="ordered")
    assert torch.equal(torch.rand(3), after)
    for key, value in plain.state_dict().items():
        assert key == "classifier.bias" or torch.equal(value, model.state_dict()[key])


def test_weights_of_a_package_leave_the_head_new() -> None:
    lite = ModelConfig(name="tf_efficientnet_lite0", weights="package")
    model = build_model(lite, outputs=4, head="shared")
    plain = build_model(lite, outputs=5)
    assert torch.equal(model.conv_stem.weight, plain.conv_stem.weight)
    torch.testing.assert_close(model.classifier.bias.sigmoid(), torch.tensor([0.8, 0.6, 0.4, 0.2]))


@pytest.mark.parametrize("scale", [0.1, 10.0, 1000.0])
def test_the_thresholds_of_an_ordered_head_descend_whatever_its_parameters(scale: float) -> None:
    torch.manual_seed(0)
    model = build_model(config(), outputs=4, head="ordered")
    head = model.get_classifier()
    for _ in range(50):
        nn.init.normal_(head.bias, std=scale)
        assert float(head.thresholds().detach().diff().max()) < -0.9 * MIN_GAP


def test_gradients_reach_every_parameter_of_an_ordered_head() -> None:
    model = build_model(config(), outputs=4, head="ordered")
    head = model.get_classifier().double()
    names = [name for name, _ in head.named_parameters()]
    features = torch.randn(3, head.weight.shape[1], dtype=torch.float64)

    def outputs(*parameters: torch.Tensor) -> torch.Tensor:
        values = dict(zip(names, parameters, strict=True))
        result: torch.Tensor = torch.func.functional_call(head, values, (features,))
        return result

    assert torch.autograd.gradcheck(outputs, [value for _, value in head.named_parameters()])


@pytest.mark.parametrize("kind", SHARED)
def test_thresholds_stay_float32_under_autocast(kind: str) -> None:
    model = build_model(config(), outputs=4, head=kind)
    head = model.get_classifier()
    features = 100 * torch.randn(4, head.weight.shape[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(features)
    assert logits.dtype == torch.float32
    wide = head.thresholds().diff().expand(4, 3)
    torch.testing.assert_close(logits.diff(dim=1), wide, atol=1e-5, rtol=0)


def test_a_network_without_one_linear_layer_at_its_end_is_refused() -> None:
    with pytest.raises(ValueError, match=r"does not end in one linear layer.*objective=corn"):
        install_head(build_model(config("vgg11"), outputs=0), kind="shared", outputs=4)
