import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import log_softmax
from torch import Tensor, nn

from dr.compose import build, compose, conf_folder
from dr.config import OBJECTIVES as CONFIGS
from dr.config import (
    ConfigError,
    CrossEntropyConfig,
    FocalConfig,
    HuberConfig,
    ObjectiveConfig,
    SoftOrdinalConfig,
    TrainConfig,
)
from dr.modeling.heads import install_head
from dr.modeling.objectives import OBJECTIVES, Objective, build_objective
from dr.modeling.objectives.base import class_weights
from dr.modeling.objectives.classification import soft_labels

ALL = [
    *(kind() for kind in CONFIGS.values()),
    CrossEntropyConfig(label_smoothing=0.2),
    FocalConfig(gamma=0.5),
    SoftOrdinalConfig(distance="absolute", scale=2.0),
    HuberConfig(delta=0.3),
]
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
objectives = st.sampled_from(ALL).map(build_objective)
all_configs = pytest.mark.parametrize("config", ALL, ids=str)
all_objectives = pytest.mark.parametrize(
    "objective", [build_objective(config) for config in ALL], ids=list(map(str, ALL))
)


def as_the_head_gives(objective: Objective, logits: Tensor) -> Tensor:
    """The outputs of an ordered head descend; those of others may be any."""
    if objective.head != "ordered":
        return logits
    return logits.sort(dim=1, descending=True).values


def drawn_logits(data: st.DataObject, objective: Objective, count: int) -> Tensor:
    values = st.floats(-60, 60, width=32)
    drawn = data.draw(arrays.arrays(np.float32, (count, objective.outputs), elements=values))
    return as_the_head_gives(objective, torch.from_numpy(drawn))


def random_logits(objective: Objective, count: int, *, scale: float = 1.0) -> Tensor:
    torch.manual_seed(0)
    logits = scale * torch.randn(count, objective.outputs, dtype=torch.float64)
    return as_the_head_gives(objective, logits)


class Linear(nn.Module):
    """A network that is nothing but its head."""

    def __init__(self, objective: Objective, features: int) -> None:
        super().__init__()
        linear = objective.head == "linear"
        self.fc = nn.Linear(features, objective.outputs if linear else 1)
        install_head(self, kind=objective.head, outputs=objective.outputs)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(features)
        return logits


def test_every_objective_has_a_choice_a_config_and_a_class() -> None:
    choices = {path.stem for path in (conf_folder() / "objective").glob("*.yaml")}
    assert choices == set(CONFIGS) == set(OBJECTIVES)
    for name in choices:
        config = compose("train", TrainConfig, [f"objective={name}"]).objective
        assert build_objective(config).name == name == CONFIGS[name]().name


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"objective.name='mae'.*cross_entropy, focal"):
        compose("train", TrainConfig, ["objective.name=mae"])
    with pytest.raises(ValueError, match=r"objective.name='mae'.*cross_entropy, focal"):
        build_objective(ObjectiveConfig(name="mae"))


@pytest.mark.parametrize("name", ["cross_entropy", "regression"])
def test_a_stored_config_that_has_the_name_alone_is_read(name: str) -> None:
    stored = dataclasses.asdict(compose("train", TrainConfig)) | {"objective": {"name": name}}
    assert build(TrainConfig, stored).objective == CONFIGS[name]()


@pytest.mark.parametrize("name", ["regression", "focal", "coral"])
def test_label_smoothing_belongs_to_cross_entropy(name: str) -> None:
    with pytest.raises(ConfigError, match=r"objective.label_smoothing=0.1: is no key of objective"):
        compose("train", TrainConfig, [f"objective={name}", "objective.label_smoothing=0.1"])


def test_a_bare_config_stands_for_the_defaults_of_its_name() -> None:
    bare = build_objective(ObjectiveConfig(name="focal"))
    logits = random_logits(bare, 6)
    own = build_objective(FocalConfig())
    assert torch.equal(bare.loss(logits, LABELS), own.loss(logits, LABELS))


@all_objectives
@pytest.mark.parametrize("method", ["loss", "training_losses"])
def test_the_gradient_is_the_losses(objective: Objective, method: str) -> None:
    losses: Callable[[Tensor, Tensor], Tensor] = getattr(objective, method)
    logits = random_logits(objective, 6, scale=2.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: losses(x, LABELS), [logits])


@all_objectives
def test_losses_and_gradients_of_extreme_logits_are_finite(objective: Objective) -> None:
    levels = [-30000.0, -80.0, -1e-3, 0.0, 1e-3, 80.0, 30000.0]
    grid = torch.cartesian_prod(*[torch.tensor(levels)] * objective.outputs)
    grid = as_the_head_gives(objective, grid.reshape(-1, objective.outputs))
    logits = grid.half().repeat_interleave(5, dim=0).requires_grad_()
    labels = torch.arange(5).repeat(len(grid))
    losses = objective.loss(logits, labels)
    assert losses.dtype == torch.float32
    assert bool(losses.isfinite().all()) and bool((losses >= 0).all())
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert bool(gradient.isfinite().all())


@all_objectives
def test_narrow_logits_are_computed_in_float32(objective: Objective) -> None:
    for kind in (torch.bfloat16, torch.float16):
        coarse = random_logits(objective, 50, scale=3.0).to(kind)
        labels = torch.arange(50) % 5
        for narrow, wide in [
            (objective.loss(coarse, labels), objective.loss(coarse.float(), labels)),
            *zip(objective.decode(coarse), objective.decode(coarse.float()), strict=True),
        ]:
            assert narrow.dtype == torch.float32
            assert torch.equal(narrow, wide)


@given(objective=objectives, count=st.integers(0, 20), data=st.data())
def test_decoding_stays_in_range(objective: Objective, count: int, data: st.DataObject) -> None:
    score, probabilities = objective.decode(drawn_logits(data, objective, count))
    assert score.shape == (count,) and probabilities.shape == (count, 5)
    assert score.dtype == probabilities.dtype == torch.float32
    assert bool(((score >= 0) & (score <= 4)).all())
    assert bool(((probabilities >= 0) & (probabilities <= 1)).all())
    torch.testing.assert_close(probabilities.sum(1), torch.ones(count), atol=1e-6, rtol=0)
    expected = probabilities.double().numpy() @ np.arange(5)
    np.testing.assert_allclose(score.numpy(), expected, atol=2e-6)


@given(objective=objectives, models=st.integers(1, 7), data=st.data())
def test_an_ensemble_of_one_model_is_that_model(
    objective: Objective, models: int, data: st.DataObject
) -> None:
    score, probabilities = objective.decode(drawn_logits(data, objective, 5))
    combined = objective.combine(score.repeat(models, 1), probabilities.repeat(models, 1, 1))
    torch.testing.assert_close(combined[0], score, rtol=0, atol=2e-6)
    torch.testing.assert_close(combined[1], probabilities, rtol=0, atol=1e-7)


@all_objectives
def test_ensembles_average_scores_of_regressions_and_probabilities_of_others(
    objective: Objective,
) -> None:
    score, mean = objective.combine(torch.tensor([[0.0], [3.0]]), torch.eye(5)[[0, 3]][:, None])
    assert score.tolist() == [1.5]
    in_scores = objective.outputs == 1
    assert mean.tolist() == [[0, 0.5, 0.5, 0, 0] if in_scores else [0.5, 0, 0, 0.5, 0]]


def ideal_labels(config: ObjectiveConfig) -> np.ndarray:
    """The distribution of grades that each label teaches, [5, 5]."""
    if isinstance(config, SoftOrdinalConfig):
        return soft_labels(config).numpy()
    smoothing = config.label_smoothing if isinstance(config, CrossEntropyConfig) else 0.0
    taught: np.ndarray = (1 - smoothing) * np.eye(5) + smoothing / 5
    return taught


def fit(objective: Objective, features: Tensor, labels: Tensor, *, iterations: int) -> Linear:
    torch.manual_seed(0)
    head = Linear(objective, features.shape[1])
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=iterations, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        total, weight = objective.training_sums(head(features), labels)
        (total / weight).backward()
        return float(total.detach() / weight)

    optimizer.step(closure)
    return head


