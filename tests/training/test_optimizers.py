import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from dr.accel.cpu import CPU
from dr.config import SGD, AccelConfig, Adam, AdamW, ByName, OptimizerConfig, TrainConfig
from dr.training import fold as fold_module
from dr.training.cross_validation import cross_validate
from dr.training.history import read_history
from dr.training.optimizers import (
    TORCH_OPTIMIZERS,
    build_optimizer,
    by_name_problems,
    freeze_backbone,
    optimizer_names,
    set_learning_rate,
    train_mode,
)

Make = Callable[..., TrainConfig]
MOVES_AT_ZERO = {"madgrad", "madgradw"}  # they add their epsilon to the rate


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


def settings_of(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> dict[str, Any]:
    """Weight decay and rate scale by parameter name."""
    found = {
        parameter: (group["weight_decay"], group["lr_scale"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    return {name: found[parameter] for name, parameter in model.named_parameters()}


def test_weight_decay_reaches_everything_where_asked() -> None:
    model = network()
    optimizer = build_optimizer(model, AdamW(weight_decay=0.1, decay_norms_and_biases=True))
    assert set(settings_of(optimizer, model).values()) == {(0.1, 1.0)}


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", "test_convnext"])
def test_layer_decay_is_timms(name: str) -> None:
    from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]

    model = timm.create_model(name, num_classes=5)
    optimizer = build_optimizer(model, AdamW(weight_decay=0.1, layer_decay=0.7))
    excluded = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    groups = param_groups_layer_decay(
        model, weight_decay=0.1, no_weight_decay_list=excluded, layer_decay=0.7
    )
    expected = {
        parameter: (group["weight_decay"], group["lr_scale"])
        for group in groups
        for parameter in group["params"]
    }
    found = settings_of(optimizer, model)
    assert found == {name: expected[one] for name, one in model.named_parameters()}
    assert expected[next(model.get_classifier().parameters())] == (0.1, 1.0)
    assert min(scale for _, scale in found.values()) < 0.7


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
def test_the_backbone_learns_at_its_share_of_the_rate(name: str) -> None:
    model = timm.create_model(name, num_classes=5)
    optimizer = build_optimizer(model, AdamW(backbone_lr_scale=0.1))
    set_learning_rate(optimizer, 0.5)
    rate_of = {
        parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]
    }
    heads = {id(one) for one in model.get_classifier().parameters()}
    assert len(heads) == 2
    for parameter, rate in rate_of.items():
        assert rate == pytest.approx(0.5 if id(parameter) in heads else 0.05)
    set_learning_rate(optimizer, 1.0)
    assert {group["lr"] for group in optimizer.param_groups} == {1.0, 0.1}


@pytest.mark.parametrize("change", [{"backbone_lr_scale": 0.1}, {"layer_decay": 0.5}])
def test_a_model_without_a_known_head_or_layers_is_refused(change: dict[str, float]) -> None:
    (key,) = change
    with pytest.raises(ValueError, match=f"optimizer.{key}"):
        build_optimizer(torch.nn.Linear(2, 2), AdamW(**change))


def backward_and_step(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    accelerator = CPU(AccelConfig(name="cpu"))
    accelerator.backward(loss)
    accelerator.update(optimizer, norm=accelerator.gradient_norm(optimizer))


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    pictures = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    loss = torch.nn.functional.cross_entropy(model(pictures), torch.arange(6) % 5)
    backward_and_step(loss, optimizer)


def small() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 5),
    )


@pytest.mark.parametrize("name", optimizer_names())
def test_every_named_optimizer_follows_the_schedule_and_goes_on_to_the_bit(name: str) -> None:
    config = ByName(algorithm=name, weight_decay=0.01)
    model = small()
    optimizer = build_optimizer(model, config)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step(model, optimizer, 0)
    still = all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert still == (name not in MOVES_AT_ZERO)
    set_learning_rate(optimizer, 1e-3)
    step(model, optimizer, 1)
    step(model, optimizer, 2)
    assert not torch.equal(before[-2], model[-1].weight)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    again = small()
    other = build_optimizer(again, config)
    again.load_state_dict(state["model"])
    other.load_state_dict(state["optimizer"])
    for seed in (3, 4):
        step(model, optimizer, seed)
        step(again, other, seed)
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_names_are_timms_and_torchs() -> None:
    names = optimizer_names()
    assert {"lion", "lamb", "nadamw", "muon", "RAdam"} < set(names)
    assert len(set(names)) == len(names)
    assert all(hasattr(torch.optim, name) for name in TORCH_OPTIMIZERS)
    assert not {"adahessian", "adamc", "bnbadam", "fusedadam", "kron", "kronc"} & set(names)


def test_options_reach_the_optimizer() -> None:
    config = ByName(algorithm="lion", weight_decay=0.1, options={"betas": [0.8, 0.9]})
    optimizer = build_optimizer(network(), config)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.1]
    (group,) = build_optimizer(network(), ByName(algorithm="AdamW")).param_groups
    assert group["weight_decay"] == 0.0  # ours, not the class's


