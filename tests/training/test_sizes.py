"""The training size of each epoch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr.training.sizes import STEP, Growth


def test_sizes_lie_on_a_line_at_multiples_of_32() -> None:
    growth = Growth(start=128, end=224, percent=80, epochs=10)
    sizes = [growth.image_size_at(epoch) for epoch in range(10)]
    assert sizes == [128, 128, 160, 160, 192, 192, 192, 224, 224, 224]
    assert growth.sizes == (128, 160, 192, 224)


@pytest.mark.parametrize(
    ("epochs", "percent", "sizes"),
    [(1, 80, [64]), (2, 100, [40, 64]), (2, 1, [40, 64]), (4, 50, [40, 64, 64, 64])],
)
def test_the_first_epoch_is_small_and_the_last_of_the_full_size(
    epochs: int, percent: float, sizes: list[int]
) -> None:
    growth = Growth(start=40, end=64, percent=percent, epochs=epochs)
    assert [growth.image_size_at(epoch) for epoch in range(epochs)] == sizes


@given(st.integers(8, 600), st.integers(1, 600), st.floats(0.1, 100), st.integers(2, 80))
def test_sizes_never_fall_and_stay_within_reach_of_the_line(
    start: int, more: int, percent: float, epochs: int
) -> None:
    growth = Growth(start=start, end=start + more, percent=percent, epochs=epochs)
    sizes = [growth.image_size_at(epoch) for epoch in range(epochs)]
    assert (sizes[0], sizes[-1]) == (start, start + more)
    assert sizes == sorted(sizes)
    assert tuple(dict.fromkeys(sizes)) == growth.sizes
    full = min(epochs * percent / 100, epochs - 1)
    for epoch, size in enumerate(sizes):
        line = start + more * min(1, epoch / full)
        assert abs(size - line) <= STEP / 2
        assert size in (start, start + more) or size % STEP == 0
