"""One contender in a process of its own, told line by line what to do.

Each command is a line of JSON on stdin, each answer one on stdout: `write` makes the data, `open`
the loader, `check` runs an epoch and looks at every picture, `epoch` runs one and times it.
"""

import gc
import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contract import AUGMENTED, CONTENDERS, Epoch, Run
from benchmarks.peers.pictures import Pictures, check_epoch

Answer = dict[str, Any]


class Worker:
    """What one contender's process does at each command."""

    def __init__(self, name: str, run: Run) -> None:
        self._contender = next(c for c in (*CONTENDERS, *AUGMENTED) if c.name == name)
        self._run = run
        self._module = importlib.import_module(f"benchmarks.peers.{self._contender.module}")
        self._epoch: Epoch | None = None

    def write(self) -> Answer:
        """Make the data, whole or not at all."""
        assert self._contender.data is not None
        aside = self._run.folder / f"{self._contender.data}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        options = {"mode": self._contender.options["mode"]} if self._is_ffcv() else {}
        self._module.write(self._pictures(), aside, **options)
        aside.rename(self._run.folder / self._contender.data)
        return {}

    def open(self) -> Answer:
        self._epoch = self._module.open_epochs(self._run, **self._contender.options)
        return {"versions": dict(filter(None, map(_version, self._module.PACKAGES)))}

    def check(self) -> Answer:
        if not self._contender.delivers:
            return self.epoch(0)
        name = "signatures_fast.npy" if self._contender.fast else "signatures.npy"
        truth = np.load(self._run.folder / name)
        check_epoch(self._opened()(0), self._pictures(), truth)
        return {}

    def epoch(self, number: int) -> Answer:
        """Run an epoch; how many pictures came, in how much time, of wall and of processors."""
        epoch = self._opened()
        gc.collect()
        count, processors, start = 0, processor_seconds(), time.perf_counter()
        for images, labels in epoch(number):
            assert len(images) == len(labels)
            count += len(images)
        seconds = time.perf_counter() - start
        used = processor_seconds() - processors
        return {"count": count, "seconds": seconds, "processor_seconds": used}

    def _opened(self) -> Epoch:
        assert self._epoch is not None
        return self._epoch

    def _pictures(self) -> Pictures:
        return Pictures(self._run.folder / "pictures")

    def _is_ffcv(self) -> bool:
        return self._contender.module == "ffcv_loader"


def _version(package: str) -> tuple[str, str] | None:
    try:
        return package, version(package)
    except PackageNotFoundError:
        return None


def processor_seconds() -> float:
    """User and system time of this process and of its living children."""
    own = os.times()
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = {pid for path in children for pid in path.read_text().split()}
    return own.user + own.system + sum(map(_ticks, pids)) / os.sysconf("SC_CLK_TCK")


def _ticks(pid: str) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _answer(do: Callable[[], Answer]) -> Answer:
    try:
        return do()
    except ModuleNotFoundError as error:
        return {"missing": str(error)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main(name: str, settings: str) -> None:
    given = json.loads(settings)
    run = Run(**{**given, "folder": Path(given["folder"])})
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        worker: list[Worker] = []

        def begin() -> Answer:
            worker.append(Worker(name, run))
            return {}

        print(json.dumps(_answer(begin)), file=answers, flush=True)
        for line in sys.stdin:
            command = json.loads(line)
            do = getattr(worker[0], command.pop("do"))
            print(json.dumps(_answer(lambda: do(**command))), file=answers, flush=True)  # noqa: B023


if __name__ == "__main__":
    main(*sys.argv[1:])
