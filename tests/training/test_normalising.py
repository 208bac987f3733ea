import pytest
import torch
from torch import nn

from dr.config import SGD, Adam, AdamW, OptimizerConfig
from dr.training.learner import normalise_
from dr.training.optimizers import build_optimizer, set_learning_rate


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 3, 1, 1), (3, 3, 1, 7), (0, 3, 4, 4)])
def test_pictures_are_normalised_in_place_in_either_layout(
    layout: torch.memory_format, shape: tuple[int, ...]
) -> None:
    mean = torch.tensor([0.1, 0.5, 0.7]).reshape(1, 3, 1, 1)
    std = torch.tensor([0.2, 0.3, 2.0]).reshape(1, 3, 1, 1)
    pictures = torch.rand(shape).contiguous(memory_format=layout)
    expected = (pictures - mean) / std
    found = normalise_(pictures, mean, std)
    assert found is pictures
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("config", [Adam(weight_decay=0.1), AdamW(), SGD(weight_decay=0.1)])
def test_the_one_kernel_takes_the_step_of_many(config: OptimizerConfig) -> None:
    def weights(fused: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Linear(7, 5)
        optimizer = build_optimizer(model, config)
        set_learning_rate(optimizer, 0.1)
        for group in optimizer.param_groups:
            assert group["fused"]
            group["fused"] = fused
        for _ in range(5):
            model(torch.randn(3, 7)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.weight.detach()

    torch.testing.assert_close(weights(fused=True), weights(fused=False))
