import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dr.accel.base import Accelerator
from dr.accel.choice import choose_accelerator
from dr.accel.cpu import CPU, computes_bfloat16
from dr.accel.cuda import CUDA
from dr.compose import compose
from dr.config import AccelConfig, FindLrConfig, PredictConfig
from dr.predict import main as predict
from dr.training.lr_range import find_lr

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
NO_XLA = pytest.mark.skipif(
    importlib.util.find_spec("torch_xla") is not None, reason="needs to lack torch-xla"
)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@NO_CUDA
def test_auto_takes_the_cpu_where_there_is_no_cuda() -> None:
    assert isinstance(choose_accelerator(AccelConfig()), CPU)


@NO_CUDA
def test_cuda_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="accel=cuda: torch sees no CUDA device here; use"):
        choose_accelerator(AccelConfig(name="cuda"))


@NO_XLA
def test_tpu_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match=r"accel=tpu: torch-xla is not .*constraints-tpu\.txt"):
        choose_accelerator(AccelConfig(name="tpu"))


def test_the_cpu_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match=r"accel\.precision=float16"):
        choose_accelerator(AccelConfig(name="cpu", precision="float16"))


def test_what_is_left_open_follows_the_machine() -> None:
    cpu = CPU(AccelConfig(name="cpu"))
    assert cpu.precision == ("bfloat16" if computes_bfloat16() else "float32")
    assert cpu.channels_last
    plain = CPU(AccelConfig(name="cpu", precision="float32", channels_last=False))
    assert (plain.precision, plain.channels_last) == ("float32", False)


def test_threads_are_set_and_described() -> None:
    wanted = min(2, os.cpu_count() or 1)
    cpu = CPU(AccelConfig(name="cpu", threads=wanted))
    assert torch.get_num_threads() == wanted
    assert f"{wanted} threads" in cpu.describe()


@pytest.mark.parametrize("channels_last", [True, False])
def test_pictures_keep_their_values_in_either_layout(channels_last: bool) -> None:
    cpu = CPU(AccelConfig(name="cpu", channels_last=channels_last))
    images = torch.randint(0, 256, (2, 5, 4, 3), dtype=torch.uint8)
    pictures = cpu.pictures(images)
    assert pictures.dtype == torch.float32
    torch.testing.assert_close(pictures, images.permute(0, 3, 1, 2).float() / 255)
    assert pictures.is_contiguous(memory_format=torch.channels_last) == channels_last


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_model_computes_in_the_precision(precision: str) -> None:
    cpu = CPU(AccelConfig(name="cpu", precision=precision))
    with cpu.autocast():
        out = torch.nn.Linear(4, 2)(torch.ones(1, 4))
    assert str(out.dtype) == f"torch.{precision}"


def backward_and_step(
    accelerator: Accelerator,
    loss: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    *,
    clip_norm: float | None = None,
) -> None:
    accelerator.backward(loss)
    norm = accelerator.gradient_norm(optimizer)
    accelerator.update(optimizer, norm=norm, clip_norm=clip_norm)


def test_a_step_is_that_of_the_optimizer_and_clears_the_gradients() -> None:
    cpu = CPU(AccelConfig(name="cpu"))
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    backward_and_step(cpu, (weight**2).sum(), optimizer)
    assert weight.tolist() == [2.0 - 0.5 * 4.0]
    assert weight.grad is None


@pytest.mark.parametrize(("clip_norm", "scale"), [(None, 1.0), (100.0, 1.0), (1.0, 1 / 13)])
@pytest.mark.parametrize("scaled", [False, True])
def test_gradients_are_clipped_by_the_norm_of_all_groups_together(
    clip_norm: float | None, scale: float, scaled: bool
) -> None:
    one, other = torch.nn.Parameter(torch.tensor([0.0])), torch.nn.Parameter(torch.zeros(2))
    groups = [{"params": [one]}, {"params": [other], "lr": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    loss = 12 * one.sum() + (other * torch.tensor([3.0, 4.0])).sum()  # a gradient of norm 13
    accelerator: Accelerator = CPU(AccelConfig(name="cpu"))
    if scaled:  # float16's way, with a scaler that works without a GPU
        accelerator = object.__new__(CUDA)
        accelerator._scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    backward_and_step(accelerator, loss, optimizer, clip_norm=clip_norm)
    torch.testing.assert_close(one.detach(), torch.tensor([-12 * scale]))
    torch.testing.assert_close(other.detach(), -0.5 * scale * torch.tensor([3.0, 4.0]))


def test_one_rank_is_all_ranks() -> None:
    cpu = CPU(AccelConfig(name="cpu"))
    values = np.array([1.0, 2.0])
    assert cpu.agree(values) is values
    assert cpu.collect((values,)) == (values,)
    assert cpu.share(np.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert cpu.launch(lambda accelerator, data: (accelerator, data), 3) == (cpu, 3)
    assert cpu.figures([torch.tensor(1.5), torch.tensor(2)]) == [1.5, 2.0]


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[Accelerator]:
    """The accelerators that were let go of."""
    closed: list[Accelerator] = []
    monkeypatch.setattr(CPU, "close", lambda self: closed.append(self))
    return closed


def test_a_range_test_that_fails_lets_go_of_the_device(
    closed: list[Accelerator], tiny_overrides: list[str]
) -> None:
    config = compose("find_lr", FindLrConfig, [*tiny_overrides, "fold=99"])
    with pytest.raises(ValueError, match="fold"):
        find_lr(config)
    assert len(closed) == 1


def test_a_prediction_that_fails_lets_go_of_the_device(
    closed: list[Accelerator], tiny_photographs: Path, tmp_path: Path
) -> None:
    given = [f"run={tmp_path}", f"images={tiny_photographs}", f"out={tmp_path / 'a.csv'}"]
    with pytest.raises(ValueError, match=r"holds no config\.yaml"):
        predict(compose("predict", PredictConfig, [*given, "accel=cpu"]))
    assert len(closed) == 1
