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


@dataclass(frozen=True)
class Balance:
    """How far the grades of an epoch are evened out.

    `grade_of`: int64 `[all records]`, the grade of a record number; `strength`: above 0, up to 1.
    A grade's part of an epoch (of each source's part) is proportional to the number of its records
    to the power of 1 - `strength`: with 1 each grade comes as often as another.
    """

    grade_of: Records
    strength: float


def training_batches(
    records: Records,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    mixture: Mixture | None = None,
    balance: Balance | None = None,
) -> list[Records]:
    """The records of each batch of an epoch (from 0), shuffled; a last, smaller batch is dropped.

    Without `mixture` and `balance` an epoch is a permutation of `records`. With either it is as
    long, but each source and grade gives its part, within one record. Their own records come in
    a seeded permutation that goes on from epoch to epoch: none comes again before all came once.
    So that a record that comes again within an epoch is augmented anew, the second time it is
    numbered on by the number of all records, the third time by twice that, and so on.

    Raises ValueError where not even one batch can be filled, or a source that has a weight, or one
    of its grades, gives no record.
    """
    if len(records) < batch_size:
        raise ValueError(
            f"batch_size={batch_size}: is larger than the {len(records)} records that one fold "
            f"trains on; set at most {len(records)}"
        )
    steps = len(records) // batch_size
    length = steps * batch_size
    if mixture is None and balance is None:
        order = np.random.default_rng((seed, epoch)).permutation(np.sort(records))[:length]
    else:
        parts = _parts(np.sort(records), length, mixture, balance)
        order = _mixed_order(parts, seed=seed, epoch=epoch)
        order += _all_records(mixture, balance) * _times_before(order)
    return list(order.reshape(steps, batch_size))


@dataclass(frozen=True)
class _Part:
    """Of `records`, `count` come in an epoch; `key` tells the part from all others."""

    key: tuple[int, ...]
    records: Records
    count: int


def _all_records(mixture: Mixture | None, balance: Balance | None) -> int:
    if balance is not None:
        return len(balance.grade_of)
    assert mixture is not None
    return len(mixture.source_of)


def _parts(
    records: Records, length: int, mixture: Mixture | None, balance: Balance | None
) -> list[_Part]:
    parts = [_Part((), records, length)]
    if mixture is not None:
        counts = source_counts(records, mixture, length)
        found = [records[mixture.source_of[records] == source] for source in range(len(counts))]
        parts = [_Part((number,), own, counts[number]) for number, own in enumerate(found)]
    if balance is None:
        return parts
    return [graded for part in parts if part.count for graded in _by_grade(part, balance)]


def _by_grade(part: _Part, balance: Balance) -> list[_Part]:
    grades = balance.grade_of[part.records]
    counts = grade_counts(np.bincount(grades), balance.strength, part.count)
    return [
        _Part((*part.key, grade), part.records[grades == grade], count)
        for grade, count in enumerate(counts)
        if count
    ]


def grade_counts(held: NDArray[np.int64], strength: float, length: int) -> list[int]:
    """How many of `length` records each grade gives, of which `held` int64 `[G]` there are.

    The largest remainders are rounded up, and every grade that is held gives one at least. Raises
    ValueError where there are more of those than records to give.
    """
    present = int(np.count_nonzero(held))
    if length < present:
        raise ValueError(
            f"balance={strength}: {present} grades cannot share the {length} records that a "
            "source gives to an epoch; raise its weight, or set balance=0"
        )
    amounts = [
        Fraction(count ** (1 - strength)) if count else Fraction(0) for count in held.tolist()
    ]
    counts = _apportioned(amounts, length)
    for grade in np.flatnonzero(held).tolist():
        if not counts[grade]:
            counts[counts.index(max(counts))] -= 1
            counts[grade] = 1
    return counts


def _mixed_order(parts: Sequence[_Part], *, seed: int, epoch: int) -> Records:
    slots = np.repeat(np.arange(len(parts)), [part.count for part in parts])
    slots = np.random.default_rng((seed, epoch)).permutation(slots)
    order = np.empty(len(slots), dtype=np.int64)
    for number, part in enumerate(parts):
        key = (seed, _CYCLE, *part.key)
        order[slots == number] = _cycled(part.records, epoch * part.count, part.count, key=key)
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
    counts = _apportioned([Fraction(weight) for weight in mixture.weights], length)
    held = np.bincount(mixture.source_of[records], minlength=len(counts))
    for number, weight in enumerate(mixture.weights):
        if weight and not (counts[number] and held[number]):
            raise ValueError(
                f"source_weights={list(mixture.weights)}: source number {number + 1} would give "
                f"{counts[number]} of an epoch's {length} records and holds {held[number]} that "
                "one fold trains on; change its weight"
            )
    return counts


def _apportioned(weights: Sequence[Fraction], length: int) -> list[int]:
    """Whole numbers in the ratio of `weights`, `length` in all: the largest remainders go up."""
    shares = [length * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda number: counts[number] - shares[number])
    for number in by_remainder[: length - sum(counts)]:
        counts[number] += 1
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
