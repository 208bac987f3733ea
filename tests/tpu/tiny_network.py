"""`tiny_network` for timm: as small as a network with BatchNorm and dropping can be."""

from typing import Any

import torch
from timm.layers import BatchNormAct2d, DropPath
from timm.models import generate_default_cfgs, register_model
from torch import nn

SIZE = 16
HALF = (0.5, 0.5, 0.5)
default_cfgs = generate_default_cfgs(
    {"tiny_network.none": {"input_size": (3, SIZE, SIZE), "mean": HALF, "std": HALF}}
)


class TinyNetwork(nn.Module):
    """Compiled within a second or two."""

    def __init__(self, num_classes: int, drop_rate: float, drop_path_rate: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=4, bias=False)
        self.norm = BatchNormAct2d(4)
        self.block = nn.Conv2d(4, 4, 1)
        self.drop_path = DropPath(drop_path_rate)
        self.drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(4, num_classes)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.conv(pictures))
        features = features + self.drop_path(self.block(features))
        logits: torch.Tensor = self.head(self.drop(features.mean((2, 3))))
        return logits


@register_model
def tiny_network(pretrained: bool = False, **given: Any) -> TinyNetwork:
    rates = {name: given.get(name, 0.0) for name in ("drop_rate", "drop_path_rate")}
    return TinyNetwork(given["num_classes"], **rates)
