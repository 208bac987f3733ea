"""Training steps beside bare ones, and where the time of a whole run goes.

    python -m benchmarks.training --shards DIR     shards that dr.prepare made
    python -m benchmarks.training                  draws synthetic photographs first
    python -m benchmarks.training accel=cuda       keys of dr.train change what is trained

Each way has a process of its own and takes its turn in every round; the others wait. `plain` is
the network as torch makes it: float32, contiguous, one batch that lies ready. `autocast` adds the
run's precision and layout. `bare` is the run's own network, precision, layout, optimizer and
process, still with one batch that lies ready. `dr` is `train_epoch`, which reads, decodes, augments
and checks every batch. Ratios are medians over rounds, by the clock and by processor seconds.

`--run` then times `python -m dr.train` from outside and compares with what it recorded itself.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
WAYS = ("plain", "autocast", "bare", "dr")
WARM_UP = 3
DEFAULTS = ("model=effnet_lite0", "model.weights=none", "image_size=224", "folds=2", "fold=0")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        prog="python -m benchmarks.training",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shards", help="shards of the pictures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="steps of each in a round")
    parser.add_argument("--run", action="store_true", help="account for a whole run as well")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of dr.train")
    return parser.parse_args()


class Turns:
    """Lets a process work for some steps at a time, when it is told to."""

    def __init__(self, steps: int) -> None:
        self._steps, self._left = steps, WARM_UP
        self._images = 0
        self._start()

    def _start(self) -> None:
        self._began, self._used = time.perf_counter(), time.process_time()

    def step(self, images: int) -> None:
        """A step is done; waits for the next turn where it was a turn's last one."""
        self._images, self._left = self._images + images, self._left - 1
        if self._left:
            return
        seconds = time.perf_counter() - self._began
        cpu = time.process_time() - self._used
        print(json.dumps({"images": self._images, "seconds": seconds, "cpu": cpu}), flush=True)
        if not sys.stdin.readline():
            sys.exit()
        self._images, self._left = 0, self._steps
        self._start()


def work(way: str, overrides: list[str], turns: Turns) -> None:
    """Train in one way until the process that asks is gone."""
    import torch

    from dr.accel.choice import choose_accelerator
    from dr.compose import compose
    from dr.config import TrainConfig
    from dr.training.learner import build_learner
    from dr.training.trial import trial_job

    config = compose("train", TrainConfig, overrides)
    if way in ("plain", "autocast"):
        work_plainly(config, turns, autocast=way == "autocast")
        return
    accelerator = choose_accelerator(config.accel)
    job = trial_job(config, accelerator)
    torch.manual_seed(0)
    learner = build_learner(
        config, accelerator, image_size=job.image_size, label_counts=job.label_counts
    )
    (work_with_loader if way == "dr" else work_bare)(job, learner, turns)