@all_configs
def test_a_problem_that_a_linear_head_can_solve_is_solved(config: ObjectiveConfig) -> None:
    objective = build_objective(config)
    torch.manual_seed(0)
    labels = torch.arange(100) % 5
    one_hot = torch.nn.functional.one_hot(labels, 5).float()
    features = one_hot + 0.01 * torch.randn(100, 5)
    head = fit(objective, features, labels, iterations=30)
    score, probabilities = objective.decode(head(features).detach())
    assert torch.equal(probabilities.argmax(1), labels)
    ideal = ideal_labels(config) @ np.arange(5)
    assert np.abs(score.numpy() - ideal[labels]).max() < 0.3


COUNTS = [40, 25, 20, 10, 5]


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("config", [each for each in ALL if each.name != "focal"], ids=str)
def test_what_cannot_be_told_apart_is_given_its_weighted_frequencies(
    config: ObjectiveConfig, strength: float
) -> None:
    objective = build_objective(
        dataclasses.replace(config, class_weights=strength), label_counts=COUNTS
    )
    labels = torch.arange(5).repeat_interleave(torch.tensor(COUNTS))
    head = fit(objective, torch.zeros(100, 1), labels, iterations=60)
    score, probabilities = objective.decode(head(torch.zeros(1, 1)).detach())
    shares = np.array(COUNTS) ** (1 - strength) / np.sum(np.array(COUNTS) ** (1 - strength))
    expected = shares @ ideal_labels(config)
    if config.name == "huber":
        assert isinstance(config, HuberConfig)
        pulls = np.clip(np.arange(5) - float(score), -config.delta, config.delta)
        assert shares @ pulls == pytest.approx(0, abs=0.005)
        return
    assert float(score) == pytest.approx(expected @ np.arange(5), abs=0.01)
    if config.name != "regression":
        np.testing.assert_allclose(probabilities[0].numpy(), expected, atol=0.005)


def test_cross_entropy_is_the_negative_log_likelihood() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, 5)), rng.integers(0, 5, 7)
    objective = build_objective(CrossEntropyConfig(label_smoothing=0.3))
    losses = objective.loss(torch.tensor(logits), torch.tensor(labels))
    logs = log_softmax(logits, axis=1)
    own = -logs[np.arange(7), labels]
    np.testing.assert_allclose(losses.numpy(), own, rtol=1e-12)
    smoothed = objective.training_losses(torch.tensor(logits), torch.tensor(labels))
    expected = 0.7 * own - 0.3 * logs.mean(axis=1)
    np.testing.assert_allclose(smoothed.numpy(), expected, rtol=1e-12)


def test_focal_loss_is_that_of_a_table_by_hand() -> None:
    chances = torch.tensor([[0.5, 0.5, 1e-12, 1e-12, 1e-12], [0.1, 0.9, 1e-12, 1e-12, 1e-12]])
    logits = chances.double().log()
    labels = torch.tensor([0, 1])
    # (1 - p) ** 2 * -log p: 0.25 * 0.693147, 0.01 * 0.105361
    losses = build_objective(FocalConfig(gamma=2.0)).loss(logits, labels)
    np.testing.assert_allclose(losses.numpy(), [0.173286795, 0.00105360516], rtol=1e-6)
    plain = build_objective(FocalConfig(gamma=0.0)).loss(logits, labels)
    entropy = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert torch.equal(plain, entropy)


def test_soft_labels_fall_off_with_the_distance_of_grades() -> None:
    # exp(-d^2) for d = 2, 1, 0, 1, 2 over their sum 1 + 2 * 0.367879 + 2 * 0.0183156
    target = [0.0103322, 0.2075316, 0.5641319, 0.2075316, 0.0103322]
    target = [t / sum(target) for t in target]
    logits = random_logits(build_objective(SoftOrdinalConfig()), 1)
    loss = build_objective(SoftOrdinalConfig()).loss(logits, torch.tensor([2]))
    expected = -(np.array(target) @ log_softmax(logits[0].numpy()))
    np.testing.assert_allclose(loss.numpy(), [expected], rtol=1e-5)
    # exp(-2 * d): 1, e^-2, e^-4, e^-6, e^-8
    halves = np.exp([0.0, -2.0, -4.0, -6.0, -8.0])
    config = SoftOrdinalConfig(distance="absolute", scale=2.0)
    loss = build_objective(config).loss(logits, torch.tensor([0]))
    expected = -(halves / halves.sum() @ log_softmax(logits[0].numpy()))
    np.testing.assert_allclose(loss.numpy(), [expected], rtol=1e-6)


