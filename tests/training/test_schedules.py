import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dr.config import Constant, Cosine, OneCycle, RampDecay, ScheduleConfig, Step
from dr.training.schedules import learning_rate, schedule_warnings

KERAS_LOG = {
    1: "5e-06",
    2: "1e-05",
    3: "1.5e-05",
    4: "2e-05",
    5: "2.5e-05",
    6: "3e-05",
    7: "3e-05",
    8: "3e-05",
    9: "2.42e-05",
    10: "1.956e-05",
    11: "1.5848e-05",
    13: "1.050272e-05",
    18: "4.113851e-06",
    25: "1.653022e-06",
}
"""Rates that the 2020 TensorFlow training printed, by epoch from 1."""
STEPS_PER_EPOCH = 7


def rates(schedule: ScheduleConfig, *, epochs: int, steps_per_epoch: int = 1) -> np.ndarray:
    steps = range(epochs * steps_per_epoch)
    return np.array(
        [
            learning_rate(schedule, step=step, steps_per_epoch=steps_per_epoch, epochs=epochs)
            for step in steps
        ]
    )


@pytest.mark.parametrize(
    "durations",
    [
        {},
        {"ramp_epochs": 5, "sustain_epochs": 2, "decay_epochs": 1},
        {"ramp_steps": 35, "sustain_steps": 14, "decay_steps": 7},
        {"ramp_percent": 20, "sustain_percent": 8, "decay_percent": 4},
        {"ramp_epochs": 5, "sustain_steps": 14, "decay_percent": 4},
    ],
)
@pytest.mark.parametrize("within", [0, STEPS_PER_EPOCH - 1])
def test_ramp_decay_prints_the_rates_of_2020(durations: dict[str, Any], within: int) -> None:
    schedule = RampDecay(start_lr=5e-6, max_lr=3e-5, min_lr=1e-6, by="epoch", **durations)
    printed = {
        epoch: f"{learning_rate(schedule, step=step, steps_per_epoch=7, epochs=25):.7g}"
        for epoch in KERAS_LOG
        for step in [(epoch - 1) * STEPS_PER_EPOCH + within]
    }
    assert printed == KERAS_LOG


def test_ramp_decay_by_step_meets_by_epoch_at_each_epoch_start() -> None:
    moving = rates(RampDecay(by="step"), epochs=25, steps_per_epoch=4)
    held = rates(RampDecay(by="epoch"), epochs=25, steps_per_epoch=4)
    np.testing.assert_array_equal(moving[::4], held[::4])
    np.testing.assert_array_equal(held, np.repeat(held[::4], 4))
    assert len(set(moving)) > len(set(held))


@pytest.mark.parametrize("warmup", [0, 5])
def test_cosine_equals_torch(warmup: int) -> None:
    schedule = Cosine(start_lr=1e-5, max_lr=1e-3, min_lr=1e-6, warmup_steps=warmup)
    ours = rates(schedule, epochs=20)
    theirs = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=20 - warmup, eta_min=1e-6
        ),
        count=20 - warmup,
    )
    np.testing.assert_allclose(ours[warmup:], theirs, rtol=1e-9)
    np.testing.assert_allclose(ours[:warmup], np.linspace(1e-5, 1e-3, warmup + 1)[:warmup])


def test_onecycle_equals_torch() -> None:
    schedule = OneCycle(start_lr=4e-5, max_lr=1e-3, min_lr=1e-8, ramp_steps=6)
    theirs = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=1e-3,
            total_steps=21,
            pct_start=7 / 21,
            div_factor=25,
            final_div_factor=4e-5 / 1e-8,
        ),
        count=20,
    )
    np.testing.assert_allclose(rates(schedule, epochs=20), theirs, rtol=1e-9)


def test_step_equals_torch() -> None:
    theirs = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.3),
        count=20,
    )
    ours = rates(Step(max_lr=1e-3, decay=0.3, decay_steps=4), epochs=20)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    floored = rates(Step(max_lr=1e-3, decay=0.3, decay_steps=4, min_lr=5e-5), epochs=20)
    np.testing.assert_allclose(floored, np.maximum(theirs, 5e-5), rtol=1e-9)


def torch_rates(build: Any, *, count: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = build(optimizer)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("schedule", "peak", "then"),
    [
        (RampDecay(start_lr=1e-4, max_lr=1.0, min_lr=0.0), 20, {28: 1.0, 32: 0.8, 36: 0.64}),
        (Cosine(start_lr=0.0, max_lr=1.0, min_lr=0.0), 10, {55: 0.5}),
        (OneCycle(start_lr=0.0, max_lr=1.0, min_lr=0.0), 30, {15: 0.5, 65: 0.5}),
        (Step(max_lr=1.0), 0, {39: 1.0, 40: 0.1, 80: 0.01}),
        (Constant(max_lr=1.0), 0, {99: 1.0}),
    ],
)
def test_durations_left_open_are_percentages_of_the_run(
    schedule: ScheduleConfig, peak: int, then: dict[int, float]
) -> None:
    found = rates(schedule, epochs=10, steps_per_epoch=10)
    assert int(found.argmax()) == peak
    assert {step: pytest.approx(found[step]) for step in then} == then