def work_plainly(config: Any, turns: Turns, *, autocast: bool) -> None:
    """A step as torch makes it, in a process as it is."""
    import timm
    import torch

    from dr.accel.cpu import computes_bfloat16

    cuda = torch.cuda.is_available() and config.accel.name != "cpu"
    device = torch.device("cuda" if cuda else "cpu")
    layout = torch.channels_last if autocast else torch.contiguous_format
    low = autocast and config.accel.precision != "float32" and (cuda or computes_bfloat16())
    model = timm.create_model(config.model.name, num_classes=5)
    model = model.to(device=device, memory_format=layout)
    side = config.image_size
    pictures = torch.randn(config.batch_size, 3, side, side).to(device, memory_format=layout)
    target = torch.arange(config.batch_size, device=device) % 5
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    while True:
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            loss = torch.nn.functional.cross_entropy(model(pictures), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        turns.step(config.batch_size)


def work_bare(job: Any, learner: Any, turns: Turns) -> None:
    """The run's own network and optimizer on one batch."""
    from dr.loading.batches import Batch

    side, size = job.image_size, job.config.batch_size
    pixels = np.random.default_rng(0).integers(0, 256, (size, side, side, 3), np.uint8)
    pictures = learner.inputs(Batch(pixels, np.arange(size)))
    target = learner.accelerator.tensor(np.arange(size) % 5)
    for group in learner.optimizer.param_groups:
        group["lr"] = 1e-4
    while True:
        loss = learner.objective.training_losses(learner.training_logits(pictures), target).mean()
        loss.backward()
        learner.optimizer.step()
        learner.optimizer.zero_grad(set_to_none=True)
        loss.item()
        turns.step(size)


def work_with_loader(job: Any, learner: Any, turns: Turns) -> None:
    """The loop of a fold, over one epoch after another."""
    from itertools import count

    from dr.training.job import open_loader
    from dr.training.loop import loader_drawing, train_epoch

    opened = open_loader(
        job.config, job.shards, image_size=job.image_size, accelerator=job.accelerator
    )
    with opened as loader:
        for epoch in count():
            loader.announce(job.plan(epoch + 1), loader_drawing(job.drawing(epoch + 1)))
            train_epoch(
                learner,
                loader,
                plan=job.plan(epoch),
                labels=job.labels,
                drawing=job.drawing(epoch),
                learning_rate=lambda step: 1e-4,
                done=turns.step,
            )


class Process:
    """A way's process, warmed up; it waits between its turns."""

    def __init__(self, way: str, arguments: argparse.Namespace, overrides: list[str]) -> None:
        self.way, self.turns = way, list[dict[str, float]]()
        command = [sys.executable, "-m", "benchmarks.training", "--way", way]
        command += ["--steps", str(arguments.steps), *overrides]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._hear()

    def turn(self) -> None:
        assert self._process.stdin is not None
        print("go", file=self._process.stdin, flush=True)
        self.turns.append(self._hear())

    def _hear(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.way}: its process ended; see above")
        heard: dict[str, float] = json.loads(line)
        return heard

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def compare(arguments: argparse.Namespace, overrides: list[str]) -> str:
    """A table of all ways, their turns taken round after round."""
    processes: list[Process] = []
    try:
        for way in WAYS:
            processes.append(Process(way, arguments, overrides))
        for number in range(arguments.rounds):
            first = number % len(processes)
            for process in processes[first:] + processes[:first]:
                process.turn()
    finally:
        for process in processes:
            process.end()
    return table({process.way: process.turns for process in processes})


def table(turns: dict[str, list[dict[str, float]]]) -> str:
    """A row a way: its rate, and how it compares with `plain` and `bare`."""
    lines = [
        "| way | images/s | by plain | by bare | cpu ms/image | cpu by plain | cpu by bare |",
        "|---|---|---|---|---|---|---|",
    ]
    for way, own in turns.items():
        rate = statistics.median(turn["images"] / turn["seconds"] for turn in own)
        used = statistics.median(turn["cpu"] / turn["images"] for turn in own)
        clock = [ratio(own, turns[other], seconds) for other in ("plain", "bare")]
        cpu = [ratio(own, turns[other], processor_seconds) for other in ("plain", "bare")]
        cells = f"{rate:.1f} | {clock[0]:.2f} | {clock[1]:.2f} | {1000 * used:.1f} "
        lines.append(f"| {way} | {cells}| {cpu[0]:.2f} | {cpu[1]:.2f} |")
    return "\n".join(lines)


def seconds(turn: dict[str, float]) -> float:
    return turn["seconds"] / turn["images"]


def processor_seconds(turn: dict[str, float]) -> float:
    return turn["cpu"] / turn["images"]


def ratio(
    own: list[dict[str, float]],
    others: list[dict[str, float]],
    cost: Callable[[dict[str, float]], float],
) -> float:
    """How many times as cheap as the other's turn of the same round; the median over rounds."""
    pairs = zip(own, others, strict=True)
    return statistics.median(cost(other) / cost(mine) for mine, other in pairs)


def account(overrides: list[str], folder: Path) -> str:
    """What a whole run says of its time, beside its time by an outside clock."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "dr.train", *overrides, f"outputs={folder}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    outside = time.perf_counter() - started
    (run,) = (path for path in folder.iterdir() if (path / "environment.json").is_file())
    (timings,) = json.loads((run / "environment.json").read_text())["timings"]
    timings.pop("date")
    steps = timings["training"] + timings["evaluation"]
    lines = ["| part | seconds | share |", "|---|---|---|"]
    parts = {**timings, "before and after": outside - timings["total"]}
    lines += [f"| {name} | {value:.1f} | {value / outside:.1%} |" for name, value in parts.items()]
    return "\n".join([*lines, f"neither training nor evaluation: {1 - steps / outside:.1%}"])


def main() -> None:
    arguments = parse_arguments()
    if arguments.way is not None:
        work(arguments.way, arguments.overrides, Turns(arguments.steps))
        return
    with tempfile.TemporaryDirectory() as name:
        shards = arguments.shards
        if shards is None:
            from benchmarks.loader import synthetic_shards

            shards = synthetic_shards(Path(name))
        overrides = [*DEFAULTS, f"shards={Path(shards).resolve()}", *arguments.overrides]
        print(compare(arguments, overrides), flush=True)
        if arguments.run:
            print(account(overrides, Path(name) / "outputs"))


if __name__ == "__main__":
    main()
