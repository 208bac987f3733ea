"""mixup and cutmix: against slices and loops by hand, and timm's box."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dr.config import GRADES, OBJECTIVES, AugmentConfig
from dr.modeling.objectives import build_objective
from dr.training.mixing import draw_mix, mixed_pictures, mixed_sum, swapped

KEYS = [(5, 0, epoch, step) for epoch in range(20) for step in range(50)]


def pictures(count: int = 5, size: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, size, size + 2, generator=torch.Generator().manual_seed(seed))


def mix_of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_neighbours_change_places_and_an_odd_one_stays() -> None:
    assert swapped(torch.arange(6)).tolist() == [1, 0, 3, 2, 5, 4]
    assert swapped(torch.arange(5)).tolist() == [1, 0, 3, 2, 4]
    assert swapped(torch.arange(1)).tolist() == [0]
    assert swapped(torch.arange(0)).tolist() == []
    images = pictures(7)
    assert torch.equal(swapped(images), images[[1, 0, 3, 2, 5, 4, 6]])


def test_mixup_adds_the_two_of_a_pair() -> None:
    images = pictures()
    found = mixed_pictures(images, mix_of(0.3, 0.3, 0.3, 0, 0, 0, 0))
    for place, other in enumerate([1, 0, 3, 2, 4]):
        expected = 0.3 * images[place] + 0.7 * images[other]
        torch.testing.assert_close(found[place], expected)


def test_cutmix_pastes_the_box_of_the_other_and_nothing_else_changes() -> None:
    images = pictures()
    found = mixed_pictures(images, mix_of(0.8, 0, 1, 2, 9, 4, 7))
    expected = images.clone()
    for place, other in enumerate([1, 0, 3, 2, 4]):
        expected[place, :, 2:9, 4:7] = images[other, :, 2:9, 4:7]
    assert torch.equal(found, expected)


def test_the_layout_stays_and_a_gradient_flows() -> None:
    images = pictures(4).contiguous(memory_format=torch.channels_last).requires_grad_()
    found = mixed_pictures(images, mix_of(0.3, 0.3, 0.3, 0, 0, 0, 0))
    assert found.is_contiguous(memory_format=torch.channels_last)
    found.sum().backward()
    torch.testing.assert_close(images.grad, torch.ones_like(images))


def test_without_an_alpha_nothing_is_mixed() -> None:
    assert draw_mix(AugmentConfig(), size=32, key=(0,)) is None
    images, labels = pictures(), torch.tensor([0, 3, 1, 4, 2])
    objective = build_objective(OBJECTIVES["cross_entropy"]())
    assert mixed_pictures(images, None) is images
    logits = images[:, 0, 0, :5]
    assert mixed_sum(objective, logits, labels, None) == objective.loss(logits, labels).sum()


@pytest.mark.parametrize("settings", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 1, "cutmix": 1}])
def test_a_step_draws_the_same_again_and_another_one_something_else(
    settings: dict[str, float],
) -> None:
    config = AugmentConfig(**settings)
    drawn = [draw_mix(config, size=512, key=key) for key in KEYS[:200]]
    again = [draw_mix(config, size=512, key=key) for key in KEYS[:200]]
    assert np.array_equal(np.stack(drawn), np.stack(again))  # type: ignore[arg-type]
    assert len({tuple(values.tolist()) for values in drawn if values is not None}) > 190


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_of_mixup_follow_the_beta_distribution(alpha: float) -> None:
    from scipy import stats

    drawn = [draw_mix(AugmentConfig(mixup=alpha), size=64, key=key) for key in KEYS]
    values = np.stack(drawn)  # type: ignore[arg-type]
    assert stats.kstest(values[:, 0], stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert np.array_equal(values[:, 1:3], values[:, [0, 0]])


@given(st.integers(1, 64), st.integers(0, 10_000), st.floats(0.1, 4))
def test_the_share_of_cutmix_is_the_area_that_stays(size: int, step: int, alpha: float) -> None:
    drawn = draw_mix(AugmentConfig(cutmix=alpha), size=size, key=(1, 2, 3, step))
    assert drawn is not None
    share, inside, outside, top, bottom, left, right = drawn.tolist()
    assert (inside, outside) == (0, 1)
    assert 0 <= top <= bottom <= size
    assert 0 <= left <= right <= size
    zeros, ones = torch.zeros(1, 1, size, size), torch.ones(1, 1, size, size)
    found = mixed_pictures(torch.cat([ones, zeros]), torch.from_numpy(drawn))
    assert float(found[0].double().mean()) == pytest.approx(share, abs=1e-6)
    assert float(found.double().mean()) == pytest.approx(0.5, abs=1e-9)


def test_boxes_of_cutmix_are_distributed_as_those_of_timm() -> None:
    from scipy import stats
    from timm.data.mixup import cutmix_bbox_and_lam

    size, state = 64, np.random.get_state()
    np.random.seed(0)
    theirs = []
    for _ in KEYS:
        box, share = cutmix_bbox_and_lam((3, size, size), np.random.beta(1, 1))
        theirs.append([share, *box])
    np.random.set_state(state)
    drawn = [draw_mix(AugmentConfig(cutmix=1.0), size=size, key=key) for key in KEYS]
    ours = np.stack(drawn)[:, [0, 3, 4, 5, 6]]  # type: ignore[arg-type]
    for mine, other in zip(ours.T, np.array(theirs).T, strict=True):
        assert stats.ks_2samp(mine, other).pvalue > 1e-3


def test_with_both_each_step_takes_one_of_the_two() -> None:
    drawn = [draw_mix(AugmentConfig(mixup=0.5, cutmix=2), size=64, key=key) for key in KEYS]
    cuts = np.array([values is not None and values[2] == 1 for values in drawn])
    assert 0.45 < cuts.mean() < 0.55


@pytest.mark.parametrize("weights", [0.0, 1.0])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_are_mixed_for_every_objective(name: str, weights: float) -> None:
    objective = build_objective(
        OBJECTIVES[name](class_weights=weights), label_counts=[50, 7, 20, 5, 3]
    )
    logits = torch.randn(5, objective.outputs, generator=torch.Generator().manual_seed(1))
    logits = logits.sort(dim=1, descending=True).values.double()
    labels, others = torch.tensor([0, 3, 1, 4, 2]), torch.tensor([3, 0, 4, 1, 2])
    found = mixed_sum(objective, logits, labels, mix_of(0.3, 0.3, 0.3, 0, 0, 0, 0).double())
    each = [
        share * objective.record_weights(own) * objective.training_losses(logits, own)
        for share, own in ((0.3, labels), (0.7, others))
    ]
    torch.testing.assert_close(found, sum(each).sum(), rtol=1e-6, atol=0)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["cross_entropy", "regression"])
def test_mixed_losses_have_the_gradient_of_mixed_labels(name: str) -> None:
    """As the papers mix: one-hot labels of cross-entropy, grades of the squared error."""
    objective = build_objective(OBJECTIVES[name]())
    start = torch.randn(4, objective.outputs, generator=torch.Generator().manual_seed(2))
    labels, others = torch.tensor([0, 3, 1, 4]), torch.tensor([3, 0, 4, 1])
    found, expected = start.clone().requires_grad_(), start.clone().requires_grad_()
    mixed_sum(objective, found, labels, mix_of(0.3, 0.3, 0.3, 0, 0, 0, 0)).backward()
    _by_labels(name, expected, labels, others).backward()
    torch.testing.assert_close(found.grad, expected.grad)


def _by_labels(name: str, logits: torch.Tensor, labels: Any, others: Any) -> torch.Tensor:
    if name == "regression":
        return (logits.squeeze(1) - (0.3 * labels + 0.7 * others)).square().sum()
    hot = torch.nn.functional.one_hot
    target = 0.3 * hot(labels, GRADES) + 0.7 * hot(others, GRADES)
    return torch.nn.functional.cross_entropy(logits, target, reduction="sum")
