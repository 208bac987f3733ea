"""Optimizers by name. Their learning rate is set before every step, from the schedule."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from dr.config import OPTIMIZERS, OptimizerConfig

if TYPE_CHECKING:
    import torch


def build_optimizer(model: "torch.nn.Module", config: OptimizerConfig) -> "torch.optim.Optimizer":
    """The optimizer `config.name` over all trainable parameters of `model`.

    Weight decay acts on matrices and kernels only: biases, the gains of normalisation layers (all
    one-dimensional parameters) and what the model itself excludes (`no_weight_decay()`, as timm's
    transformers do for position embeddings) are left out of it. The learning rate is 0 until
    `set_learning_rate`.

    Raises:
        ValueError: `config.name` is no known optimizer, or the model has nothing to train.
    """
    from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]

    settings = dataclasses.asdict(config)
    name, decay = settings.pop("name"), settings.pop("weight_decay")
    if "betas" in settings:
        settings["betas"] = tuple(settings["betas"])
    excluded: Iterable[str] = getattr(model, "no_weight_decay", tuple)()
    groups = param_groups_weight_decay(model, decay, no_weight_decay_list=list(excluded))
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("the model has no trainable parameters: leave some unfrozen")
    return _optimizer_class(name)(groups, lr=0.0, **settings)


def _optimizer_class(name: str) -> "Callable[..., torch.optim.Optimizer]":
    import torch

    classes: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
    }
    assert classes.keys() == OPTIMIZERS.keys()
    if name not in classes:
        raise ValueError(f"optimizer.name={name!r}: choose one of {', '.join(classes)}")
    return classes[name]


def set_learning_rate(optimizer: "torch.optim.Optimizer", lr: float) -> None:
    """Set the learning rate of every parameter group to `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr
