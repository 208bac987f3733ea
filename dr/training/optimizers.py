"""Optimizers, and how the rate of the schedule is shared out among the parameters."""

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dr.config import OPTIMIZERS, ByName, OptimizerConfig, Problem

if TYPE_CHECKING:
    import torch

TORCH_OPTIMIZERS = (
    "ASGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSprop",
    "SGD",
)
"""Classes of `torch.optim` that `ByName` offers: all that take dense gradients of any shape, one
pass a step, and their rate from outside (so neither LBFGS, SparseAdam, Muon nor Rprop)."""


def build_optimizer(model: "torch.nn.Module", config: OptimizerConfig) -> "torch.optim.Optimizer":
    """The optimizer that `config` names over all trainable parameters of `model`.

    Unless `decay_norms_and_biases`, weight decay acts on matrices and kernels only: biases, the
    gains of normalisation layers (all one-dimensional parameters) and what the model itself
    excludes (`no_weight_decay()`, as timm's transformers do for position embeddings) are left
    out of it. Every group has its `lr_scale`: 1, or what `layer_decay` (BEiT's layer-wise decay,
    Bao et al. 2021) or `backbone_lr_scale` make of it. The rate is 0 until `set_learning_rate`.

    Raises:
        ValueError: the optimizer cannot be made as asked, or the model has nothing to train.
    """
    groups = parameter_groups(model, config)
    if isinstance(config, ByName):
        problems = by_name_problems(config)
        if problems:
            raise ValueError("\n".join(map(str, problems)))
        optimizer = _by_name(config, groups)
    else:
        settings = _own_settings(config) | {"fused": _fuses(groups)}
        optimizer = _optimizer_class(config.name)(groups, **settings)
    set_learning_rate(optimizer, 0.0)
    return optimizer


def _fuses(groups: list[dict[str, Any]]) -> bool:
    """Whether torch has one kernel for a whole step on the device of the parameters."""
    return groups[0]["params"][0].device.type in ("cpu", "cuda")


def _own_settings(config: OptimizerConfig) -> dict[str, Any]:
    """What a variant adds to the keys that all optimizers have."""
    shared = {field.name for field in dataclasses.fields(OptimizerConfig)}
    settings = dataclasses.asdict(config)
    return _tuples({name: value for name, value in settings.items() if name not in shared})


def _tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Lists as the tuples that optimizers ask for."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }


def set_learning_rate(optimizer: "torch.optim.Optimizer", lr: float) -> None:
    """Set the learning rate of every parameter group to `lr` times its `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def parameter_groups(model: "torch.nn.Module", config: OptimizerConfig) -> list[dict[str, Any]]:
    """The trainable parameters, as `params`, that share a `weight_decay` and an `lr_scale`.

    Raises ValueError where there are none, or a scale is asked for and the model has no head.
    """
    scales = _rate_scales(model, config)
    excluded = _undecayed(model, config)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if name in excluded else config.weight_decay
            groups.setdefault((decay, scales.get(name, 1.0)), []).append(parameter)
    if not groups:
        raise ValueError("the model has no trainable parameters: leave some unfrozen")
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (decay, scale), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def _undecayed(model: "torch.nn.Module", config: OptimizerConfig) -> set[str]:
    """Names of the parameters that weight decay leaves alone, by timm's rule."""
    from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]

    if config.decay_norms_and_biases or not config.weight_decay:
        return set()
    own: Iterable[str] = getattr(model, "no_weight_decay", tuple)()
    groups = param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=list(own))
    free = {
        id(parameter)
        for group in groups
        if not group["weight_decay"]
        for parameter in group["params"]
    }
    return {name for name, parameter in model.named_parameters() if id(parameter) in free}


def _rate_scales(model: "torch.nn.Module", config: OptimizerConfig) -> dict[str, float]:
    """The share of the schedule's rate by parameter name, where it isn't 1."""
    if config.layer_decay != 1:
        return _layer_scales(model, config.layer_decay)
    if config.backbone_lr_scale != 1:
        return dict.fromkeys(
            _backbone(model, "optimizer.backbone_lr_scale"), config.backbone_lr_scale
        )
    return {}


def _layer_scales(model: "torch.nn.Module", decay: float) -> dict[str, float]:
    from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]

    groups = param_groups_layer_decay(model, layer_decay=decay)
    scales = {id(one): group["lr_scale"] for group in groups for one in group["params"]}
    if len(set(scales.values())) < 2:
        raise ValueError(
            f"optimizer.layer_decay={decay}: timm knows one layer only in this network; "
            "leave it at 1"
        )
    return {
        name: scales[id(parameter)]
        for name, parameter in model.named_parameters()
        if id(parameter) in scales
    }


def _backbone(model: "torch.nn.Module", key: str) -> list[str]:
    """Names of all parameters but the head's (timm's `get_classifier`)."""
    ask: Callable[[], Any] = getattr(model, "get_classifier", tuple)
    found = ask()
    heads = found if isinstance(found, tuple | list) else (found,)
    own = {id(parameter) for head in heads for parameter in head.parameters()}
    names = [name for name, parameter in model.named_parameters() if id(parameter) not in own]
    if not own or not names:
        raise ValueError(f"{key}: this network has no head beside a backbone; leave it out")
    return names


