import os
from typing import Any

import numpy as np
import pytest
import rank_tasks
import torch

from dr.accel.base import Accelerator
from dr.accel.choice import choose_accelerator
from dr.accel.cpu import CPU
from dr.config import AccelConfig

LOSSES = 2e-5
"""Sums of float32 in another order differ by a few 1e-7 of a value; AdamW's first steps, which
divide a gradient by its own size, carry that into the weights, and a dozen steps add it up."""
STEPS = 12


def alone() -> Accelerator:
    return CPU(AccelConfig(name="cpu", precision="float32", channels_last=False))


def test_ranks_have_a_place_and_their_share_of_the_machine(two_ranks: Accelerator) -> None:
    assert (two_ranks.world_size, two_ranks.devices, two_ranks.is_first) == (1, 2, True)
    ranks = two_ranks.launch(rank_tasks.place, None)
    processes, numbers, counts, threads, local, levels = zip(*ranks, strict=True)
    assert os.getpid() not in processes
    assert (numbers, counts, local, threads) == ((0, 1), (2, 2), ("2", "2"), (1, 1))
    assert levels == (20, 30)
    assert two_ranks.describe().startswith("2 x cpu (")


@pytest.mark.parametrize("count", [2, 4])
def test_ranks_talk_about_host_arrays(
    count: int, two_ranks: Accelerator, four_ranks: Accelerator
) -> None:
    heard = {2: two_ranks, 4: four_ranks}[count].launch(rank_tasks.talk, None)
    total = [count, sum(10.0**rank for rank in range(count)), count * 2.0**-40]
    assert heard["total"].tolist() == total
    shares, ranks = heard["joined"]
    assert shares.tolist() == list(range(100, 111))
    assert ranks.shape == (11, 2)
    assert np.bincount(ranks[:, 0]).tolist() == [len(p) for p in np.array_split(range(11), count)]
    assert heard["words"][0].tolist() == ["of rank 0"] * count


CASES: list[dict[str, Any]] = [
    {"model": "toy", "batch": 11},
    {"model": "toy", "batch": 13, "accumulate": 2, "clip_norm": 0.1, "freeze": 4},
    {"model": "test_efficientnet", "batch": 10},
]


@pytest.mark.parametrize("case", CASES, ids=["toy", "toy in parts, half frozen", "efficientnet"])
def test_ranks_learn_what_one_process_learns(
    case: dict[str, Any], two_ranks: Accelerator, four_ranks: Accelerator
) -> None:
    case = {"steps": STEPS, **case}
    # In parts BatchNorm sees each part alone, and one process's parts are others than the ranks'.
    one = None if "accumulate" in case else rank_tasks.train(alone(), case)
    found = [ranks.launch(rank_tasks.train, case) for ranks in (two_ranks, four_ranks)]
    for ranks in found:
        assert len(set(ranks["losses"])) == STEPS
        assert (ranks["everyone"][0] == ranks["everyone"][0][0]).all()
        if one is not None:
            np.testing.assert_allclose(ranks["losses"], one["losses"], rtol=LOSSES)
            np.testing.assert_allclose(ranks["norms"], one["norms"], rtol=LOSSES)
            model = rank_tasks.build(case["model"])
            model.load_state_dict(ranks["state"])


def test_parts_and_ranks_are_the_same_division(two_ranks: Accelerator) -> None:
    case = {"model": "plain", "batch": 12, "steps": STEPS, "clip_norm": 0.1}
    one = rank_tasks.train(alone(), case)
    parts = two_ranks.launch(rank_tasks.train, {**case, "accumulate": 3})
    np.testing.assert_allclose(parts["losses"], one["losses"], rtol=LOSSES)
    np.testing.assert_allclose(parts["norms"], one["norms"], rtol=LOSSES)


def test_two_ranks_repeat_themselves_to_the_bit(two_ranks: Accelerator) -> None:
    case = {"model": "toy", "batch": 11, "steps": 4}
    one, other = (two_ranks.launch(rank_tasks.train, case) for _ in range(2))
    assert one["losses"] == other["losses"]
    for name, value in one["state"].items():
        assert torch.equal(value, other["state"][name]), name


def test_torchrun_and_devices_may_not_contradict(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"accel\.devices=3: torchrun started 2 process"):
        choose_accelerator(AccelConfig(name="cpu", devices=3))
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ValueError, match=r"accel\.devices=2: torchrun started 1 process"):
        choose_accelerator(AccelConfig(name="cpu", devices=2))
    assert choose_accelerator(AccelConfig(name="cpu")).devices == 1


def test_more_ranks_than_cores_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    many = (os.cpu_count() or 1) * 2
    accelerator = choose_accelerator(AccelConfig(name="cpu", devices=many))
    assert f"accel.devices={many}: are more ranks than the" in caplog.text
    assert ", 1 threads)" in accelerator.describe()
    accelerator.close()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_ends_ranks_that_wait_for_an_answer(rank: int, two_ranks: Accelerator) -> None:
    with pytest.raises(ValueError, match=f"^batch_size: rank {rank} has had enough; set less$"):
        two_ranks.launch(rank_tasks.fail_while_others_wait, rank)