unit = st.floats(0, 1)
positive_epochs = st.floats(0.1, 30)
any_epochs = st.just(0.0) | positive_epochs
schedules = st.one_of(
    st.builds(
        RampDecay,
        start_lr=unit,
        min_lr=unit,
        max_lr=st.just(1.0),
        by=st.sampled_from(["step", "epoch"]),
        ramp_epochs=st.none() | any_epochs,
        sustain_steps=st.none() | st.integers(0, 100),
        decay=st.floats(0.01, 1),
        decay_epochs=st.none() | positive_epochs,
    ),
    st.builds(
        Cosine,
        start_lr=unit,
        min_lr=unit,
        max_lr=st.just(1.0),
        by=st.sampled_from(["step", "epoch"]),
        warmup_percent=st.none() | st.just(0.0) | st.floats(0.1, 100),
    ),
    st.builds(
        OneCycle,
        start_lr=unit,
        min_lr=unit,
        max_lr=st.just(1.0),
        ramp_epochs=st.none() | any_epochs,
    ),
    st.builds(
        Step,
        min_lr=unit,
        max_lr=st.just(1.0),
        decay=st.floats(0.01, 1),
        decay_epochs=st.none() | positive_epochs,
    ),
    st.builds(Constant, max_lr=st.just(1.0)),
)


@settings(max_examples=50)
@given(schedule=schedules, epochs=st.integers(1, 20), steps_per_epoch=st.integers(1, 9))
def test_rates_stay_between_the_configured_ones_and_rise_before_they_fall(
    schedule: ScheduleConfig, epochs: int, steps_per_epoch: int
) -> None:
    found = rates(schedule, epochs=epochs, steps_per_epoch=steps_per_epoch)
    lowest = min(getattr(schedule, name, 1.0) for name in ("start_lr", "min_lr", "max_lr"))
    assert np.all(found >= lowest - 1e-12) and np.all(found <= schedule.max_lr + 1e-12)
    peak = int(found.argmax())
    assert np.all(np.diff(found[: peak + 1]) >= -1e-12)
    assert np.all(np.diff(found[peak:]) <= 1e-12)
    np.testing.assert_array_equal(
        found, rates(schedule, epochs=epochs, steps_per_epoch=steps_per_epoch)
    )


@settings(max_examples=50)
@given(
    schedule=schedules.filter(lambda one: one.by == "step" and not isinstance(one, Step)),
    epochs=st.integers(1, 20),
)
def test_a_finer_grid_of_steps_gives_the_same_curve(schedule: ScheduleConfig, epochs: int) -> None:
    if isinstance(schedule, RampDecay):
        schedule = dataclasses.replace(schedule, sustain_steps=None)
    coarse = rates(schedule, epochs=epochs, steps_per_epoch=3)
    fine = rates(schedule, epochs=epochs, steps_per_epoch=12)
    np.testing.assert_allclose(fine[::4], coarse, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("step", [-1, 20])
def test_a_step_outside_the_run_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match=f"step={step}.*0 to 19"):
        learning_rate(Constant(), step=step, steps_per_epoch=10, epochs=2)


def test_an_empty_run_is_refused() -> None:
    with pytest.raises(ValueError, match="steps_per_epoch=0"):
        learning_rate(Constant(), step=0, steps_per_epoch=0, epochs=2)


@pytest.mark.parametrize(
    ("schedule", "epochs", "words"),
    [
        (RampDecay(ramp_epochs=5), 3, ["ramp takes 50 steps", "30 steps", "max_lr"]),
        (RampDecay(by="epoch"), 1, ["ramp takes 2 steps", "ends at 5e-06"]),
        (RampDecay(ramp_epochs=1, sustain_epochs=2), 3, ["decay begins after 30 steps"]),
        (Cosine(warmup_epochs=9), 3, ["warm-up takes 90 steps"]),
        (OneCycle(ramp_percent=100), 3, ["ramp takes 30 steps"]),
        (Step(decay_epochs=3), 3, ["decay begins after 30 steps"]),
    ],
)
def test_what_does_not_fit_the_run_is_said_once(
    schedule: ScheduleConfig, epochs: int, words: list[str]
) -> None:
    (warning,) = schedule_warnings(schedule, steps_per_epoch=10, epochs=epochs)
    assert all(word in warning for word in words), warning


@pytest.mark.parametrize("kind", [RampDecay, Cosine, OneCycle, Step, Constant])
def test_defaults_fit_runs_of_five_epochs_and_more(kind: type[ScheduleConfig]) -> None:
    for epochs in (5, 25):
        for by in ("step", "epoch"):
            schedule = kind(by=by)
            assert schedule_warnings(schedule, steps_per_epoch=10, epochs=epochs) == []


@settings(max_examples=50)
@given(schedule=schedules, epochs=st.integers(1, 20), steps_per_epoch=st.integers(1, 9))
def test_a_missed_peak_is_warned_of_where_the_rates_only_rise(
    schedule: ScheduleConfig, epochs: int, steps_per_epoch: int
) -> None:
    found = rates(schedule, epochs=epochs, steps_per_epoch=steps_per_epoch)
    warnings = schedule_warnings(schedule, steps_per_epoch=steps_per_epoch, epochs=epochs)
    if any("never reaches" in warning for warning in warnings):
        assert np.all(np.diff(found) >= -1e-12)
    elif isinstance(schedule, RampDecay) and not warnings and schedule.decay < 0.99:
        flat = math.isclose(schedule.min_lr, schedule.max_lr)
        assert flat or found[-1] < schedule.max_lr
