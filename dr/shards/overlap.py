"""Photographs that two sets of shards both hold."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dr.fundus.signature import ALIKE, NORM
from dr.shards.duplicates import are_signed, read_signatures
from dr.shards.shard_set import ShardSet

_TILE = 1024


class Overlap(NamedTuple):
    """Record numbers of one set, int64: `same` files are in the other set, `alike` ones may be.

    Alike are pictures that look like copies and, where there are such, records of the same name
    and patient. Of shards without signatures these are all that is known: `by_name`.
    """

    same: NDArray[np.int64]
    alike: NDArray[np.int64]
    by_name: bool


def find_overlap(shards: ShardSet, other: ShardSet) -> Overlap:
    """The records of `shards` whose photographs are in `other` too.

    The time grows with the product of their sizes where both have signatures. Raises ValueError
    where signatures are missing or changed.
    """
    own, others = _signatures(shards), _signatures(other)
    named = _named_alike(shards, other)
    if own is None or others is None:
        return Overlap(np.arange(0), np.flatnonzero(named), by_name=True)
    same = np.isin(_digests(own), _digests(others))
    alike = np.concatenate(list(_alike(own["picture"], others["picture"]))) & ~same
    if alike.any():
        alike |= named & ~same
    return Overlap(np.flatnonzero(same), np.flatnonzero(alike), by_name=False)


def _named_alike(shards: ShardSet, other: ShardSet) -> NDArray[np.bool_]:
    known = set(zip(other.table["name"], other.table["patient"], strict=True))
    pairs = zip(shards.table["name"], shards.table["patient"], strict=True)
    return np.array([pair in known for pair in pairs], dtype=bool)


def _signatures(shards: ShardSet) -> NDArray[np.void] | None:
    return read_signatures(shards) if are_signed(shards) else None


def _digests(signatures: NDArray[np.void]) -> NDArray[np.bytes_]:
    return np.ascontiguousarray(signatures["photograph"]).view("S16").ravel()


def _alike(pictures: NDArray[np.int8], others: NDArray[np.int8]) -> Iterator[NDArray[np.bool_]]:
    for top in range(0, len(pictures), _TILE):
        rows = pictures[top : top + _TILE].astype(np.float32)
        found = np.zeros(len(rows), dtype=bool)
        for left in range(0, len(others), _TILE):
            products = rows @ others[left : left + _TILE].astype(np.float32).T
            found |= (products >= ALIKE * NORM**2).any(axis=1)
        yield found
