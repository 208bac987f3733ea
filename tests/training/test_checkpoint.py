import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dr.training.checkpoint import (
    CHECKPOINT,
    PREVIOUS,
    drop_checkpoints,
    load_checkpoint,
    load_weights_file,
    on_cpu,
    save_checkpoint,
    save_weights,
)


def saved(folder: Path, *values: int) -> Path:
    """Checkpoints of tensors full of `values`, one after the other."""
    folder.mkdir(exist_ok=True)
    for value in values:
        save_checkpoint(folder, {"model": torch.full((500,), value)})
    return folder


def value_of(folder: Path, which: str = "last") -> int:
    state = load_checkpoint(folder, which)
    assert state is not None
    return int(state["model"][0])


def test_a_checkpoint_comes_back_and_no_other_file_is_left(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path, "previous") is None
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": "[1]"}
    save_checkpoint(tmp_path, state)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found["state"] == "[1]"
    assert torch.equal(found["model"]["weight"], model.weight)
    moments = found["optimizer"]["state"][0]
    assert torch.equal(moments["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_the_one_before_is_kept_and_both_are_dropped(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3)
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT, PREVIOUS}
    assert value_of(tmp_path) == value_of(tmp_path, "previous") == 3
    (tmp_path / CHECKPOINT).unlink()
    assert value_of(tmp_path) == 2
    drop_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_layout_survives_and_tensors_come_to_the_cpu(tmp_path: Path) -> None:
    picture = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path, {"model": {"a": picture}, "lists": [(picture[0], 3)]})
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found["model"]["a"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found["lists"][0][0], picture[0])
    moved = on_cpu({"a": [torch.ones(2, requires_grad=True) * 2], "b": "text"})
    assert moved["a"][0].device.type == "cpu"
    assert not moved["a"][0].requires_grad


CALLS = ("fsync", "rename", "second rename")


class Killed(BaseException):
    """Stands for a kill: nothing that would tidy up runs after it."""


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("before", [(), (1,), (1, 2)])
def test_a_kill_at_any_call_of_a_save_leaves_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, before: tuple[int, ...]
) -> None:
    saved(tmp_path, *before)
    renames = iter(CALLS[1:] if before else CALLS[1:2])
    replace = Path.replace

    def fsync(number: int) -> None:
        if call == "fsync":
            raise Killed

    def rename(self: Path, target: Path) -> Path:
        if next(renames) == call:
            raise Killed
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr(Path, "replace", rename)
        try:
            saved(tmp_path, 3)
        except Killed:
            reached = False
        else:
            reached = True
    expected = 3 if reached else before[-1] if before else None
    assert (load_checkpoint(tmp_path) is None) == (expected is None)
    if expected is not None:
        assert value_of(tmp_path) == expected
    assert value_of(saved(tmp_path, 4)) == 4


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


FULL = r"cannot be written \(No space left on device\)"


def test_a_full_disk_leaves_the_checkpoint_before_and_is_named(small_disk: Path) -> None:
    saved(small_disk, 1, 2)
    with pytest.raises(ValueError, match=rf"checkpoint\.pt: {FULL}; the checkpoint before it"):
        save_checkpoint(small_disk, {"model": torch.zeros(1_000_000)})
    assert {path.name for path in small_disk.iterdir()} == {CHECKPOINT, PREVIOUS}
    assert value_of(small_disk) == 2
    with pytest.raises(ValueError, match=rf"model\.safetensors: {FULL}"):
        save_weights(small_disk / "model.safetensors", nn.Linear(1000, 1000))
    assert len(list(small_disk.iterdir())) == 2
    assert value_of(saved(small_disk, 3)) == 3


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_an_error_of_writing_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    saved(tmp_path, 1)

    def fail(*given: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if call == "write":
            patch.setattr(torch, "save", fail)
        else:
            patch.setattr(os, "fsync", fail)
        with pytest.raises(ValueError, match=rf"checkpoint\.pt: {FULL}"):
            saved(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    assert value_of(tmp_path) == 1


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("ran",)


def test_a_checkpoint_never_runs_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": Evil()}, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: cannot be read .*delete it"):
        load_checkpoint(tmp_path)
    assert "ran" not in capsys.readouterr().out


def cut(content: bytes) -> bytes:
    return content[:500]


def flip(content: bytes) -> bytes:
    place = content.index(bytes(torch.full((3,), 2).numpy().tobytes())) + 8
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def empty(content: bytes) -> bytes:
    return b""


def other(content: bytes) -> bytes:
    return b"rubbish" * 100


@pytest.mark.parametrize("damage", [cut, flip, empty, other], ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(
    tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path, 1, 2) / CHECKPOINT
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"checkpoint\.pt: cannot be read .*resume_from=previous"):
        load_checkpoint(tmp_path)
    assert value_of(tmp_path, "previous") == 1
    assert f"{path}: cannot be read" in caplog.text
    assert f"going on from {PREVIOUS}" in caplog.text
    saved(tmp_path, 3)
    assert value_of(tmp_path, "previous") == 3
    path.unlink()
    assert value_of(tmp_path) == 1


def test_a_damaged_checkpoint_without_one_before_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, 1) / CHECKPOINT
    path.write_bytes(flip(path.read_bytes().replace(b"\x01", b"\x02")))
    for which in ("last", "previous"):
        with pytest.raises(ValueError, match=r"checkpoint\.pt: cannot be read .*delete it"):
            load_checkpoint(tmp_path, which)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return (saved(tmp_path_factory.mktemp("whole"), 7) / CHECKPOINT).read_bytes()


@given(data=st.data())
def test_no_flipped_bit_goes_unnoticed_and_changes_what_is_loaded(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(whole) * 8 - 1))
    damaged = bytearray(whole)
    damaged[place // 8] ^= 1 << place % 8
    folder = tmp_path_factory.mktemp("flipped")
    (folder / CHECKPOINT).write_bytes(damaged)
    try:
        state = load_checkpoint(folder)
    except ValueError as error:
        assert str(folder / CHECKPOINT) in str(error)
        return
    assert state is not None
    assert torch.equal(state["model"], torch.full((500,), 7))


@pytest.mark.parametrize("state", [{"model": torch.ones(1)}, {"format": 3}, [1, 2]], ids=repr)
def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path, state: Any) -> None:
    torch.save(state, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: is a checkpoint of format .* reads 2;"):
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
