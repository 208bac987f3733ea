"""Runs that are killed or stopped at any moment, and end as if they had not been."""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from dr.training.checkpoint import load_checkpoint
from dr.training.history import TIMINGS, read_history

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

KILLS = 20
CHANGES = (
    "augment=fundus",
    "model.drop_rate=0.2",
    "model.drop_path_rate=0.1",
    "optimizer.clip_norm=1",
    "ema_decay=0.9",
    "batch_size=6",
    "folds=2",
    "epochs=2",
    "save_minutes=0",
    "report.enabled=false",
)
PRECISIONS = {
    "float32": (),
    "bfloat16": ("accel.precision=bfloat16", "accel.channels_last=true"),
}
PRELOAD = [
    "dr.training.cross_validation",
    "dr.reporting.curves",
    "albumentations",
    "hydra",
    "matplotlib.pyplot",
    "sklearn.metrics",
    "timm",
]
DOOR = """
import os, runpy, sys
os.dup2(os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
sys.argv = ["dr.train", *{arguments!r}]
runpy.run_module("dr.train", run_name="__main__")
"""
TIMEOUT_S = 300


def exit_code(process: BaseProcess) -> int | None:
    process.join(TIMEOUT_S)
    return process.exitcode


class Training:
    """A command line, and what it leaves in `outputs`."""

    def __init__(self, overrides: list[str], outputs: Path, *changes: str) -> None:
        self.arguments = [*overrides, *CHANGES, *changes, f"outputs={outputs}"]
        self.outputs = outputs
        self.log = outputs.with_suffix(".log")

    def start(self) -> BaseProcess:
        """`python -m dr.train` in a process that need not import anything any more."""
        door = DOOR.format(arguments=self.arguments, log=str(self.log))
        process = multiprocessing.get_context("forkserver").Process(target=exec, args=(door, {}))
        process.start()
        return process

    def finish(self) -> float:
        """Train to the end; the seconds it took."""
        began = time.monotonic()
        assert exit_code(self.start()) == 0, self.log.read_text()
        return time.monotonic() - began

    def kill(self, seconds: float) -> bool:
        """Start, and kill after `seconds`; whether that left a run unfinished."""
        process = self.start()
        process.join(seconds)
        process.kill()
        process.join()
        finished = self.runs() and all(map(is_complete, self.runs()))
        return process.exitcode == -signal.SIGKILL and not finished

    def stop(self, number: signal.Signals, when: Callable[[], bool]) -> int | None:
        """Start, and send a signal a little after `when()` holds; the exit code."""
        process = self.start()
        wait_for(when, process)
        time.sleep(0.2)
        assert process.pid is not None
        os.kill(process.pid, number)
        return exit_code(process)

    def runs(self) -> list[Path]:
        return sorted(self.outputs.glob("test_*"))

    def positions(self) -> list[tuple[int, int, int]]:
        """Fold, epoch and step of the checkpoints."""
        found = []
        for folder in sorted(self.outputs.glob("test_*/fold-*")):
            packed = load_checkpoint(folder)
            if packed is not None:
                state = json.loads(packed["state"])
                fold = int(folder.name.removeprefix("fold-"))
                found.append((fold, state["epoch"], state["tally"]["step"]))
        return found

    def has(self, pattern: str) -> Callable[[], bool]:
        return lambda: any(True for _ in self.outputs.glob(f"test_*/{pattern}"))

    def left(self) -> dict[str, Any]:
        """All that lies in the runs but times and pictures: names of files, and what they hold."""
        held: dict[str, Any] = {}
        for path in sorted(self.outputs.glob("test_*/**/[!.]*")):
            name = str(path.relative_to(self.outputs))
            if path.name == "history.csv":
                rows = read_history(path.parent)
                held[name] = [{key: row[key] for key in row if key not in TIMINGS} for row in rows]
            elif path.name in ("environment.json", "config.yaml", "curves.png") or path.is_dir():
                held[name] = None
            else:
                held[name] = path.read_bytes()
        return held


def is_complete(run: Path) -> bool:
    result = run / "result.json"
    return result.is_file() and bool(json.loads(result.read_text())["complete"])


def wait_for(when: Callable[[], bool], process: BaseProcess) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not when():
        assert process.is_alive(), "the training ended before what was waited for"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def same(training: Training, whole: dict[str, Any]) -> None:
    """Whether a run left the same, to the bit; its outputs are another folder."""
    held = training.left()
    assert held.keys() == whole.keys()
    assert [name for name in held if held[name] != whole[name]] == []


Make = Callable[..., Training]


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What a process imports is there before the first one is timed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=abs, args=(0,))
    process.start()
    assert exit_code(process) == 0


