"""The order of records: a permutation that seed and epoch decide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr.loading.sampler import evaluation_batches, training_batches

RECORDS = st.sets(st.integers(0, 10_000), min_size=1, max_size=200).map(
    lambda found: np.array(list(found), dtype=np.int64)
)


@given(RECORDS, st.data(), st.integers(0, 2**32), st.integers(0, 100))
def test_an_epoch_is_a_permutation_less_the_rest(
    records: np.ndarray, data: st.DataObject, seed: int, epoch: int
) -> None:
    size = data.draw(st.integers(1, len(records)))
    batches = training_batches(records, batch_size=size, seed=seed, epoch=epoch)
    assert [len(batch) for batch in batches] == [size] * (len(records) // size)
    taken = np.concatenate(batches)
    assert len(np.unique(taken)) == len(taken)
    assert np.isin(taken, records).all()


@given(RECORDS, st.integers(0, 2**32), st.integers(0, 100), st.randoms())
def test_seed_and_epoch_alone_decide_the_order(
    records: np.ndarray, seed: int, epoch: int, random: object
) -> None:
    shuffled = records.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first = training_batches(records, batch_size=1, seed=seed, epoch=epoch)
    second = training_batches(shuffled, batch_size=1, seed=seed, epoch=epoch)
    assert np.array_equal(first, second)


def test_epochs_and_seeds_give_different_orders() -> None:
    records = np.arange(100)
    orders = {
        tuple(np.concatenate(training_batches(records, batch_size=10, seed=s, epoch=e)).tolist())
        for s in range(4)
        for e in range(4)
    }
    assert len(orders) == 16


def test_over_many_epochs_every_record_is_left_out_now_and_then() -> None:
    records = np.arange(7)
    left = [
        set(records.tolist()) - set(np.concatenate(batches).tolist())
        for batches in (
            training_batches(records, batch_size=3, seed=0, epoch=epoch) for epoch in range(60)
        )
    ]
    assert {len(one) for one in left} == {1}
    assert set().union(*left) == set(range(7))


def test_a_batch_larger_than_the_fold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size=8: .*7 records.*at most 7"):
        training_batches(np.arange(7), batch_size=8, seed=0, epoch=0)
    assert len(training_batches(np.arange(7), batch_size=7, seed=0, epoch=0)) == 1


@given(RECORDS, st.integers(1, 300))
def test_evaluation_takes_every_record_once_in_order(records: np.ndarray, size: int) -> None:
    batches = evaluation_batches(records, batch_size=size)
    assert np.array_equal(np.concatenate(batches), records)
    assert all(len(batch) == size for batch in batches[:-1])
    assert 0 < len(batches[-1]) <= size


def test_nothing_to_evaluate_is_no_batch() -> None:
    assert evaluation_batches(np.arange(0), batch_size=4) == []
