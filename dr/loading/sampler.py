"""Which records make which batch: pure functions of seed and epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Records = NDArray[np.int64]
_CYCLE = 0x5EED


@dataclass(frozen=True)
class Mixture:
    """How much of an epoch each source gives.

    `source_of`: int64 `[all records]`, the source of a record number, from 0; `weights`: a number
    of at least 0 for each source, not all 0.
    """

    source_of: Records
    weights: tuple[float, ...]


def training_batches(
    records: Records, *, batch_size: int, seed: int, epoch: int, mixture: Mixture | None = None
) -> list[Records]:
    """The records of each batch of an epoch (from 0), shuffled; a last, smaller batch is dropped.

    Without `mixture` an epoch is a permutation of `records`. With it the epoch is as long, but
    each source gives its part by weight, within one record. A source's own records come in a
    seeded permutation that goes on from epoch to epoch: none comes again before all came once.
    So that a record that comes again within an epoch is augmented anew, the second time it is
    numbered on by `len(mixture.source_of)`, the third time by twice that, and so on.

    Raises ValueError where not even one batch can be filled, or a source that has a weight gives
    no record.
    """
    if len(records) < batch_size:
        raise ValueError(
            f"batch_size={batch_size}: is larger than the {len(records)} records that one fold "
            f"trains on; set at most {len(records)}"
        )
    steps = len(records) // batch_size
    if mixture is None:
        order = np.random.default_rng((seed, epoch)).permutation(np.sort(records))
        order = order[: steps * batch_size]
    else:
        order = _mixed_order(records, mixture, steps * batch_size, seed=seed, epoch=epoch)
        order += len(mixture.source_of) * _times_before(order)
    return list(order.reshape(steps, batch_size))


def _mixed_order(
    records: Records, mixture: Mixture, length: int, *, seed: int, epoch: int
) -> Records:
    counts = source_counts(records, mixture, length)
    slots = np.repeat(np.arange(len(counts)), counts)
    slots = np.random.default_rng((seed, epoch)).permutation(slots)
    order = np.empty(length, dtype=np.int64)
    for source, count in enumerate(counts):
        own = np.sort(records[mixture.source_of[records] == source])
        order[slots == source] = _cycled(own, epoch * count, count, key=(seed, _CYCLE, source))
    return order


def _times_before(order: Records) -> Records:
    """How often each entry came before in `order`, int64 of its shape."""
    _, first, inverse = np.unique(order, return_index=True, return_inverse=True)
    if len(first) == len(order):
        return np.zeros_like(order)
    grouped = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[grouped], np.arange(len(first)))
    times = np.empty_like(order)
    times[grouped] = np.arange(len(order)) - starts[inverse[grouped]]
    return times


def source_counts(records: Records, mixture: Mixture, length: int) -> list[int]:
    """How many of `length` records each source gives: by weight, the largest remainders up.

    Raises ValueError where a source with a weight gives none, or has none among `records`.
    """
    weights = [Fraction(weight) for weight in mixture.weights]
    shares = [length * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda source: counts[source] - shares[source])
    for source in by_remainder[: length - sum(counts)]:
        counts[source] += 1
    held = np.bincount(mixture.source_of[records], minlength=len(counts))
    for number, weight in enumerate(mixture.weights):
        if weight and not (counts[number] and held[number]):
            raise ValueError(
                f"source_weights={list(mixture.weights)}: source number {number + 1} would give "
                f"{counts[number]} of an epoch's {length} records and holds {held[number]} that "
                "one fold trains on; change its weight"
            )
    return counts


def _cycled(own: Records, start: int, count: int, *, key: Sequence[int]) -> Records:
    """Entries `start` to `start + count` of endlessly many permutations of `own`, one by one."""
    if not count:
        return own[:0]
    first, last = start // len(own), (start + count - 1) // len(own)
    cycles = [
        np.random.default_rng((*key, cycle)).permutation(own) for cycle in range(first, last + 1)
    ]
    begin = start - first * len(own)
    return np.concatenate(cycles)[begin : begin + count]


def evaluation_batches(records: Records, *, batch_size: int) -> list[Records]:
    """All records in order, each once; the last batch may be smaller."""
    starts = range(0, len(records), batch_size)
    return [records[start : start + batch_size] for start in starts]
