"""The order of records: a permutation that seed and epoch decide."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dr.loading.sampler import (
    Balance,
    Mixture,
    evaluation_batches,
    grade_counts,
    source_counts,
    training_batches,
)

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


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[np.ndarray, Mixture]:
    """Some records of two to four sources, and weights that leave none of an epoch out."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=2, max_size=4))
    weights = draw(
        st.lists(st.floats(1, 8), min_size=len(sizes), max_size=len(sizes))
        | st.lists(st.integers(1, 8), min_size=len(sizes), max_size=len(sizes))
    )
    source_of = np.repeat(np.arange(len(sizes)), sizes)
    taken = draw(st.lists(st.booleans(), min_size=len(source_of), max_size=len(source_of)))
    records = np.flatnonzero(np.array(taken) | (np.diff(source_of, prepend=-1) > 0))
    return records, Mixture(source_of, tuple(weights))


def mixed(
    drawn: tuple[np.ndarray, Mixture], *, size: int, seed: int, epochs: range
) -> list[np.ndarray]:
    records, mixture = drawn
    found = [
        training_batches(records, batch_size=size, seed=seed, epoch=epoch, mixture=mixture)
        for epoch in epochs
    ]
    assert all({len(batch) for batch in batches} == {size} for batches in found)
    draws = [np.concatenate(batches) for batches in found]
    assert all(len(np.unique(numbers)) == len(numbers) for numbers in draws)
    return [numbers % len(mixture.source_of) for numbers in draws]


def can_fill(drawn: tuple[np.ndarray, Mixture], size: int) -> bool:
    length = len(drawn[0]) // size * size
    shares = length * np.array(drawn[1].weights) / sum(drawn[1].weights)
    return bool(length and (shares >= 1).all())


@given(mixtures(), st.integers(1, 7), st.integers(0, 99), st.integers(0, 50))
def test_each_source_gives_its_share_of_an_epoch_within_one_record(
    drawn: tuple[np.ndarray, Mixture], size: int, seed: int, epoch: int
) -> None:
    assume(can_fill(drawn, size))
    (order,) = mixed(drawn, size=size, seed=seed, epochs=range(epoch, epoch + 1))
    records, mixture = drawn
    assert len(order) == len(records) // size * size
    assert np.isin(order, records).all()
    given_ = np.bincount(mixture.source_of[order], minlength=len(mixture.weights))
    shares = len(order) * np.array(mixture.weights) / sum(mixture.weights)
    assert (np.abs(given_ - shares) < 1 + 1e-9).all()
    assert given_.tolist() == source_counts(records, mixture, len(order))


@given(mixtures(), st.integers(1, 7), st.integers(0, 99), st.integers(0, 9))
def test_no_record_of_a_source_comes_again_before_all_came_once(
    drawn: tuple[np.ndarray, Mixture], size: int, seed: int, first: int
) -> None:
    assume(can_fill(drawn, size))
    records, mixture = drawn
    stream = np.concatenate(mixed(drawn, size=size, seed=seed, epochs=range(first + 4)))
    for source in range(len(mixture.weights)):
        own = records[mixture.source_of[records] == source]
        came = stream[mixture.source_of[stream] == source]
        for start in range(0, len(came), len(own)):
            cycle = came[start : start + len(own)]
            assert len(np.unique(cycle)) == len(cycle)
            assert len(cycle) < len(own) or np.array_equal(np.sort(cycle), own)


@given(mixtures(), st.integers(0, 99), st.integers(0, 9), st.data())
def test_a_mixed_epoch_is_a_function_of_seed_and_epoch(
    drawn: tuple[np.ndarray, Mixture], seed: int, epoch: int, data: st.DataObject
) -> None:
    assume(can_fill(drawn, 1))
    records, mixture = drawn
    (order,) = mixed(drawn, size=1, seed=seed, epochs=range(epoch, epoch + 1))
    shuffled = np.array(data.draw(st.permutations(records.tolist())))
    (again,) = mixed((shuffled, mixture), size=1, seed=seed, epochs=range(epoch, epoch + 1))
    assert np.array_equal(order, again)


def test_sources_are_shuffled_among_one_another_and_orders_differ() -> None:
    mixture = Mixture(np.repeat([0, 1], 50), (1.0, 3.0))
    orders = mixed((np.arange(100), mixture), size=10, seed=0, epochs=range(6))
    assert len({tuple(order.tolist()) for order in orders}) == 6
    halves = [np.bincount(mixture.source_of[order[:50]], minlength=2)[1] for order in orders]
    assert all(25 < half < 50 for half in halves)


def test_a_record_that_comes_again_in_an_epoch_has_a_number_of_its_own() -> None:
    records, mixture = np.arange(1, 9), Mixture(np.array([0] * 8 + [1]), (1.0, 3.0))
    order = training_batches(records, batch_size=8, seed=0, epoch=3, mixture=mixture)[0]
    again = order[order % 9 == 8]
    assert again.tolist() == [8 + 9 * time for time in range(6)]


def test_without_a_mixture_the_plan_is_a_plain_permutation() -> None:
    records = np.arange(3, 60, 2)
    plain = np.concatenate(training_batches(records, batch_size=4, seed=5, epoch=2))
    expected = np.random.default_rng((5, 2)).permutation(records)
    assert np.array_equal(plain, expected[:28])


