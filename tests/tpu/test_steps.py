import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dr.accel.base import Accelerator
from dr.checks.training import HOST_OPTIMIZERS
from dr.config import OBJECTIVES
from dr.training.learner import Learner
from dr.training.loop import StepFigures
from dr.training.optimizers import optimizer_names

Make = Callable[..., Learner]
Step = Callable[..., StepFigures]
RATES = [1.1e-3, 1.3e-3, 1.7e-3, 1.9e-3, 2.3e-3, 2.9e-3, 3.1e-3]
CLOSE = 2e-5
"""Sums of float32 in another order differ by a few 1e-7 of a value; Adam's first steps, which
divide a gradient by its own size, carry that into the weights, and some steps add it up."""
BIASED = 1 / (8 * 4 * 4 - 1)
"""XLA's BatchNorm keeps the mean squared deviation of n values, torch's that over n - 1."""

TRAININGS = [
    *[(f"objective={name}",) for name in OBJECTIVES],
    ("objective=cross_entropy", "objective.label_smoothing=0.1"),
    ("objective.class_weights=0.5", "optimizer=sgd", "optimizer.clip_norm=0.5"),
    ("ema_decay=0.9", "optimizer.clip_norm=1", "optimizer.weight_decay=0.05"),
    ("augment.mixup=0.4", "augment.cutmix=1"),
    ("accel.accumulate=2",),
    ("optimizer.backbone_lr_scale=0.1", "optimizer=adamw"),
    ("skip_nonfinite=1", "ema_decay=0.9"),
]


def scored(learner: Learner) -> dict[str, np.ndarray]:
    state = learner.scored.state_dict()
    return {name: value.detach().cpu().numpy() for name, value in state.items()}


@pytest.mark.parametrize("changes", TRAININGS, ids=" ".join)
def test_steps_are_those_of_the_cpu(
    changes: tuple[str, ...],
    tpu: Accelerator,
    cpu: Accelerator,
    counters: Any,
    make_learner: Make,
    step: Step,
) -> None:
    found, plain = make_learner(tpu, *changes), make_learner(cpu, *changes)
    counters.reset()
    compiled = []
    for number, rate in enumerate(RATES):
        here, there = (step(one, number, rate=rate) for one in (found, plain))
        assert (here.loss, here.norm) == pytest.approx((there.loss, there.norm), rel=CLOSE)
        compiled.append(counters.compiled)
    assert compiled[1:] == compiled[1:2] * (len(RATES) - 1)
    assert (counters.fallbacks, counters.fetched) == (set(), len(RATES))
    weights = scored(plain)
    for name, value in scored(found).items():
        apart = BIASED if name.endswith("running_var") else 0
        np.testing.assert_allclose(value, weights[name], rtol=apart, atol=CLOSE, err_msg=name)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_decoding_stays_on_the_device(
    objective: str, tpu: Accelerator, counters: Any, make_learner: Make
) -> None:
    learner = make_learner(tpu, f"objective={objective}")
    random = torch.randn(8, learner.objective.outputs, generator=torch.Generator().manual_seed(0))
    logits = random.sort(dim=1, descending=True).values
    labels = torch.arange(8) % 5
    expected = (learner.objective.loss(logits, labels), *learner.objective.decode(logits))
    there = logits.to(tpu.device)
    found = (learner.objective.loss(there, labels.to(tpu.device)), *learner.objective.decode(there))
    for value, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(value.cpu(), plain, rtol=CLOSE, atol=CLOSE)
    assert counters.fallbacks == set()


def test_dropping_is_drawn_from_the_key_without_compiling(
    tpu: Accelerator, counters: Any, make_learner: Make, step: Step
) -> None:
    changes = ("model.drop_rate=0.5", "model.drop_path_rate=0.5", "optimizer=sgd")
    first = make_learner(tpu, *changes)
    losses = [step(first, 5 * number, rate=1e-9).loss for number in range(6)]
    counters.reset()
    again = make_learner(tpu, *changes)
    assert [step(again, 5 * number, rate=1e-9).loss for number in range(6)] == losses
    assert counters.compiled == 0
    assert len(set(losses)) == len(losses)
    assert counters.fallbacks == set()


def test_freezing_compiles_only_where_it_ends(
    tpu: Accelerator, counters: Any, make_learner: Make, step: Step
) -> None:
    learner = make_learner(tpu, "optimizer.freeze_epochs=1")
    learner.freeze(True)
    kept = scored(learner)
    for number in range(3):
        step(learner, number)
    assert np.array_equal(scored(learner)["conv.weight"], kept["conv.weight"])
    learner.freeze(False)
    step(learner, 3)
    step(learner, 4)
    counters.reset()
    step(learner, 5)
    assert (counters.compiled, counters.fallbacks) == (0, set())
    assert not np.array_equal(scored(learner)["conv.weight"], kept["conv.weight"])


def test_bfloat16_is_autocast(
    tpu: Accelerator, make_learner: Make, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_learner(tpu)
    exact = step(learner, 0).loss
    monkeypatch.setattr(tpu, "precision", "bfloat16")
    other = make_learner(tpu)
    kinds = []
    other.model.head.register_forward_hook(lambda *given: kinds.append(given[2].dtype))
    rounded = step(other, 0).loss
    assert kinds == [torch.bfloat16]
    assert rounded != exact
    assert rounded == pytest.approx(exact, abs=0.02)
    assert all(value.dtype != torch.bfloat16 for value in other.model.state_dict().values())


def test_a_step_that_is_not_finite_is_told(
    tpu: Accelerator, make_learner: Make, step: Step
) -> None:
    learner = make_learner(tpu)
    learner.mean = learner.mean * math.nan
    figures = step(learner, 0)
    assert not figures.taken
    assert math.isnan(figures.loss)


def test_a_batch_that_may_be_left_out_leaves_no_trace(
    tpu: Accelerator, counters: Any, make_learner: Make, step: Step
) -> None:
    changes = ("skip_nonfinite=1", "ema_decay=0.9", "optimizer=adamw")
    learner, clean = make_learner(tpu, *changes), make_learner(tpu, *changes)
    mean = learner.mean
    for number in range(4):
        learner.mean = mean * math.nan if number == 1 else mean
        assert step(learner, number).taken == (number != 1)
        if number != 1:
            step(clean, number)
    kept = scored(clean)
    for name, value in scored(learner).items():
        assert np.array_equal(value, kept[name]), name


def fetches(make_learner: Make, step: Step, tpu: Accelerator, counters: Any, name: str) -> bool:
    """Whether an optimizer's step waits for values of the device or computes on the host."""
    learner = make_learner(tpu, "optimizer=by_name", f"optimizer.algorithm={name}")
    counters.reset()
    for number, rate in enumerate(RATES[:3]):
        step(learner, number, rate=rate)
    return bool(counters.fallbacks) or counters.fetched > 3


def test_all_optimizers_that_compute_on_the_host_are_refused(
    tpu: Accelerator, counters: Any, make_learner: Make, step: Step
) -> None:
    found = {name for name in optimizer_names() if fetches(make_learner, step, tpu, counters, name)}
    assert found == HOST_OPTIMIZERS