@pytest.mark.parametrize(
    ("config", "messages"),
    [
        (ByName(), ["optimizer.algorithm=None: name an optimizer"]),
        (ByName(algorithm="lionn"), ["optimizer.algorithm='lionn': did you mean clion, lion?"]),
        (ByName(algorithm="RAdm"), ["did you mean adam, radam, radamw, Adam, RAdam?"]),
        (ByName(algorithm="zzz"), ["choose one of adabelief, "]),
        (
            ByName(algorithm="lion", options={"lr": 0.1, "beta": 1, "weight_decay": 0.2}),
            [
                "optimizer.options.lr=0.1: the learning rate belongs to the schedule",
                "optimizer.options.beta=1: is no option of lion; did you mean betas?",
                "optimizer.options.weight_decay=0.2: set optimizer.weight_decay",
            ],
        ),
        (ByName(algorithm="lion", options={"betas": [2, 0.9]}), ["lion refuses: Invalid beta"]),
        (ByName(algorithm="lion", options={"betas": 2}), ["lion refuses: "]),
        (ByName(algorithm="lion", options=[1]), ["give a mapping"]),
    ],
)
def test_what_an_optimizer_does_not_take_is_named(config: ByName, messages: list[str]) -> None:
    found = [str(problem) for problem in by_name_problems(config)]
    assert len(found) == len(messages)
    for text, message in zip(found, messages, strict=True):
        assert message in text
    with pytest.raises(ValueError, match=r"optimizer\."):
        build_optimizer(network(), config)


def test_a_frozen_backbone_keeps_its_weights_and_statistics() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=5)
    optimizer = build_optimizer(model, AdamW(weight_decay=0.1))

    def changed() -> set[str]:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        train_mode(model)
        set_learning_rate(optimizer, 0.01)
        loss = model(torch.randn(4, 3, 32, 32)).square().sum()
        backward_and_step(loss, optimizer)
        after = model.state_dict()
        return {name for name in before if not torch.equal(before[name], after[name])}

    freeze_backbone(model, frozen=True)
    assert changed() == {"classifier.weight", "classifier.bias"}
    freeze_backbone(model, frozen=False)
    moved = changed()
    assert {"conv_stem.weight", "bn1.weight", "bn1.running_mean", "classifier.bias"} < moved
    assert all(parameter.requires_grad for parameter in model.parameters())


def weights_of(config: TrainConfig) -> dict[str, torch.Tensor]:
    outcome = cross_validate(config)
    return load_file(outcome.folder / "fold-0" / "model.safetensors")


def test_freezing_lasts_as_many_epochs_as_asked(tiny_config: Make, tmp_path: Path) -> None:
    def trained(rate: float, frozen: int) -> dict[str, torch.Tensor]:
        return weights_of(
            tiny_config(
                "fold=0",
                f"schedule.max_lr={rate}",
                f"optimizer.freeze_epochs={frozen}",
            )
        )

    def differing(frozen: int) -> set[str]:
        one, other = trained(0.01, frozen), trained(0.02, frozen)
        return {name for name in one if not torch.equal(one[name], other[name])}

    assert differing(2) == {"classifier.weight", "classifier.bias"}
    assert {"conv_stem.weight", "bn1.running_mean"} < differing(1)


RESUMED = [
    ["optimizer.algorithm=lion", "optimizer.layer_decay=0.8", "optimizer.freeze_epochs=2"],
    ["optimizer.algorithm=muon", "optimizer.backbone_lr_scale=0.3", "optimizer.clip_norm=1.0"],
]


@pytest.mark.parametrize("changes", RESUMED)
def test_groups_and_freezing_resume_to_the_bit(
    tiny_config: Make, tmp_path: Path, changes: list[str]
) -> None:
    common = ("optimizer=by_name", "fold=0", "epochs=3", "schedule.max_lr=0.001", *changes)
    whole = cross_validate(tiny_config(*common, f"outputs={tmp_path / 'whole'}"))
    broken = tiny_config(*common, f"outputs={tmp_path / 'broken'}")
    original = fold_module.train_epoch

    def cut(*given: Any, **named: Any) -> Any:
        if named["drawing"].epoch == 1:
            raise KeyboardInterrupt
        return original(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_module, "train_epoch", cut)
        with pytest.raises(KeyboardInterrupt):
            cross_validate(broken)
    again = cross_validate(broken)
    one, other = (
        load_file(outcome.folder / "fold-0" / "model.safetensors") for outcome in (whole, again)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    history = read_history(again.folder / "fold-0")
    assert [row["learning_rate"] for row in history] == [0.001] * 3
