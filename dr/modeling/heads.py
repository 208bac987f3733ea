"""Heads that a network's last linear layer is replaced by, where an objective asks for one."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_GAP = 1e-3
"""The least distance of two neighbouring thresholds of an `OrderedHead`."""


class SharedHead(nn.Module):
    """One weight vector and a bias for each output: `[N, features]` -> `[N, outputs]`.

    `weight` is `[1, features]`, `bias` float32 `[outputs]`. The biases start where, for features
    of no weight, each of the `outputs + 1` grades has the same probability.
    """

    def __init__(self, linear: nn.Linear, *, outputs: int) -> None:
        """Takes the weight of `linear`, which has one output."""
        super().__init__()
        assert linear.out_features == 1
        self.weight = nn.Parameter(linear.weight.detach().clone())
        self.bias = nn.Parameter(_even_thresholds(outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Features `[N, features]` -> logits `[N, outputs]`."""
        return F.linear(features, self.weight) + self.thresholds()

    def thresholds(self) -> Tensor:
        """What is added to the weighted features for each output, `[outputs]`."""
        return self.bias


class OrderedHead(SharedHead):
    """A `SharedHead` whose outputs descend whatever its parameters.

    `bias` holds the first threshold, then what the softplus turns into the steps down from it.
    """

    def __init__(self, linear: nn.Linear, *, outputs: int) -> None:
        """Takes the weight of `linear`, which has one output."""
        super().__init__(linear, outputs=outputs)
        with torch.no_grad():
            gaps = self.bias[:-1] - self.bias[1:] - MIN_GAP
            self.bias[1:] = gaps.expm1().log()

    def thresholds(self) -> Tensor:
        """What is added to the weighted features for each output, `[outputs]`, descending."""
        gaps = F.softplus(self.bias[1:]) + MIN_GAP
        return self.bias[0] - F.pad(gaps.cumsum(dim=0), (1, 0))


HEADS: dict[str, type[SharedHead] | None] = {
    "linear": None,
    "shared": SharedHead,
    "ordered": OrderedHead,
}
"""Kinds of heads; `linear` is the network's own."""


def install_head(model: nn.Module, *, kind: str, outputs: int) -> None:
    """Put a head of `kind` in the place of the network's layer of one output.

    `linear` leaves the network as it is.

    Raises:
        ValueError: the network doesn't end in one linear layer.
    """
    head = HEADS[kind]
    if head is None:
        return
    last = model.get_classifier()  # type: ignore[operator]
    if not isinstance(last, nn.Linear):
        raise ValueError(
            f"model.name: {type(model).__name__} does not end in one linear layer, which this "
            "objective's head takes the place of; choose another network, or objective=corn"
        )
    name = next(name for name, module in model.named_modules() if module is last)
    model.set_submodule(name, head(last, outputs=outputs))


def _even_thresholds(outputs: int) -> Tensor:
    """The log-odds of being above each of `outputs` steps between equally likely grades."""
    odds = [(outputs - step) / (step + 1) for step in range(outputs)]
    return torch.tensor([math.log(odd) for odd in odds])
