import copy

import pytest
import torch
from torch import nn

from dr.accel.cpu import CPU
from dr.accel.depthwise import keep_depthwise_float32
from dr.config import AccelConfig, ModelConfig
from dr.modeling.backbones import build_model

CASES = [
    ("3x3", nn.Conv2d(8, 8, 3, padding=1, groups=8), False),
    ("5x5", nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False), True),
    ("with a stride", nn.Conv2d(8, 16, 3, stride=2, groups=8), True),
    ("grouped", nn.Conv2d(8, 8, 5, groups=4), False),
    ("dense", nn.Conv2d(8, 8, 5), False),
    ("of one channel", nn.Conv2d(1, 4, 5), False),
]


@pytest.mark.parametrize(("layer", "slow"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_the_slow_depthwise_ones_alone_compute_in_float32(layer: nn.Conv2d, slow: bool) -> None:
    layer = copy.deepcopy(layer)
    pictures = torch.randn(2, layer.in_channels, 9, 9).bfloat16().float()
    exact = layer(pictures)
    keep_depthwise_float32(nn.Sequential(layer))
    assert torch.equal(layer(pictures), exact)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(pictures)
    assert torch.equal(found, exact.bfloat16()) == slow  # elsewhere the weights are rounded too
    assert (type(layer) is not nn.Conv2d) == slow


def test_names_values_and_copies_stay_as_they_are() -> None:
    config = ModelConfig(name="tf_efficientnet_lite0", weights="none")
    model = build_model(config, outputs=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cpu = CPU(AccelConfig(name="cpu", precision="bfloat16"))
    prepared = copy.deepcopy(cpu.prepare_model(cpu.prepare_model(model)))
    after = prepared.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    kinds = {type(module).__name__ for module in prepared.modules()}
    assert "Conv2dSameInFloat32" in kinds
    assert not any(name.endswith("InFloat32InFloat32") for name in kinds)


def test_in_float32_nothing_is_changed() -> None:
    layer = nn.Conv2d(8, 8, 5, groups=8)
    CPU(AccelConfig(name="cpu", precision="float32")).prepare_model(layer)
    assert type(layer) is nn.Conv2d


def test_gradients_are_those_of_float32() -> None:
    layer = keep_depthwise_float32(nn.Conv2d(8, 8, 5, groups=8))
    pictures = torch.randn(2, 8, 9, 9).bfloat16().float()
    with torch.autocast("cpu", torch.bfloat16):
        layer(pictures).float().sum().backward()
    found, layer.weight.grad = layer.weight.grad, None
    layer(pictures).sum().backward()
    torch.testing.assert_close(found, layer.weight.grad)
