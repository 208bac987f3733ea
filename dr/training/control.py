"""What watches over a fold from step to step: saving, stopping, and losses that are not finite."""

import time
from collections.abc import Callable

import numpy as np

from dr.training.interruption import Stopper, voted, votes
from dr.training.job import FoldJob
from dr.training.loop import Control, Records, StepFigures, Tally
from dr.training.state import FoldState

_NAMED = 64


class FoldControl(Control):
    """Saves every `save_minutes`, and where `stopper` asks; refuses what is not finite."""

    def __init__(
        self, job: FoldJob, state: FoldState, stopper: Stopper, *, save: Callable[[], None]
    ) -> None:
        self._job, self._state, self._stopper, self._save = job, state, stopper, save
        self._saved = time.monotonic()

    def reason(self) -> int:
        return self._stopper.reason()

    def not_finite(self, records: Records, figures: StepFigures, tally: Tally) -> None:
        """Say so, or raise ValueError naming fold, epoch, step and the batch's records."""
        before = sum(row["not_finite"] for row in self._state.history)
        left = self._job.config.skip_nonfinite - before - tally.not_finite
        where = f"fold {self._job.fold}, epoch {self._state.epoch + 1}, step {tally.step}"
        what = f"{where}: the loss is {figures.loss}, the gradients' norm {figures.norm}"
        if left < 0:
            raise ValueError(
                f"{what}, on the records {self._named(records)}; lower schedule.max_lr, set "
                "optimizer.clip_norm or accel.precision=float32, or leave such batches out with "
                "skip_nonfinite=N"
            )
        self._job.progress.say(f"{what}; the batch is left out ({left} more may be)")

    def _named(self, records: Records) -> str:
        table = self._job.shards.table
        names = table["name"].to_numpy()[records % len(table)]
        return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")

    def after_step(self, tally: Tally, reason: int) -> None:
        if reason:
            self._leave(reason)
        if time.monotonic() - self._saved > 60 * self._job.config.save_minutes:
            self._save()
            self._saved = time.monotonic()

    def check(self) -> None:
        reason = voted(self._job.accelerator.agree(np.array(votes(self._stopper.reason()))))
        if reason:
            self._leave(reason)

    def _leave(self, reason: int) -> None:
        """Raise Interrupted when the checkpoint stands."""
        self._save()
        self._job.accelerator.barrier()
        raise self._stopper.interrupted(reason)
