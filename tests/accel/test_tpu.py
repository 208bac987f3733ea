"""What accel=tpu says where torch-xla is not installed; what it does is in tests/tpu."""

import importlib.util
from collections.abc import Callable

import pytest

from dr.accel.choice import choose_accelerator
from dr.checks import check_train
from dr.config import AccelConfig, TrainConfig


@pytest.mark.parametrize("installed", [set(), {"torch_tpu"}])
def test_what_to_install_is_named(monkeypatch: pytest.MonkeyPatch, installed: set[str]) -> None:
    find = importlib.util.find_spec

    def find_spec(name: str) -> object:
        if name in ("torch_xla", "torch_tpu"):
            return name if name in installed else None
        return find(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(ValueError, match=r"torch-xla is not installed.*pip install") as refused:
        choose_accelerator(AccelConfig(name="tpu"))
    assert ("torch-tpu" in str(refused.value)) == bool(installed)


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("optimizer.algorithm", ("optimizer=by_name", "optimizer.algorithm=muon")),
        ("augment.where", ("augment=seed", "augment.where=device")),
        ("accel.compile", ("accel.compile=true",)),
        ("model.grad_checkpointing", ("model.grad_checkpointing=true",)),
    ],
)
def test_what_xla_cannot_do_on_the_device_is_refused(
    tiny_config: Callable[..., TrainConfig], key: str, changes: tuple[str, ...]
) -> None:
    refused = {
        name: {problem.key for problem in check_train(tiny_config(*changes, f"accel.name={name}"))}
        for name in ("tpu", "cpu")
    }
    assert key in refused["tpu"]
    assert key not in refused["cpu"]
