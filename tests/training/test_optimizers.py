import pytest
import torch

from dr.config import SGD, Adam, AdamW, OptimizerConfig
from dr.training.optimizers import build_optimizer, set_learning_rate


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4, 5)
    )


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (Adam(weight_decay=0.1), torch.optim.Adam),
        (AdamW(weight_decay=0.1), torch.optim.AdamW),
        (SGD(weight_decay=0.1), torch.optim.SGD),
    ],
)
def test_weight_decay_reaches_kernels_and_matrices_only(
    config: OptimizerConfig, kind: type[torch.optim.Optimizer]
) -> None:
    model = network()
    optimizer = build_optimizer(model, config)
    assert type(optimizer) is kind
    decay_of = {
        parameter: group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    named = {name: decay_of[parameter] for name, parameter in model.named_parameters()}
    assert named == {
        "0.weight": 0.1,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "3.weight": 0.1,
        "3.bias": 0.0,
    }


def test_settings_reach_torch() -> None:
    (group,) = build_optimizer(network(), Adam(betas=[0.8, 0.99], eps=1e-5)).param_groups
    assert (group["betas"], group["eps"], group["lr"]) == ((0.8, 0.99), 1e-5, 0.0)
    (group,) = build_optimizer(network(), SGD(momentum=0.5, nesterov=False)).param_groups
    assert (group["momentum"], group["nesterov"]) == (0.5, False)


def test_a_model_may_exclude_parameters_itself() -> None:
    model = network()
    model.no_weight_decay = lambda: {"3.weight"}  # type: ignore[assignment]
    undecayed = build_optimizer(model, AdamW(weight_decay=0.1)).param_groups[0]
    assert undecayed["weight_decay"] == 0
    assert any(parameter is model[3].weight for parameter in undecayed["params"])


def test_frozen_parameters_are_left_out() -> None:
    model = network()
    model[0].requires_grad_(False)
    parameters = [
        one for group in build_optimizer(model, AdamW()).param_groups for one in group["params"]
    ]
    assert len(parameters) == 4
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameters"):
        build_optimizer(model, AdamW())


def test_the_rate_is_zero_until_set_and_then_holds_for_every_group() -> None:
    model = network()
    optimizer = build_optimizer(model, SGD(momentum=0.0, nesterov=False, weight_decay=0.0))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model(torch.ones(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    for old, new in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old, rtol=0, atol=0)
    set_learning_rate(optimizer, 0.5)
    optimizer.step()
    for old, new in zip(before, model.parameters(), strict=True):
        assert new.grad is not None
        torch.testing.assert_close(new.detach(), old - 0.5 * new.grad)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"optimizer.name='lamb'.*adam, adamw, sgd"):
        build_optimizer(network(), OptimizerConfig(name="lamb"))
