from pathlib import Path

import pytest
import torch
from torch import nn

from dr.training.checkpoint import (
    CHECKPOINT,
    load_checkpoint,
    load_weights_file,
    save_checkpoint,
    save_weights,
)


def test_a_checkpoint_comes_back_and_no_other_file_is_left(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": "[1]"}
    save_checkpoint(tmp_path, state)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found["history"] == "[1]"
    assert torch.equal(found["model"]["weight"], model.weight)
    moments = found["optimizer"]["state"][0]
    assert torch.equal(moments["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("ran",)


def test_a_checkpoint_never_runs_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": Evil()}, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: cannot be read .*delete it"):
        load_checkpoint(tmp_path)
    assert "ran" not in capsys.readouterr().out


def test_a_cut_off_checkpoint_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"model": torch.ones(1000)})
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"checkpoint\.pt: cannot be read"):
        load_checkpoint(tmp_path)


def test_weights_come_back_and_misfits_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model, other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    save_weights(path, model.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    load_weights_file(path, other)
    assert torch.equal(other.weight, model.weight)
    with pytest.raises(ValueError, match=r"model\.safetensors: cannot be loaded"):
        load_weights_file(path, nn.Conv2d(3, 5, 3))
    with pytest.raises(ValueError, match="missing: cannot be loaded"):
        load_weights_file(tmp_path / "missing", other)
    path.write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_weights_file(path, other)
