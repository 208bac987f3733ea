"""Into how many micro-batches a device's share of a batch has to be split to fit its memory."""

import copy
import gc
from typing import Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from dr.accel.base import Accelerator
from dr.loading.batches import Batch
from dr.training.checkpoint import on_cpu
from dr.training.job import FoldJob
from dr.training.learner import Learner

_OUT_OF_MEMORY = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def choose_accumulate(job: FoldJob, learner: Learner, *, at_least: int = 1) -> None:
    """Let `learner` take as many micro-batches as `accel.accumulate=auto` means on its device."""
    if job.config.accel.accumulate != "auto" or not job.accelerator.own_memory:
        return
    learner.accumulate = fit_memory(
        learner,
        batch_size=job.config.batch_size,
        image_size=job.image_size,
        at_least=at_least,
    )
    if learner.accumulate > 1 and job.accelerator.is_first:
        job.progress.say(
            f"fold {job.fold}: accel.accumulate={learner.accumulate}, which the memory of "
            f"{job.accelerator.describe()} needs for batch_size={job.config.batch_size}"
        )


def fit_memory(learner: Learner, *, batch_size: int, image_size: int, at_least: int = 1) -> int:
    """The number of micro-batches that a step of all ranks' `batch_size` pictures needs.

    From `at_least` on it is doubled until a step on black pictures of `image_size` px fits; of all
    ranks the largest counts. The learner, not trained yet, is left as it was.

    Raises:
        ValueError: not even one picture at a time fits.
    """
    accelerator = learner.accelerator
    share = -(-batch_size // accelerator.world_size)
    doubled = (at_least << times for times in range(share.bit_length() + 1))
    candidates = sorted({min(share, count) for count in doubled})
    before = copy.deepcopy(on_cpu(learner.state()))
    tried = (
        place
        for place, count in enumerate(candidates)
        if _fits(learner, -(-share // count), image_size, several=count > 1)
    )
    found = _largest(accelerator, next(tried, len(candidates)), len(candidates))
    learner.load_state(before)
    if found == len(candidates):
        raise ValueError(
            f"image_size={image_size}: not even one picture at a time fits the device's memory; "
            "lower it, set model.grad_checkpointing=true, or choose a smaller model.name"
        )
    return candidates[found]


def _largest(accelerator: Accelerator, place: int, places: int) -> int:
    """The largest of all ranks' `place`, from 0 to `places`."""
    chosen = np.zeros(places + 1)
    chosen[place] = 1
    return int(np.flatnonzero(accelerator.agree(chosen))[-1])


def _fits(learner: Learner, pictures: int, image_size: int, *, several: bool) -> bool:
    """Whether a step whose micro-batches are of `pictures` fits; one rank may fail alone."""
    try:
        _step(learner, pictures, image_size, passes=2 if several else 1)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        return False
    finally:
        _let_go(learner)
    return True


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(
        sign in str(error) for sign in _OUT_OF_MEMORY
    )


def _let_go(learner: Learner) -> None:
    """Free what a step took."""
    learner.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if learner.accelerator.device.type == "cuda":
        torch.cuda.empty_cache()


def _step(learner: Learner, pictures: int, image_size: int, *, passes: int) -> None:
    """A step that takes the memory of a real one, and talks to no other rank."""
    batch = Batch(
        np.zeros((pictures, image_size, image_size, 3), np.uint8), np.zeros(pictures, np.int64)
    )
    learner.model.train()
    for module in learner.model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()  # its statistics would be those of all ranks
    for _ in range(passes):
        _pass(learner, batch)
    learner.update(learner.accelerator.gradient_norm(learner.optimizer))


def _pass(learner: Learner, batch: Batch) -> None:
    accelerator = learner.accelerator
    inputs = learner.inputs(batch)
    with accelerator.autocast():
        logits: Any = learner.model(inputs)
    target = accelerator.tensor(batch.records)
    sums, _ = learner.objective.training_sums(logits, target)
    accelerator.backward(sums / len(batch.records))
