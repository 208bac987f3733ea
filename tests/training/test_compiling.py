"""`accel.compile` and `model.grad_checkpointing`: the same training by other means."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dr.checks import check_train
from dr.config import ModelConfig, TrainConfig
from dr.modeling.backbones import build_model
from dr.training import fold as fold_module
from dr.training.checkpoint import load_checkpoint
from dr.training.cross_validation import cross_validate

Make = Callable[..., TrainConfig]
SHORT = ("folds=2", "fold=0", "epochs=2", "save_minutes=0")


def weights_of(config: TrainConfig) -> dict[str, torch.Tensor]:
    outcome = cross_validate(config)
    assert outcome is not None
    return load_file(outcome.folder / "fold-0" / "model.safetensors")


def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch.compile trace networks and run what it traced, without a compiler."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


def test_a_compiled_network_trains_the_same_weights_and_resumes(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = (*SHORT, "optimizer.freeze_epochs=1", "ema_decay=0.9", "accel.precision=bfloat16")
    plain = weights_of(tiny_config(*settings, f"outputs={tmp_path / 'plain'}"))
    traced(monkeypatch)
    networks: list[str] = []
    train_epoch = fold_module.train_epoch

    def watched(learner: Any, *given: Any, **named: Any) -> Any:
        networks.append(type(learner.training_network).__name__)
        return train_epoch(learner, *given, **named)

    monkeypatch.setattr(fold_module, "train_epoch", watched)
    save = fold_module.save_checkpoint

    def cut(folder: Path, state: dict[str, Any]) -> None:
        save(folder, state)
        packed = load_checkpoint(folder)
        assert packed is not None
        assert packed["model"].keys() == plain.keys()
        raise KeyboardInterrupt

    config = tiny_config(*settings, "accel.compile=true")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fold_module, "save_checkpoint", cut)
        cross_validate(config)
    compiled = weights_of(config)
    assert set(networks) == {"OptimizedModule"}
    assert compiled.keys() == plain.keys()
    assert all(torch.equal(compiled[name], plain[name]) for name in plain)


def test_xla_compiles_by_itself(tiny_config: Make) -> None:
    config = tiny_config()
    config.accel.name, config.accel.compile = "tpu", True
    assert "accel.compile" in [problem.key for problem in check_train(config)]


def gradients_of(checkpointed: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    config = ModelConfig(
        name="test_efficientnet",
        weights="none",
        drop_path_rate=0.5,
        grad_checkpointing=checkpointed,
    )
    model = build_model(config, outputs=5)
    assert getattr(model, "grad_checkpointing", False) == checkpointed
    torch.manual_seed(1)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def test_checkpointed_gradients_are_the_same() -> None:
    plain, checkpointed = gradients_of(False), gradients_of(True)
    assert plain.keys() == checkpointed.keys()
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)


def test_a_network_without_checkpointing_is_named() -> None:
    config = ModelConfig(name="inception_v3", weights="none", grad_checkpointing=True)
    with pytest.raises(ValueError, match=r"model\.grad_checkpointing=True: inception_v3 cannot"):
        build_model(config, outputs=5)
