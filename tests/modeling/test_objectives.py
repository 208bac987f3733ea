import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import log_softmax

from dr.config import ObjectiveConfig
from dr.modeling.objectives import OBJECTIVES, Objective, build_objective

kinds = st.sampled_from(sorted(OBJECTIVES)).map(lambda name: OBJECTIVES[name]())
all_objectives = pytest.mark.parametrize("objective", [kind() for kind in OBJECTIVES.values()])


def drawn_logits(data: st.DataObject, outputs: int, count: int) -> torch.Tensor:
    values = st.floats(-60, 60, width=32)
    drawn = data.draw(arrays.arrays(np.float32, (count, outputs), elements=values))
    return torch.from_numpy(drawn)


@all_objectives
def test_the_gradient_is_the_losses(objective: Objective) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, objective.outputs, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    assert torch.autograd.gradcheck(lambda x: objective.loss(x, labels), [logits])


def test_cross_entropy_is_the_negative_log_likelihood() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, 5)), rng.integers(0, 5, 7)
    losses = OBJECTIVES["cross_entropy"]().loss(torch.tensor(logits), torch.tensor(labels))
    expected = -log_softmax(logits, axis=1)[np.arange(7), labels]
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-12)


def test_regression_is_the_squared_error_even_outside_the_grades() -> None:
    logits = torch.tensor([[-1.0], [2.5], [6.0]])
    losses = OBJECTIVES["regression"]().loss(logits, torch.tensor([0, 2, 4]))
    assert losses.tolist() == [1.0, 0.25, 4.0]


@all_objectives
def test_bfloat16_logits_are_computed_in_float32(objective: Objective) -> None:
    torch.manual_seed(0)
    coarse = (3 * torch.randn(50, objective.outputs)).bfloat16()
    labels = torch.arange(50) % 5
    for narrow, wide in [
        (objective.loss(coarse, labels), objective.loss(coarse.float(), labels)),
        *zip(objective.decode(coarse), objective.decode(coarse.float()), strict=True),
    ]:
        assert narrow.dtype == torch.float32
        assert torch.equal(narrow, wide)


@given(objective=kinds, count=st.integers(0, 20), data=st.data())
def test_decoding_stays_in_range(objective: Objective, count: int, data: st.DataObject) -> None:
    score, probabilities = objective.decode(drawn_logits(data, objective.outputs, count))
    assert score.shape == (count,) and probabilities.shape == (count, 5)
    assert score.dtype == probabilities.dtype == torch.float32
    assert bool(((score >= 0) & (score <= 4)).all())
    assert bool(((probabilities >= 0) & (probabilities <= 1)).all())
    torch.testing.assert_close(probabilities.sum(1), torch.ones(count), atol=1e-6, rtol=0)
    expected = probabilities.double().numpy() @ np.arange(5)
    np.testing.assert_allclose(score.numpy(), expected, atol=2e-6)


@given(raw=st.floats(-3, 7, width=32))
def test_the_grade_of_a_regression_is_the_nearest_one(raw: float) -> None:
    score, probabilities = OBJECTIVES["regression"]().decode(torch.tensor([[raw]]))
    grade = int(probabilities.argmax(1))
    clamped = min(4.0, max(0.0, raw))
    assert float(score) == pytest.approx(clamped)
    assert abs(grade - clamped) <= 0.5 + 1e-6
    assert int((probabilities > 0).sum()) <= 2


@given(objective=kinds, models=st.integers(1, 7), data=st.data())
def test_an_ensemble_of_one_model_is_that_model(
    objective: Objective, models: int, data: st.DataObject
) -> None:
    score, probabilities = objective.decode(drawn_logits(data, objective.outputs, 5))
    combined = objective.combine(score.repeat(models, 1), probabilities.repeat(models, 1, 1))
    torch.testing.assert_close(combined[0], score, rtol=0, atol=1e-6)
    torch.testing.assert_close(combined[1], probabilities, rtol=0, atol=1e-7)
    assert torch.equal(combined[1].argmax(1), probabilities.argmax(1))


def test_cross_entropy_combines_probabilities_and_regression_scores() -> None:
    scores = torch.tensor([[0.0], [3.0]])
    probabilities = torch.eye(5)[[0, 3]][:, None]
    score, mean = OBJECTIVES["cross_entropy"]().combine(scores, probabilities)
    assert (score.tolist(), mean.tolist()) == ([1.5], [[0.5, 0, 0, 0.5, 0]])
    score, mean = OBJECTIVES["regression"]().combine(scores, probabilities)
    assert (score.tolist(), mean.tolist()) == ([1.5], [[0, 0.5, 0.5, 0, 0]])


@all_objectives
def test_a_problem_that_a_linear_head_can_solve_is_solved(objective: Objective) -> None:
    torch.manual_seed(0)
    labels = torch.arange(100) % 5
    one_hot = torch.nn.functional.one_hot(labels, 5).float()
    features = one_hot + 0.01 * torch.randn(100, 5)
    head = torch.nn.Linear(5, objective.outputs)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = objective.loss(head(features), labels)
        assert loss.shape == (100,)
        loss.mean().backward()
        optimizer.step()
    score, probabilities = objective.decode(head(features).detach())
    assert torch.equal(probabilities.argmax(1), labels)
    assert float((score - labels).abs().max()) < 0.3


def test_objectives_are_built_by_name() -> None:
    names = ["cross_entropy", "regression"]
    built = [build_objective(ObjectiveConfig(name=name)) for name in names]
    assert [(one.name, one.outputs) for one in built] == [("cross_entropy", 5), ("regression", 1)]
    with pytest.raises(ValueError, match=r"objective.name='focal'.*cross_entropy, regression"):
        build_objective(ObjectiveConfig(name="focal"))