def freeze_backbone(model: "torch.nn.Module", *, frozen: bool) -> None:
    """Let all parameters but the head's learn, or not.

    Gradients of what is frozen are neither computed nor kept. See `train_mode` for statistics.
    """
    names = set(_backbone(model, "optimizer.freeze_epochs"))
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.requires_grad_(not frozen)
            parameter.grad = None if frozen else parameter.grad


def train_mode(model: "torch.nn.Module") -> None:
    """`model.train()`, but a BatchNorm whose own parameters are all frozen keeps its statistics."""
    from torch.nn.modules.batchnorm import _BatchNorm

    model.train()
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, _BatchNorm) and own and not any(one.requires_grad for one in own):
            module.eval()


def _optimizer_class(name: str) -> "Callable[..., torch.optim.Optimizer]":
    import torch

    classes: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
    }
    if name not in classes:
        raise ValueError(f"optimizer.name={name!r}: choose one of {', '.join(OPTIMIZERS)}")
    return classes[name]


def optimizer_names() -> list[str]:
    """The names that `ByName.algorithm` takes: those of timm's registry, then torch's classes.

    Left out of timm's are second-order ones, those of other packages (apex, bitsandbytes), those
    whose weight decay is corrected by the rate they were built with (`adamc`, `lionc` and the
    like), which the schedule changes, and Kron, which does not resume to the bit.
    """
    import timm.optim

    library: Any = timm.optim
    infos = {name: library.get_optimizer_info(name) for name in library.list_optimizers()}
    offered = [
        name
        for name, info in infos.items()
        if not info.second_order
        and not isinstance(info.opt_class, str)
        and info.opt_class.__name__ != "Kron"
        and "corrected_weight_decay" not in (info.defaults or {})
    ]
    return [*offered, *TORCH_OPTIMIZERS]


def by_name_problems(config: ByName) -> list[Problem]:
    """What is wrong with an optimizer's name and options, found by building it for a matrix."""
    names, algorithm = optimizer_names(), config.algorithm
    if algorithm is None:
        fix = "name an optimizer of timm's or torch's, as in optimizer.algorithm=lion"
        return [Problem("optimizer.algorithm", None, fix)]
    if algorithm not in names:
        close = _close(algorithm, names)
        fix = f"did you mean {close}?" if close else f"choose one of {', '.join(names)}"
        return [Problem("optimizer.algorithm", algorithm, fix)]
    if not isinstance(config.options, Mapping):
        return [Problem("optimizer.options", config.options, "give a mapping, as in {eps: 1e-6}")]
    return _option_problems(config, algorithm)


def _option_problems(config: ByName, algorithm: str) -> list[Problem]:
    known = _arguments(algorithm)
    refused = {name: _refusal(str(name), algorithm, known) for name in config.options}
    problems = [
        Problem(f"optimizer.options.{name}", config.options[name], fix)
        for name, fix in refused.items()
        if fix is not None
    ]
    if problems:
        return problems
    try:
        _by_name(config, [{"params": [_dummy()]}])
    except Exception as error:  # each optimizer has its own for a bad value
        fix = f"{algorithm} refuses: {error or type(error).__name__}"
        return [Problem("optimizer.options", dict(config.options), fix)]
    return []


def _dummy() -> "torch.nn.Parameter":
    import torch

    return torch.nn.Parameter(torch.zeros(2, 2))


def _refusal(name: str, algorithm: str, known: Sequence[str]) -> str | None:
    """Why an option cannot be given; None where it can."""
    if name in ("lr", "adamw_lr"):
        return "the learning rate belongs to the schedule; set schedule.max_lr"
    if name == "weight_decay":
        return "set optimizer.weight_decay"
    if name in known:
        return None
    close = _close(name, known)
    hint = f"did you mean {close}?" if close else f"known are {', '.join(known)}"
    return f"is no option of {algorithm}; {hint}"


def _close(name: str, known: Sequence[str]) -> str:
    lowered = [one.lower() for one in known]
    found = difflib.get_close_matches(name.lower(), sorted(set(lowered)), n=3)
    return ", ".join(one for one, lower in zip(known, lowered, strict=True) if lower in found)


def _class_of(algorithm: str) -> "Callable[..., torch.optim.Optimizer]":
    import timm.optim
    import torch

    library: Any = timm.optim
    found: Callable[..., torch.optim.Optimizer] = (
        getattr(torch.optim, algorithm)
        if algorithm in TORCH_OPTIMIZERS
        else library.get_optimizer_class(algorithm, bind_defaults=False)
    )
    return found


def _arguments(algorithm: str) -> list[str]:
    held = {"params", "lr", "weight_decay", "corrected_weight_decay"}
    return [name for name in inspect.signature(_class_of(algorithm)).parameters if name not in held]


def _by_name(config: ByName, groups: list[dict[str, Any]]) -> "torch.optim.Optimizer":
    """The optimizer at a rate of 1: some (timm's Adafactor) take 0 for one of their own."""
    import timm.optim

    assert config.algorithm is not None
    library: Any = timm.optim
    given = _tuples(config.options) | {"lr": 1.0, "weight_decay": config.weight_decay}
    if config.algorithm in TORCH_OPTIMIZERS:
        return _class_of(config.algorithm)(groups, **given)
    made: torch.optim.Optimizer = library.create_optimizer_v2(groups, opt=config.algorithm, **given)
    return made
