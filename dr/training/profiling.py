"""`debug=profile`: where the time of a training step goes."""

import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import torch

from dr.accel.base import Accelerator
from dr.config import TrainConfig
from dr.loading.advice import NOTABLE_WAIT
from dr.loading.batches import BatchLoader
from dr.training.debugging import Finding, trial
from dr.training.job import FoldJob, loader_advice, open_loader
from dr.training.learner import Learner
from dr.training.loop import train_step
from dr.training.optimizers import train_mode
from dr.training.schedules import learning_rate
from dr.training.trial import trial_batches

WARM_UP = 4
TIMED = 12
TRACED = 3
"""Steps before the clock runs, steps it times, and steps that the profiler watches after those."""

_OPERATORS = 12
_WAIT, _REST = "data wait", "the rest"
_BUSY = 0.05
_WIDTH = 70
_OWN = ("stage: ", "ProfilerStep", "Optimizer.")
_LEARNER = {"inputs": "augment", "training_logits": "forward", "update": "optimizer"}
_OBJECTIVE = {"training_sums": "forward"}
_ACCELERATOR = {
    "pictures": "transfer",
    "tensor": "transfer",
    "backward": "backward",
    "gradient_norm": "optimizer",
    "figures": "metrics",
    "agree": "metrics",
}
_STAGES = (_WAIT, "transfer", "augment", "forward", "backward", "optimizer", "metrics", _REST)
"""`augment` is what the device augments, normalises included; the loader's part is `data wait`."""


def profile(config: TrainConfig) -> Finding:
    """Time some steps by stage, then trace some with torch.profiler.

    The trace (Chrome's format, gzipped) lies in the current folder, under a name that is free.
    Raises ValueError for anything that cannot be trained as asked.
    """
    with trial(config) as (job, learner):
        clock = StageClock(job.accelerator)
        clock.watch(learner, _LEARNER)
        clock.watch(learner.objective, _OBJECTIVE)
        clock.watch(job.accelerator, _ACCELERATOR)
        opened = open_loader(
            config, job.shards, image_size=job.image_size, accelerator=job.accelerator
        )
        with opened as loader:
            return _profile(job, learner, loader, clock)


class StageClock:
    """Adds up the time of stages, each without those inside it, and names them in a trace.

    On CUDA, where the host runs ahead, it also takes the time on the device between the same
    points.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._cuda = accelerator.device.type == "cuda"
        self._open = [_REST]
        self._points: list[tuple[str, float, Any]] = []

    def watch(self, owner: object, stages: Mapping[str, str]) -> None:
        """Take the time of methods of `owner`, by their names."""
        for name, stage in stages.items():
            setattr(owner, name, self._timed(getattr(owner, name), stage))

    def _timed(self, method: Callable[..., Any], stage: str) -> Callable[..., Any]:
        @wraps(method)
        def timed(*arguments: Any, **named: Any) -> Any:
            with self.stage(stage):
                return method(*arguments, **named)

        return timed

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What runs within belongs to the stage `name`."""
        self._begin(name)
        self._open.append(name)
        try:
            with torch.profiler.record_function(f"stage: {name}"):
                yield
        finally:
            self._open.pop()
            self._begin(self._open[-1])

    def _begin(self, name: str) -> None:
        event = None
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
        self._points.append((name, time.perf_counter(), event))

    def restart(self) -> None:
        """Forget what was; time runs from here."""
        self._points.clear()
        self._begin(self._open[-1])

    def read(self) -> tuple[dict[str, float], dict[str, float]]:
        """Seconds of each stage since `restart`, on the host and, on CUDA, on the device."""
        self._begin(self._open[-1])
        if self._cuda:
            torch.cuda.synchronize()
        host: dict[str, float] = defaultdict(float)
        device: dict[str, float] = defaultdict(float)
        for (name, start, event), (_, end, following) in pairwise(self._points):
            host[name] += end - start
            if self._cuda:
                device[name] += event.elapsed_time(following) / 1000
        return host, device


def _profile(job: FoldJob, learner: Learner, loader: BatchLoader, clock: StageClock) -> Finding:
    train_mode(learner.model)
    steps = _steps(job, learner, loader, clock)
    for _ in islice(steps, WARM_UP):
        clock.restart()
    for _ in islice(steps, TIMED):
        pass
    host, device = clock.read()
    path = _free_path(job)
    with _profiler(job.accelerator) as profiler:
        for _ in islice(steps, TRACED):
            pass
    profiler.export_chrome_trace(str(path))
    operators = profiler.key_averages()
    lines = [_head(job, host), *_stage_table(host, device), "", *_waits(job, loader, host, device)]
    lines += ["", f"operators of {TRACED} steps", *_operator_table(operators, job.accelerator)]
    return Finding("\n".join([*lines, "", f"{path}: open it at https://ui.perfetto.dev"]))


