import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from dr.accel.cpu import CPU
from dr.checks import check_train
from dr.config import AccelConfig, ObjectiveConfig, TrainConfig
from dr.loading.batches import Batch
from dr.modeling.objectives import build_objective
from dr.training import fold as fold_module
from dr.training.accumulation import fit_memory
from dr.training.checkpoint import load_checkpoint
from dr.training.cross_validation import cross_validate
from dr.training.ema import EMA
from dr.training.learner import Learner
from dr.training.loop import micro_batches

Make = Callable[..., TrainConfig]


class Limited(nn.Module):
    """Takes at most `most` pictures at a time, as a device of that memory would."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.seen = most, list[int]()
        self.layers = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 5))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(pictures))
        if len(pictures) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        logits: torch.Tensor = self.layers(pictures)
        return logits


def learner(most: int) -> Learner:
    torch.manual_seed(0)
    model = Limited(most)
    return Learner(
        model=model,
        objective=build_objective(ObjectiveConfig(name="cross_entropy")),
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.1, fused=True),
        accelerator=CPU(AccelConfig(name="cpu", precision="float32")),
        mean=torch.zeros(1, 3, 1, 1),
        std=torch.ones(1, 3, 1, 1),
        ema=EMA(model, 0.9),
    )


@pytest.mark.parametrize(
    ("most", "at_least", "seen", "expected"),
    [
        (10, 1, [10], 1),
        (5, 1, [10, 5, 5], 2),
        (4, 1, [10, 5, 3, 3], 4),
        (1, 1, [10, 5, 3, 2, 1, 1], 10),
        (10, 4, [3, 3], 4),
        (10, 32, [1, 1], 10),
    ],
)
def test_a_batch_is_halved_until_it_fits(
    most: int, at_least: int, seen: list[int], expected: int
) -> None:
    """A step of several parts is tried with two: the second finds the first one's gradients."""
    own = learner(most)
    assert fit_memory(own, batch_size=10, image_size=4, at_least=at_least) == expected
    assert own.model.seen == seen


def test_trying_leaves_no_trace() -> None:
    own = learner(most=3)
    before = {name: value.clone() for name, value in own.model.state_dict().items()}
    fit_memory(own, batch_size=10, image_size=4)
    for module in (own.model, own.scored):
        state = module.state_dict()
        assert all(torch.equal(state[name], before[name]) for name in before)
    assert own.state()["ema"]["updates"] == 0
    assert own.optimizer.state_dict()["state"] == {}
    assert all(one.grad is None for one in own.model.parameters())


def test_what_never_fits_is_refused_and_other_errors_pass() -> None:
    with pytest.raises(ValueError, match=r"image_size=4: not even one picture .* lower it"):
        fit_memory(learner(most=0), batch_size=10, image_size=4)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fit_memory(learner(most=10), batch_size=10, image_size=5)


class OneOfTwo(CPU):
    """A rank beside another, which found the place `other` among the candidates."""

    world_size = 2
    other = 0

    def agree(self, values: np.ndarray) -> np.ndarray:
        theirs = np.zeros_like(values)
        theirs[self.other] = 1
        return values + theirs

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()


@pytest.mark.parametrize(("other", "expected"), [(0, 2), (2, 4)])
def test_all_ranks_take_the_largest_number(other: int, expected: int) -> None:
    own = learner(most=4)
    own.accelerator = OneOfTwo(AccelConfig(name="cpu", precision="float32"))
    own.accelerator.other = other
    assert fit_memory(own, batch_size=15, image_size=4) == expected  # 8 pictures a rank


@given(records=st.integers(1, 40), count=st.integers(1, 50))
def test_parts_hold_each_record_once_in_order(records: int, count: int) -> None:
    images = np.arange(records, dtype=np.uint8).reshape(-1, 1, 1, 1)
    parts = micro_batches(Batch(images, np.arange(records)), count)
    assert len(parts) == min(count, records)
    assert np.concatenate([part.records for part in parts]).tolist() == list(range(records))
    assert np.array_equal(np.concatenate([part.images for part in parts]), images)
    sizes = [len(part.records) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def weights_of(config: TrainConfig) -> dict[str, torch.Tensor]:
    outcome = cross_validate(config)
    assert outcome is not None
    return load_file(outcome.folder / "fold-0" / "model.safetensors")


SHORT = ("folds=2", "fold=0", "epochs=2", "save_minutes=0")


def small_memory(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let the CPU be a device on which a convolution takes at most `most` pictures."""
    forward = nn.Conv2d.forward

    def limited(layer: nn.Conv2d, pictures: torch.Tensor) -> torch.Tensor:
        if layer.training and len(pictures) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(layer, pictures)

    monkeypatch.setattr(CPU, "own_memory", True)
    monkeypatch.setattr(nn.Conv2d, "forward", limited)


def test_the_number_found_trains_as_one_asked_for_and_is_kept_on_resume(
    tiny_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = tiny_config(*SHORT, "accel.accumulate=2", f"outputs={tmp_path / 'asked'}")
    expected = weights_of(asked)
    save = fold_module.save_checkpoint

    def cut(folder: Path, state: dict[str, Any]) -> None:
        save(folder, state)
        raise KeyboardInterrupt

    config = tiny_config(*SHORT)
    caplog.set_level(logging.INFO)
    with monkeypatch.context() as patch:
        small_memory(patch, most=5)
        patch.setattr(fold_module, "save_checkpoint", cut)
        with pytest.raises(KeyboardInterrupt):
            cross_validate(config)
    assert "accel.accumulate=2" in caplog.text
    packed = load_checkpoint(next(Path(config.outputs).glob("test_*")) / "fold-0")
    assert packed is not None
    assert json.loads(packed["settings"])["accumulate"] == 2
    with monkeypatch.context() as patch:
        small_memory(patch, most=100)  # more memory than before
        found = weights_of(config)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        (["accel.accumulate=auto"], False),
        (["accel.accumulate=10"], False),
        (["accel.accumulate=0"], True),
        (["accel.accumulate=some"], True),
        (["accel.accumulate=11"], True),
    ],
)
def test_a_number_that_leaves_parts_empty_is_refused(
    tiny_config: Make, changes: list[str], refused: bool
) -> None:
    config = tiny_config()
    for change in changes:
        name, _, value = change.removeprefix("accel.").partition("=")
        setattr(config.accel, name, int(value) if value.isdigit() else value)
    assert [p.key for p in check_train(config)] == (["accel.accumulate"] if refused else [])