def test_regression_is_the_squared_error_even_outside_the_grades() -> None:
    logits = torch.tensor([[-1.0], [2.5], [6.0]])
    labels = torch.tensor([0, 2, 4])
    losses = build_objective(CONFIGS["regression"]()).loss(logits, labels)
    assert losses.tolist() == [1.0, 0.25, 4.0]
    # 0.5 * e^2 up to 0.5, 0.5 * (e - 0.25) beyond
    losses = build_objective(HuberConfig(delta=0.5)).loss(logits, labels)
    assert losses.tolist() == [0.375, 0.125, 0.875]


@given(raw=st.floats(-3, 7, width=32), name=st.sampled_from(["regression", "huber"]))
def test_the_grade_of_a_regression_is_the_nearest_one(raw: float, name: str) -> None:
    score, probabilities = build_objective(CONFIGS[name]()).decode(torch.tensor([[raw]]))
    grade = int(probabilities.argmax(1))
    clamped = min(4.0, max(0.0, raw))
    assert float(score) == pytest.approx(clamped)
    assert abs(grade - clamped) <= 0.5 + 1e-6
    assert int((probabilities > 0).sum()) <= 2


def test_class_weights_are_those_of_a_table_by_hand() -> None:
    counts = [50, 25, 20, 5, 0]
    # 1 / frequency: 2, 4, 5, 20; their mean over the 100 records is 4
    assert class_weights(counts, strength=1.0).tolist() == pytest.approx([0.5, 1, 1.25, 5, 0])
    assert class_weights(counts, strength=0.0).tolist() == [1, 1, 1, 1, 0]


@given(
    counts=st.lists(st.integers(0, 30000), min_size=5, max_size=5).filter(any),
    strength=st.floats(0, 1),
)
def test_class_weights_have_mean_one_and_go_by_a_power(counts: list[int], strength: float) -> None:
    weights = class_weights(counts, strength=strength)
    assert weights @ counts == pytest.approx(sum(counts))
    present = [grade for grade in range(5) if counts[grade]]
    for one in present:
        for other in present:
            ratio = (counts[other] / counts[one]) ** strength
            assert weights[one] / weights[other] == pytest.approx(ratio)


@all_objectives
def test_sums_of_parts_give_the_weighted_mean_of_the_whole(objective: Objective) -> None:
    config = CONFIGS[objective.name](class_weights=0.7)
    weighted = build_objective(config, label_counts=[40, 5, 10, 2, 3])
    logits, labels = random_logits(objective, 60), torch.arange(60) % 5
    parts = [weighted.training_sums(logits[a:b], labels[a:b]) for a, b in [(0, 7), (7, 60)]]
    weights = class_weights([40, 5, 10, 2, 3], strength=0.7)[labels]
    losses = weighted.training_losses(logits, labels).numpy()
    total, weight = (sum(float(part[which]) for part in parts) for which in (0, 1))
    assert total / weight == pytest.approx(np.average(losses, weights=weights), rel=1e-6)


@all_objectives
def test_evaluation_losses_are_not_weighted(objective: Objective) -> None:
    logits = random_logits(objective, 6)
    config = CONFIGS[objective.name]()
    plain = build_objective(config)
    config.class_weights = 1.0
    for counts in (None, [40, 5, 10, 2, 3]):
        weighted = build_objective(config, label_counts=counts)
        assert torch.equal(weighted.loss(logits, LABELS), plain.loss(logits, LABELS))


@all_objectives
def test_without_class_weights_the_training_loss_is_the_mean(objective: Objective) -> None:
    logits = random_logits(objective, 6)
    total, weight = objective.training_sums(logits, LABELS)
    assert torch.equal(total / weight, objective.training_losses(logits, LABELS).mean())
