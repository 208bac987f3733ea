from functools import partial
from typing import Any

import pytest
import rank_tasks
import timm
import torch
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, SplitBatchNorm2d
from torch import nn

from dr.accel.base import Accelerator
from dr.accel.sync_batchnorm import synchronise


class OwnBatchNorm(BatchNormAct2d):
    """A subclass that computes as its parent does."""


FLOAT32 = 1e-5
BFLOAT16 = 2**-7
"""A step of bfloat16 at the largest value: the two ways round at different places."""

CASES: list[tuple[str, dict[str, Any], float]] = [
    ("2d", {"make": nn.BatchNorm2d}, FLOAT32),
    ("1d", {"make": nn.BatchNorm1d, "size": ()}, FLOAT32),
    ("1d in time", {"make": nn.BatchNorm1d, "size": (9,)}, FLOAT32),
    ("timm", {"make": rank_tasks.act2d}, FLOAT32),
    ("no running statistics", {"make": rank_tasks.untracked}, FLOAT32),
    ("cumulative average", {"make": partial(nn.BatchNorm2d, momentum=None)}, FLOAT32),
    ("channels last", {"channels_last": True}, FLOAT32),
    ("a rank without pictures", {"edges": [0]}, FLOAT32),
    ("one picture on a rank", {"edges": [6]}, FLOAT32),
    ("float64", {"dtype": "float64"}, 1e-12),
    ("a mean of 1000 standard deviations", {"dtype": "float64", "mean": 2000}, 1e-9),
    ("a large mean in float32", {"mean": 200}, 1e-3),
    ("bfloat16", {"dtype": "bfloat16"}, BFLOAT16),
    ("bfloat16 channels last", {"dtype": "bfloat16", "channels_last": True}, BFLOAT16),
]
USUAL = {
    "make": rank_tasks.act2d,
    "dtype": "float32",
    "size": (6, 5),
    "mean": 3.0,
    "edges": [3],
    "channels_last": False,
}


@pytest.mark.parametrize(
    ("case", "tolerance"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_parts_of_a_batch_are_normalised_as_the_whole(
    two_ranks: Accelerator, case: dict[str, Any], tolerance: float
) -> None:
    far = two_ranks.launch(rank_tasks.normalise, {**USUAL, **case})
    assert len(far) >= 3
    assert max(far) < tolerance, far


def test_a_large_mean_costs_no_more_than_in_one_process(two_ranks: Accelerator) -> None:
    # The plain sum of squares in float32 would lose all digits of the variance here.
    far = two_ranks.launch(rank_tasks.normalise, {**USUAL, "mean": 20_000})
    assert far[4] < 1e-2


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
def test_weights_go_from_one_kind_of_model_to_the_other(name: str) -> None:
    plain, other = timm.create_model(name), synchronise(timm.create_model(name))
    assert isinstance(other.get_submodule("bn1"), nn.BatchNorm2d)
    assert list(plain.state_dict()) == list(other.state_dict())
    plain.load_state_dict(other.state_dict())
    other.load_state_dict(plain.state_dict())
    pictures = torch.randn(3, 3, 64, 64)
    for model in (plain, other):
        model.eval()
    assert torch.equal(plain(pictures), other(pictures))
    for model in (plain, other):
        model.train()
    assert torch.equal(plain(pictures), other(pictures))


def test_it_is_done_once_and_leaves_frozen_layers_alone() -> None:
    frozen = FrozenBatchNormAct2d(4)
    model = synchronise(synchronise(nn.Sequential(OwnBatchNorm(4), frozen)))
    assert type(model[0]).__name__ == "OwnBatchNormOverRanks"
    assert isinstance(model[0], OwnBatchNorm)
    assert type(model[1]) is FrozenBatchNormAct2d


def test_a_layer_with_statistics_of_its_own_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer 1 of the model is a SplitBatchNorm2d.*devices=1"):
        synchronise(nn.Sequential(nn.Identity(), SplitBatchNorm2d(4)))


def test_frozen_or_evaluated_layers_do_not_talk(two_ranks: Accelerator) -> None:
    assert two_ranks.launch(rank_tasks.evaluate_on_the_first, None)


def test_a_single_value_a_channel_is_refused(two_ranks: Accelerator) -> None:
    assert "one value a channel" in two_ranks.launch(rank_tasks.normalise_one_value, None)
