"""What learns in a fold, as it is before the first step."""

from dr.training.accumulation import choose_accumulate
from dr.training.job import FoldJob
from dr.training.learner import Learner, build_learner


def start_learner(job: FoldJob, *, accumulate: int = 1) -> Learner:
    """Build what learns in a fold, which its seed and number decide.

    It takes `accumulate` micro-batches or more where `accel.accumulate=auto` chooses them. Raises
    ValueError where not even one picture at a time fits the device's memory.
    """
    job.accelerator.seed(job.config.seed, job.fold)
    learner = build_learner(
        job.config,
        job.accelerator,
        image_size=job.image_size,
        label_counts=job.label_counts,
        start=job.start,
    )
    choose_accumulate(job, learner, at_least=accumulate)
    return learner