def test_a_source_of_weight_0_is_left_out_and_one_that_would_be_is_refused() -> None:
    source_of, records = np.repeat([0, 1], 5), np.arange(10)
    (order,) = mixed((records, Mixture(source_of, (0, 2))), size=5, seed=0, epochs=range(1))
    assert sorted(order) == sorted([*range(5, 10)] * 2)
    with pytest.raises(ValueError, match=r"source number 1 would give 0 of an epoch's 10"):
        source_counts(records, Mixture(source_of, (1, 1000)), 10)
    with pytest.raises(ValueError, match=r"source number 2 .*holds 0 that one fold trains on"):
        source_counts(records[:5], Mixture(source_of, (1, 1)), 4)


@st.composite
def balanced(draw: st.DrawFn) -> tuple[np.ndarray, Balance]:
    """Some records of one to five grades, each held by some, and a strength."""
    held = draw(st.lists(st.integers(0, 40), min_size=5, max_size=5).filter(any))
    grades = np.random.default_rng(draw(st.integers(0, 99))).permutation(np.repeat(range(5), held))
    taken = np.array(draw(st.lists(st.booleans(), min_size=len(grades), max_size=len(grades))))
    first = np.isin(np.arange(len(grades)), np.unique(grades, return_index=True)[1])
    strength = draw(st.floats(0.01, 1))
    return np.flatnonzero(taken | first), Balance(grades, strength)


def balanced_orders(
    records: np.ndarray, balance: Balance, *, size: int, epochs: int, mixture: Mixture | None = None
) -> list[np.ndarray]:
    found = [
        np.concatenate(
            training_batches(
                records, batch_size=size, seed=3, epoch=epoch, balance=balance, mixture=mixture
            )
        )
        for epoch in range(epochs)
    ]
    assert all(len(np.unique(numbers)) == len(numbers) for numbers in found)
    return [numbers % len(balance.grade_of) for numbers in found]


@given(balanced(), st.integers(1, 7))
def test_a_grade_comes_in_proportion_to_a_power_of_its_count(
    drawn: tuple[np.ndarray, Balance], size: int
) -> None:
    records, balance = drawn
    length = len(records) // size * size
    assume(length >= 5)
    (order,) = balanced_orders(records, balance, size=size, epochs=1)
    assert len(order) == length
    assert np.isin(order, records).all()
    held = np.bincount(balance.grade_of[records], minlength=5)
    powers = np.where(held, held.astype(float) ** (1 - balance.strength), 0)
    shares = length * powers / powers.sum()
    came = np.bincount(balance.grade_of[order], minlength=5)
    lifted = (came == 1) & (shares < 1)
    assert (np.abs(came - shares)[~lifted] <= 1 + lifted.sum()).all()
    assert ((came > 0) == (held > 0)).all()


@given(balanced(), st.integers(1, 7))
def test_no_record_of_a_grade_comes_again_before_all_came_once(
    drawn: tuple[np.ndarray, Balance], size: int
) -> None:
    records, balance = drawn
    assume(len(records) // size * size >= 5)
    stream = np.concatenate(balanced_orders(records, balance, size=size, epochs=4))
    for grade in np.unique(balance.grade_of[records]):
        own = records[balance.grade_of[records] == grade]
        came = stream[balance.grade_of[stream] == grade]
        for start in range(0, len(came), len(own)):
            cycle = came[start : start + len(own)]
            assert len(np.unique(cycle)) == len(cycle)
            assert len(cycle) < len(own) or np.array_equal(np.sort(cycle), own)


def test_full_balance_draws_every_grade_alike_and_numbers_what_comes_again_anew() -> None:
    grades = np.repeat([0, 1, 2, 3, 4], [70, 10, 10, 5, 5])
    batches = training_batches(
        np.arange(100), batch_size=10, seed=0, epoch=1, balance=Balance(grades, 1.0)
    )
    order = np.concatenate(batches)
    assert np.bincount(grades[order % 100]).tolist() == [20] * 5
    assert sorted(order[grades[order % 100] == 4]) == [
        record + 100 * time for time in range(4) for record in range(95, 100)
    ]
    again = training_batches(
        np.arange(100)[::-1], batch_size=10, seed=0, epoch=1, balance=Balance(grades, 1.0)
    )
    assert np.array_equal(batches, again)
    assert len({tuple(np.sort(grades[batch % 100])) for batch in batches}) > 1


def test_each_source_is_balanced_by_itself_and_keeps_its_part() -> None:
    source_of = np.repeat([0, 1], [60, 60])
    grades = np.concatenate([np.repeat(range(5), [40, 5, 5, 5, 5]), np.repeat([0, 1], [50, 10])])
    mixture, balance = Mixture(source_of, (1.0, 2.0)), Balance(grades, 1.0)
    orders = balanced_orders(np.arange(120), balance, size=6, epochs=2, mixture=mixture)
    for order in orders:
        first, second = order[source_of[order] == 0], order[source_of[order] == 1]
        assert np.bincount(grades[first]).tolist() == [8] * 5
        assert np.bincount(grades[second]).tolist() == [40, 40]


def test_a_rare_grade_always_comes_and_too_few_places_are_refused() -> None:
    held = np.array([1000, 0, 1, 1, 1])
    assert grade_counts(held, 0.01, 100) == [97, 0, 1, 1, 1]
    assert grade_counts(held, 1.0, 4) == [1, 0, 1, 1, 1]
    with pytest.raises(ValueError, match=r"balance=0.5: 4 grades cannot share the 3 records"):
        grade_counts(held, 0.5, 3)