@pytest.fixture
def training(tiny_overrides: list[str], tmp_path: Path) -> Make:
    """`training("name", "epochs=3")`: a training with outputs of its own."""
    return lambda name, *changes: Training(tiny_overrides, tmp_path / name, *changes)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(
    training: Make, precision: str
) -> None:
    changes = PRECISIONS[precision]
    training("warm", *changes).finish()
    reference = training("whole", *changes)
    length = reference.finish()
    whole = reference.left()
    draw, positions = random.Random(20), []
    for part in range(KILLS):
        moment, attempt = length * (part + draw.random()) / KILLS, 0
        killed = training(f"killed-{part}", *changes)
        while not killed.kill(moment):
            moment, attempt = moment * 0.8, attempt + 1
            killed = training(f"killed-{part}-{attempt}", *changes)
        positions += killed.positions()
        killed.finish()
        same(killed, whole)
    assert {fold for fold, _, _ in positions} == {0, 1}
    assert len({place for place in positions if place[2]}) >= 4


def test_a_run_killed_again_and_again_ends_as_one_that_was_not(training: Make) -> None:
    changes = ("select=cross", "folds=3", "epochs=1")
    reference = training("whole", *changes)
    length = reference.finish()
    killed, draw, kills = training("killed", *changes), random.Random(3), 0
    while killed.kill(length * draw.uniform(0.4, 0.9) * 1.1**kills):
        kills += 1
        assert kills < 30
    killed.finish()
    assert kills >= 1
    same(killed, reference.left())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_within_an_epoch_and_leaves_with_its_code(
    training: Make, number: signal.Signals
) -> None:
    changes = ("batch_size=2", "save_minutes=10")
    reference = training("whole", *changes)
    reference.finish()
    stopped = training("stopped", *changes)
    code = stopped.stop(number, stopped.has("fold-0/checkpoint.pt"))
    assert code == 128 + number
    text = f"stopped by {number.name}, the state is saved; the same command goes on"
    assert f"dr.train: {stopped.runs()[0]}: {text}" in stopped.log.read_text()
    ((fold, epoch, step),) = stopped.positions()
    assert (fold, epoch) <= (1, 1)
    assert step > 0
    stopped.finish()
    same(stopped, reference.left())


def test_a_time_limit_leaves_with_75_until_the_run_is_finished(training: Make) -> None:
    reference = training("whole")
    reference.finish()
    limited = training("limited", "time_limit=1s")
    codes = [exit_code(limited.start())]
    while codes[-1] == 75:
        codes.append(exit_code(limited.start()))
    assert len(codes) > 1
    assert codes[-1] == 0
    same(limited, reference.left())


SWEEP = ("--multirun", "seed=0,1")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_sweep_goes_on_with_what_is_unfinished(training: Make, number: signal.Signals) -> None:
    reference = training("whole", *SWEEP)
    reference.finish()
    swept = training("swept", *SWEEP)

    def second_has_begun() -> bool:
        return len(swept.runs()) == 2 and swept.has("fold-0/checkpoint.pt")()

    code = swept.stop(number, second_has_begun)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    assert sorted(map(is_complete, swept.runs())) == [False, True]
    swept.finish()
    assert swept.log.read_text().count("THIS RUN IS FINISHED, nothing is trained") == 1
    same(swept, reference.left())


def test_a_stopped_job_ends_its_sweep(training: Make) -> None:
    swept = training("swept", *SWEEP)
    assert swept.stop(signal.SIGTERM, swept.has("fold-0/checkpoint.pt")) == 143
    assert len(swept.runs()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="processes hear of their parent's end on Linux")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_jobs_side_by_side_save_when_their_launcher_is_stopped(
    training: Make, number: signal.Signals
) -> None:
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "save_minutes=10")
    swept = training("swept", *SWEEP, *joblib, "epochs=200")

    def both_train() -> bool:
        return sum(1 for _ in swept.outputs.glob("test_*/fold-0/checkpoint.pt")) == 2

    process = swept.start()
    wait_for(both_train, process)
    assert process.pid is not None
    workers = children(process.pid)
    os.kill(process.pid, number)
    assert exit_code(process) == -number
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        time.sleep(0.1)
    saved = swept.positions()
    assert len(saved) == 2
    assert all(step for _, _, step in saved)


def children(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for path in listed for child in path.read_text().split()]


def test_ranks_die_with_their_parent_and_the_run_goes_on(training: Make) -> None:
    changes = ("accel.devices=2", "epochs=1")
    reference = training("whole", *changes)
    reference.finish()
    killed = training("killed", *changes)
    previous = killed.has("fold-0/checkpoint-previous.pt")
    assert killed.stop(signal.SIGKILL, previous) == -signal.SIGKILL
    assert killed.stop(signal.SIGTERM, killed.has("fold-1/checkpoint.pt")) == 143
    assert not is_complete(killed.runs()[0])
    killed.finish()
    same(killed, reference.left())
