import gc
import threading

import numpy as np
import torch

from dr.loading.buffers import BufferPool

SHAPE = (4, 8, 8, 3)


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_a_released_buffer_is_lent_again() -> None:
    pool = BufferPool(keep=2)
    first = pool.lend(SHAPE)
    place = address(first)
    del first
    assert address(pool.lend(SHAPE)) == place


def test_what_is_held_is_never_lent_again() -> None:
    pool = BufferPool(keep=4)
    held = [pool.lend(SHAPE) for _ in range(6)]
    for number, array in enumerate(held):
        array[:] = number
    assert len({address(array) for array in held}) == 6
    assert all((array == number).all() for number, array in enumerate(held))


def test_views_tensors_and_memoryviews_hold_it() -> None:
    pool = BufferPool(keep=4)
    holders = []
    for number, view in enumerate(
        (
            lambda lent: lent[1:2],
            lambda lent: lent[..., ::-1].transpose(0, 3, 1, 2),
            lambda lent: torch.from_numpy(lent),
            lambda lent: torch.from_numpy(lent)[2].permute(2, 0, 1),
            memoryview,
            lambda lent: lent.view(np.int8)[0],
        )
    ):
        lent = pool.lend(SHAPE)
        lent[:] = number
        holders.append(view(lent))
        del lent
    gc.collect()
    for _ in range(10):
        pool.lend(SHAPE)[:] = 99
    assert all((np.asarray(holder) == number).all() for number, holder in enumerate(holders))


def test_a_smaller_one_comes_out_of_a_larger_and_a_larger_is_new() -> None:
    pool = BufferPool(keep=4)
    large = pool.lend(SHAPE)
    place = address(large)
    del large
    small = pool.lend((1, 8, 8, 3))
    assert (small.shape, address(small)) == ((1, 8, 8, 3), place)
    assert pool.lend((9, 8, 8, 3)).shape == (9, 8, 8, 3)
    assert pool.lend((0, 8, 8, 3)).shape == (0, 8, 8, 3)


def test_no_more_than_keep_unused_ones_are_kept() -> None:
    pool = BufferPool(keep=2)
    held = [pool.lend(SHAPE) for _ in range(5)]
    held.clear()
    assert len(pool._free) == 2


def test_the_smallest_that_suffices_is_lent_and_the_largest_are_kept() -> None:
    pool, sizes = BufferPool(keep=3), (1, 9, 3, 7, 5)
    held = {size: pool.lend((size, 8, 8, 3)) for size in sizes}
    places = {size: address(array) for size, array in held.items()}
    held.clear()
    assert [len(buffer) // 192 for buffer in pool._free] == [5, 7, 9]
    again = [pool.lend((size, 8, 8, 3)) for size in (6, 2, 8)]
    assert [address(array) for array in again] == [places[size] for size in (7, 5, 9)]


def test_many_threads_never_share_one() -> None:
    pool, wrong = BufferPool(keep=3), []

    def use(number: int) -> None:
        for _ in range(300):
            lent = pool.lend(SHAPE)
            lent[:] = number
            if not (lent == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
