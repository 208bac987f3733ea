"""What can be told of `accel=cuda` without a GPU: torch.cuda's answers are made up here."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from timm.layers import BatchNormAct2d
from torch import nn

from dr.accel import cuda as module
from dr.accel import device_locks
from dr.accel.choice import choose_accelerator
from dr.accel.cuda import CUDA
from dr.accel.device_locks import Device
from dr.accel.launching import Place, RankPool
from dr.config import AccelConfig


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Three devices, and those that were made the current one."""
    current: list[int] = []
    devices = [Device(index, f"GPU-{index}", "Tesla") for index in range(3)]
    monkeypatch.setattr(module, "visible_devices", lambda: devices)
    monkeypatch.setattr(device_locks, "_lock_folder", lambda: tmp_path / "locks")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    return current


def place(rank: int, *, local_rank: int, local: int = 2) -> Place:
    return Place(rank=rank, world_size=4, local_rank=local_rank, local_world_size=local, port=1)


def test_auto_takes_a_free_device_and_a_precision_it_has(chosen: list[int]) -> None:
    with choose_accelerator(AccelConfig()) as accelerator:
        assert (accelerator.name, accelerator.device) == ("cuda", torch.device("cuda", 0))
        assert (accelerator.precision, accelerator.channels_last) == ("float32", False)
        assert (chosen, accelerator.describe()) == ([0], "cuda (Tesla)")


def test_the_parent_of_ranks_takes_their_devices(chosen: list[int]) -> None:
    with choose_accelerator(AccelConfig(name="cuda", devices=2)) as accelerator:
        assert isinstance(accelerator, CUDA)
        assert [device.index for device in accelerator.chosen] == [0, 1]
        assert isinstance(accelerator._team, RankPool)
        assert accelerator.describe() == "2 x cuda (Tesla)"
    assert accelerator._held is not None
    assert not accelerator._held.locks


def test_more_devices_than_are_visible_are_refused(chosen: list[int]) -> None:
    with pytest.raises(ValueError, match=r"accel\.devices=4: torch sees 3 CUDA device\(s\)"):
        choose_accelerator(AccelConfig(name="cuda", devices=4))


def test_a_rank_sits_on_the_device_of_its_place(
    chosen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[tuple[Place, str]] = []
    monkeypatch.setattr(CUDA, "join", lambda self, place, backend: joined.append((place, backend)))
    given = (Device(2, "GPU-2", "Tesla"), Device(0, "GPU-0", "Tesla"))
    spawned = CUDA(AccelConfig(name="cuda", devices=2), place(1, local_rank=1), given)
    assert (spawned.device.index, spawned._held) == (0, None)
    first = CUDA(AccelConfig(name="cuda"), place(2, local_rank=0))
    other = CUDA(AccelConfig(name="cuda"), place(3, local_rank=1))
    assert (first.device.index, other.device.index) == (0, 1)
    assert first._held is not None
    assert [device.index for device in first._held.devices] == [0, 1]
    assert other._held is None
    assert chosen == [0, 0, 1]
    assert {backend for _, backend in joined} == {"cpu:gloo,cuda:nccl"}
    first.close()


def test_torchruns_processes_sit_on_different_devices_though_one_is_busy(
    chosen: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(CUDA, "join", lambda self, place, backend: None)
    (tmp_path / "locks").mkdir()
    config = AccelConfig(name="cuda", exclusive=False)
    with FileLock(tmp_path / "locks" / "GPU-0.lock"):
        ranks = [CUDA(config, place(rank, local_rank=rank)) for rank in range(2)]
    assert [rank.device.index for rank in ranks] == [0, 1]
    ranks[0].close()


def test_batchnorm_of_ranks_is_torchs_own_with_the_same_names(chosen: list[int]) -> None:
    with choose_accelerator(AccelConfig(name="cuda")) as accelerator:
        assert isinstance(accelerator, CUDA)
        model = nn.Sequential(BatchNormAct2d(4), nn.BatchNorm2d(4))
        names = list(model.state_dict())
        model = accelerator.synchronised(model)
    assert all(isinstance(layer, nn.SyncBatchNorm) for layer in model)
    assert list(model.state_dict()) == names


@pytest.fixture
def scaled() -> Callable[[], CUDA]:
    """`scaled()`: float16's way, with a scaler that works without a GPU."""

    def make() -> CUDA:
        accelerator = object.__new__(CUDA)
        accelerator._scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        return accelerator

    return make


def step(accelerator: CUDA, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> float:
    accelerator.backward(loss)
    norm = accelerator.gradient_norm(optimizer)
    accelerator.update(optimizer, norm=norm, clip_norm=1.0)
    return float(norm)


def test_the_scalers_state_goes_on(scaled: Callable[[], CUDA]) -> None:
    one, other = scaled(), scaled()
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    for _ in range(3):
        step(one, optimizer, (weight**2).sum())
    assert one.state()["scaler"]["scale"] == 2048.0
    other.load_state(one.state())
    assert other.state() == one.state()
    other.load_state({})
    other.load_state({"scaler": {}})
    assert other.state() == one.state()


def test_an_overflow_is_no_step_and_lowers_the_scale(scaled: Callable[[], CUDA]) -> None:
    accelerator = scaled()
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    norm = step(accelerator, optimizer, (weight * float("inf")).sum())
    assert not norm < float("inf")
    assert weight.tolist() == [2.0]
    assert accelerator.state()["scaler"]["scale"] == 512.0
    step(accelerator, optimizer, weight.sum())
    assert weight.tolist() == pytest.approx([1.5])


def test_gradients_can_be_dropped_after_their_norm_was_taken(scaled: Callable[[], CUDA]) -> None:
    accelerator = scaled()
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    accelerator.backward(weight.sum())
    accelerator.gradient_norm(optimizer)
    accelerator.drop_gradients(optimizer)
    assert weight.grad is None
    assert weight.tolist() == [2.0]
    step(accelerator, optimizer, weight.sum())
    assert weight.tolist() == pytest.approx([1.5])
