import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from dr.config import OBJECTIVES as CONFIGS
from dr.modeling.objectives import Objective, build_objective
from dr.modeling.objectives.ordinal import Corn, Cumulative

CORAL, CORN, CUMULATIVE = (build_objective(CONFIGS[n]()) for n in ("coral", "corn", "cumulative"))
EVERY_GRADE = torch.arange(5)


def repeated(logits: list[float]) -> torch.Tensor:
    return torch.tensor([logits] * 5, dtype=torch.float64)


def test_coral_loss_is_the_papers_sum_over_levels() -> None:
    logits = [1.2, 0.4, -0.3, -2.0]
    # levels of grade k: k ones, then zeros; -sum(log s(z) * level + (log s(z) - z) * (1 - level))
    levels = np.tril(np.ones((5, 4)), -1)
    log_s = np.log(expit(logits))
    expected = -(log_s * levels + (log_s - np.array(logits)) * (1 - levels)).sum(axis=1)
    losses = CORAL.loss(repeated(logits), EVERY_GRADE)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-12)
    assert losses[0] == pytest.approx(1.46328 + 0.91302 + 0.55436 + 0.12693, abs=1e-4)


def test_corn_loss_is_the_papers_over_the_conditional_sets() -> None:
    logits = np.random.default_rng(0).normal(size=(40, 4))
    labels = np.arange(40) % 5
    total = 0.0
    for step in range(4):
        chosen = labels > step - 1
        above, z = labels[chosen] > step, logits[chosen, step]
        total -= (np.log(expit(z)) * above + (np.log(expit(z)) - z) * ~above).sum()
    losses = CORN.loss(torch.tensor(logits), torch.tensor(labels))
    assert float(losses.sum()) == pytest.approx(total, rel=1e-12)


def test_corn_decodes_the_chain_of_conditional_probabilities() -> None:
    logits = torch.tensor(logit([[0.9, 0.5, 0.4, 0.1]]))
    score, chances = CORN.decode(logits)
    # P(> k): 0.9, 0.45, 0.18, 0.018
    np.testing.assert_allclose(chances.numpy(), [[0.1, 0.45, 0.27, 0.162, 0.018]], rtol=1e-5)
    assert float(score) == pytest.approx(0.9 + 0.45 + 0.18 + 0.018, rel=1e-6)


@pytest.mark.parametrize("objective", [CORAL, CUMULATIVE], ids=["coral", "cumulative"])
def test_probabilities_are_differences_of_those_of_being_above(objective: Objective) -> None:
    logits = torch.tensor(logit([[0.9, 0.6, 0.3, 0.05]]))
    score, chances = objective.decode(logits)
    np.testing.assert_allclose(chances.numpy(), [[0.1, 0.3, 0.3, 0.25, 0.05]], rtol=1e-5)
    assert float(score) == pytest.approx(0.9 + 0.6 + 0.3 + 0.05, rel=1e-6)


@given(st.lists(st.floats(-20, 20), min_size=4, max_size=4))
def test_coral_out_of_order_is_rearranged_and_keeps_its_score(logits: list[float]) -> None:
    score, chances = CORAL.decode(torch.tensor([logits]))
    above = 1 - chances.cumsum(1)[0, :4]
    np.testing.assert_allclose(above.numpy(), sorted(expit(logits), reverse=True), atol=1e-5)
    assert float(score) == pytest.approx(expit(logits).sum(), abs=1e-5)


@pytest.mark.parametrize("objective", [CORN, CUMULATIVE], ids=["corn", "cumulative"])
def test_the_loss_is_the_negative_log_likelihood_of_what_is_decoded(objective: Objective) -> None:
    assert isinstance(objective, Corn | Cumulative)
    for logits in ([2.0, 0.3, 0.2, -1.0], [5.0, 4.0, 3.5, 3.0], [0.0, -3.0, -3.5, -9.0]):
        chances = objective.decode(repeated(logits))[1]
        losses = objective.loss(repeated(logits), EVERY_GRADE)
        np.testing.assert_allclose((-losses).exp().numpy(), chances[0].numpy(), atol=1e-6)


def test_the_cumulative_loss_keeps_what_differences_of_sigmoids_lose() -> None:
    logits = torch.tensor([[90.0, 80.0, 70.0, 60.0]])
    # P(1) = s(90) - s(80) = exp(-80) - exp(-90), to 26 digits: both sigmoids round to 1
    loss = CUMULATIVE.loss(logits, torch.tensor([1]))
    assert float(loss) == pytest.approx(80 - np.log1p(-np.exp(-10.0)), rel=1e-6)
    assert float(CUMULATIVE.decode(logits)[1][0, 1]) == 0


def test_gradients_of_the_cumulative_loss_pull_towards_the_grade() -> None:
    logits = repeated([2.0, 0.5, -0.5, -2.0]).requires_grad_()
    CUMULATIVE.loss(logits, EVERY_GRADE).sum().backward()
    assert logits.grad is not None
    pull = logits.grad.sum(dim=1)
    assert bool((pull.diff() < 0).all()) and pull[0] > 0 > pull[4]
    assert float(pull[2]) == pytest.approx(0, abs=1e-12)
