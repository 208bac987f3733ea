"""Which records make which batch: pure functions of seed and epoch."""

import numpy as np
from numpy.typing import NDArray

Records = NDArray[np.int64]


def training_batches(records: Records, *, batch_size: int, seed: int, epoch: int) -> list[Records]:
    """The records of each batch of an epoch (from 0), shuffled; a last, smaller batch is dropped.

    Raises ValueError where not even one batch can be filled.
    """
    if len(records) < batch_size:
        raise ValueError(
            f"batch_size={batch_size}: is larger than the {len(records)} records that one fold "
            f"trains on; set at most {len(records)}"
        )
    order = np.random.default_rng((seed, epoch)).permutation(np.sort(records))
    steps = len(records) // batch_size
    return list(order[: steps * batch_size].reshape(steps, batch_size))


def evaluation_batches(records: Records, *, batch_size: int) -> list[Records]:
    """All records in order, each once; the last batch may be smaller."""
    starts = range(0, len(records), batch_size)
    return [records[start : start + batch_size] for start in starts]