def _steps(
    job: FoldJob, learner: Learner, loader: BatchLoader, clock: StageClock
) -> Iterator[None]:
    """Steps of the training, one each time it is asked for the next."""
    plan, config = job.plan(0), job.config
    batches = trial_batches(job, loader)
    for step in count():
        with clock.stage(_WAIT):
            batch, labels, drawing = next(batches)
        rate = learning_rate(
            config.schedule, step=step % len(plan), steps_per_epoch=len(plan), epochs=config.epochs
        )
        train_step(
            learner,
            batch,
            labels=labels,
            drawing=drawing,
            learning_rate=rate,
            key=(config.seed, job.fold, step),
        )
        del batch
        yield


def _profiler(accelerator: Accelerator) -> Any:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if accelerator.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    else:
        os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # it calls the lack of a GPU an error
    return torch.profiler.profile(activities=activities)


def _free_path(job: FoldJob) -> Path:
    model = re.sub(r"[^\w.-]+", "_", job.config.model.name)
    name = f"profile-{model}-{job.image_size}px"
    free = (Path(f"{name}{'' if number == 1 else f'-{number}'}.json.gz") for number in count(1))
    return next(path for path in free if not path.exists())


def _head(job: FoldJob, host: Mapping[str, float]) -> str:
    step = sum(host.values()) / TIMED
    where, size = job.accelerator.describe(), job.config.batch_size
    return (
        f"profile: {job.config.model.name}, {job.image_size} px, batches of {size}, "
        f"{job.accelerator.precision}, on {where}\n{TIMED} steps after {WARM_UP}: "
        f"{1000 * step:.1f} ms each, {size / step:.1f} images a second"
    )


def _stage_table(host: Mapping[str, float], device: Mapping[str, float]) -> list[str]:
    lines = [
        f"  {'stage':<12}{'ms a step':>10}{'share':>8}" + ("  on the device" if device else "")
    ]
    for stage in _STAGES:
        spent = host.get(stage, 0.0)
        line = f"  {stage:<12}{1000 * spent / TIMED:>10.2f}{spent / sum(host.values()):>8.1%}"
        if device:
            line += f"{1000 * device.get(stage, 0.0) / TIMED:>12.2f} ms"
        lines.append(line)
    return lines


def _waits(
    job: FoldJob, loader: BatchLoader, host: Mapping[str, float], device: Mapping[str, float]
) -> list[str]:
    """Which share of the steps waits for data, and which for the host or the device."""
    whole = sum(host.values())
    wait = host.get(_WAIT, 0.0) / whole
    lines = [f"waiting for data: {wait:.1%} of the steps ({loader.threads} loader threads)"]
    if wait > NOTABLE_WAIT:
        lines.append(f"  to shorten it, try {loader_advice(job, loader)}")
    if device:
        waited = host.get("metrics", 0.0) / whole
        lines.append(f"the host waits for the device, at the step's one sync: {waited:.1%}")
        if waited < _BUSY:
            lines.append(
                "  so the device waits for the host: try accel.compile=true, larger batches"
            )
    return lines


def _operator_table(averages: Any, accelerator: Accelerator) -> list[str]:
    """The operators that take most time, without what they call."""
    on_device = accelerator.device.type == "cuda"
    spent = "self_device_time_total" if on_device else "self_cpu_time_total"
    found = [one for one in averages if not one.key.startswith(_OWN) and getattr(one, spent) > 0]
    total = sum(getattr(one, spent) for one in found)
    found.sort(key=lambda one: -getattr(one, spent))
    lines = [f"  {'ms a step':>9}{'share':>8}{'calls':>8}  operator"]
    for one in found[:_OPERATORS]:
        time_us = getattr(one, spent)
        share, calls = time_us / total, one.count / TRACED
        name = one.key if len(one.key) <= _WIDTH else f"{one.key[:_WIDTH]}..."
        lines.append(f"  {time_us / 1000 / TRACED:>9.2f}{share:>8.1%}{calls:>8.0f}  {name}")
    return lines
