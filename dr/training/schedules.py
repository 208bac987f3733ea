"""Learning-rate schedules as pure functions of the position in a run.

A schedule has no state: resuming, or asking for the rate of any step, needs only its number.
Durations are real numbers of steps, never rounded; a percentage is of all steps of the run.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dr.config import Constant, Cosine, OneCycle, RampDecay, ScheduleConfig, Step

DEFAULT_PERCENT: Mapping[type[ScheduleConfig], Mapping[str, float]] = {
    RampDecay: {"ramp": 20.0, "sustain": 8.0, "decay": 4.0},
    Cosine: {"warmup": 10.0},
    OneCycle: {"ramp": 30.0},
    Constant: {},
    Step: {"decay": 40.0},
}
"""A duration that the configuration leaves open, in percent of the run."""


@dataclass(frozen=True)
class _Run:
    steps_per_epoch: int
    epochs: int

    def __post_init__(self) -> None:
        for name in ("steps_per_epoch", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    def position(self, schedule: ScheduleConfig, step: int) -> int:
        return step - step % self.steps_per_epoch if schedule.by == "epoch" else step

    def duration(self, schedule: ScheduleConfig, part: str) -> float:
        epochs, steps, percent = (
            getattr(schedule, f"{part}_{unit}") for unit in ("epochs", "steps", "percent")
        )
        if epochs is not None:
            return float(epochs * self.steps_per_epoch)
        if steps is not None:
            return float(steps)
        share = DEFAULT_PERCENT[type(schedule)][part] if percent is None else percent
        return float(share * self.steps / 100)


def learning_rate(
    schedule: ScheduleConfig, *, step: int, steps_per_epoch: int, epochs: int
) -> float:
    """The learning rate that optimizer step number `step` is taken with.

    With `schedule.by="epoch"` the rate of an epoch's first step holds over the whole epoch.

    Args:
        schedule: the schedule and its absolute rates.
        step: position in the run, from 0 to `steps_per_epoch * epochs - 1`.
        steps_per_epoch: optimizer steps in one epoch, at least 1.
        epochs: epochs of the whole run, at least 1.

    Raises:
        ValueError: `step` lies outside the run, or a count is below 1.
    """
    run = _Run(steps_per_epoch, epochs)
    if not 0 <= step < run.steps:
        raise ValueError(f"step={step}: the run has the steps 0 to {run.steps - 1}")
    return _RATES[type(schedule)](schedule, run.position(schedule, step), run)


def schedule_warnings(schedule: ScheduleConfig, *, steps_per_epoch: int, epochs: int) -> list[str]:
    """What a user should be told about a schedule that doesn't fit the length of the run.

    Returns one sentence for each of: a ramp or warm-up that ends after the run, and a decay that
    begins after it. An empty list means that every part of the schedule takes place.

    Raises:
        ValueError: `steps_per_epoch` or `epochs` is below 1.
    """
    run = _Run(steps_per_epoch, epochs)
    last = run.position(schedule, run.steps - 1)
    length = f"the run has {run.steps} steps, its last rate is set at step {last}"
    durations = {part: run.duration(schedule, part) for part in DEFAULT_PERCENT[type(schedule)]}
    rise = durations.get("ramp", durations.get("warmup", 0.0))
    if last < rise:
        rate = learning_rate(
            schedule, step=run.steps - 1, steps_per_epoch=steps_per_epoch, epochs=epochs
        )
        name = "ramp" if "ramp" in durations else "warm-up"
        return [
            f"the schedule's {name} takes {rise:g} steps, but {length}: the learning rate ends at "
            f"{rate:.3g} and never reaches schedule.max_lr={schedule.max_lr:g}"
        ]
    begin = _decay_begins(schedule, durations, rise)
    if begin is not None and last < begin:
        return [f"the schedule's decay begins after {begin:g} steps, but {length}: it never does"]
    return []


def _decay_begins(
    schedule: ScheduleConfig, durations: Mapping[str, float], rise: float
) -> float | None:
    if isinstance(schedule, RampDecay):
        return rise + durations["sustain"]
    return durations["decay"] if isinstance(schedule, Step) else None


def _linear(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _half_cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2


def _ramp_decay(schedule: RampDecay, position: int, run: _Run) -> float:
    ramp, sustain, decay = (run.duration(schedule, part) for part in ("ramp", "sustain", "decay"))
    if position < ramp:
        return _linear(schedule.start_lr, schedule.max_lr, position / ramp)
    decayed = max(0.0, position - ramp - sustain) / decay
    return schedule.min_lr + (schedule.max_lr - schedule.min_lr) * math.pow(schedule.decay, decayed)


def _cosine(schedule: Cosine, position: int, run: _Run) -> float:
    warmup = run.duration(schedule, "warmup")
    if position < warmup:
        return _linear(schedule.start_lr, schedule.max_lr, position / warmup)
    share = (position - warmup) / (run.steps - warmup)
    return _half_cosine(schedule.max_lr, schedule.min_lr, share)


def _onecycle(schedule: OneCycle, position: int, run: _Run) -> float:
    """One cycle of Smith and Topin (2019, arXiv:1708.07120), annealed by cosines."""
    ramp = run.duration(schedule, "ramp")
    if position < ramp:
        return _half_cosine(schedule.start_lr, schedule.max_lr, position / ramp)
    share = (position - ramp) / (run.steps - ramp)
    return _half_cosine(schedule.max_lr, schedule.min_lr, share)


def _constant(schedule: Constant, position: int, run: _Run) -> float:
    return schedule.max_lr


def _step(schedule: Step, position: int, run: _Run) -> float:
    decays = math.floor(position / run.duration(schedule, "decay"))
    return max(schedule.min_lr, schedule.max_lr * schedule.decay**decays)


_RATES: Mapping[type[ScheduleConfig], Callable[[Any, int, _Run], float]] = {
    RampDecay: _ramp_decay,
    Cosine: _cosine,
    OneCycle: _onecycle,
    Constant: _constant,
    Step: _step,
}
