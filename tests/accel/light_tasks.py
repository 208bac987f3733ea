"""What ranks do in tests of their start and end; without torch they start in no time."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dr.accel.launching import Place, RankPool
from dr.training.interruption import Stopper


@dataclass
class Light:
    """Stands for an accelerator."""

    place: Place

    def close(self) -> None:
        pass


def here(light: Light, data: Any) -> tuple[int, Any]:
    return os.getpid(), data


def fail_on(light: Light, rank: int) -> None:
    """Raise on one rank; the others would wait for it."""
    if light.place.rank == rank:
        raise ValueError(f"batch_size: rank {rank} has had enough; set less")
    time.sleep(600)


class Unpicklable(Exception):
    def __init__(self, one: str, *, other: str) -> None:
        super().__init__(f"{one} and {other}")


def fail_unpicklably(light: Light, data: None) -> None:
    raise Unpicklable("this", other="that")


def die_on(light: Light, rank: int) -> None:
    """Be killed on one rank; the others then fail for want of it."""
    if light.place.rank == rank:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3)
    raise RuntimeError("connection closed by peer")


def exit_on(light: Light, rank: int) -> None:
    if light.place.rank == rank:
        os._exit(3)
    time.sleep(600)


def _arrive(light: Light, folder: str) -> None:
    here = Path(folder) / f"{light.place.rank}"
    here.with_suffix(".part").write_text(str(os.getpid()))
    here.with_suffix(".part").rename(here.with_suffix(".pid"))


def train_until_told(light: Light, folder: str) -> None:
    """Work until a signal comes; the first rank takes longer to leave, for it saves."""
    with Stopper() as stopper:
        _arrive(light, folder)
        while not (reason := stopper.reason()):
            time.sleep(0.02)
        if light.place.rank == 0:
            time.sleep(1.0)
            (Path(folder) / "saved").touch()
        raise stopper.interrupted(reason)


def sleep_through(light: Light, folder: str) -> None:
    """Take no notice of signals."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    _arrive(light, folder)
    time.sleep(600)


def sleep(light: Light, folder: str) -> None:
    """Be an ordinary process that signals end."""
    _arrive(light, folder)
    time.sleep(600)


def start_and_run(number: int) -> tuple[int, Any]:
    pool = RankPool(Light, 2)
    try:
        found: tuple[int, Any] = pool.run(here, number)
        return found
    finally:
        pool.close()


def main(task: str, folder: str) -> None:
    """The parent, as a command."""
    RankPool(Light, 2).run(globals()[task], folder)


if __name__ == "__main__":
    # Ranks look for tasks in a module of a name, which the command itself has not.
    import light_tasks

    light_tasks.main(*sys.argv[1:])
