"""`debug=...`: what a training can be asked to do instead of training. None makes a run folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dr.accel.choice import choose_accelerator
from dr.accel.launching import torchrun_place
from dr.config import TrainConfig
from dr.training.job import FoldJob
from dr.training.learner import Learner
from dr.training.starting import start_learner
from dr.training.trial import trial_job


@dataclass(frozen=True)
class Finding:
    """What was found, as text; `problem` says what is wrong and what to try, None where nothing."""

    text: str
    problem: str | None = None


def debug(config: TrainConfig) -> Finding:
    """Do what `config.debug` asks for: `overfit`, `one_batch` or `profile`.

    Raises ValueError for anything that cannot be trained as asked.
    """
    if config.debug == "overfit":
        from dr.training.overfitting import overfit

        return overfit(config)
    if config.debug == "one_batch":
        from dr.training.one_batch import train_one_batch

        return train_one_batch(config)
    from dr.training.profiling import profile

    return profile(config)


@contextmanager
def trial(config: TrainConfig) -> Iterator[tuple[FoldJob, Learner]]:
    """The first fold that `config.fold` asks for and what learns in it, on one device.

    Raises ValueError for anything that cannot be trained as asked, and under torchrun.
    """
    place = torchrun_place()
    if place is not None and place.world_size > 1:
        raise ValueError(f"debug={config.debug}: runs on one device; start it without torchrun")
    with choose_accelerator(config.accel) as accelerator:
        job = trial_job(config, accelerator)
        yield job, start_learner(job)
