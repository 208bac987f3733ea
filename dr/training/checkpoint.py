"""State of an unfinished fold, and the weights of a finished one."""

import logging
import os
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dr.files import sync_folder, write_whole

FORMAT = 2
CHECKPOINT = "checkpoint.pt"
PREVIOUS = "checkpoint-previous.pt"
WEIGHTS = "model.safetensors"
_ASIDE = f".{CHECKPOINT}.tmp"

_log = logging.getLogger(__name__)


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Make `state` (tensors and plain values) the fold's last checkpoint.

    It is written aside and flushed to the disk; then the last one, if it is whole, becomes the one
    before it, and this the last. Whenever the process dies, `load_checkpoint` finds a whole one.
    Raises ValueError naming the file and the cause where it cannot be written; the last one stays.
    """
    aside = folder / _ASIDE
    try:
        with aside.open("wb") as file:
            torch.save(on_cpu({**state, "format": FORMAT}), file)
            file.flush()
            os.fsync(file.fileno())
    except Exception as error:
        with suppress(OSError):
            aside.unlink()
        raise _unwritten(folder / CHECKPOINT, error) from error
    if _is_whole(folder / CHECKPOINT):
        (folder / CHECKPOINT).replace(folder / PREVIOUS)
    aside.replace(folder / CHECKPOINT)
    sync_folder(folder)


def on_cpu(value: Any) -> Any:
    """`value` with every tensor in its dicts, lists and tuples moved to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: on_cpu(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_cpu(inner) for inner in value)
    return value


def _unwritten(path: Path, error: Exception) -> Exception:
    """What to raise for an error of writing; torch hides the system's error in its own."""
    system = next((one for one in _chain(error) if isinstance(one, OSError)), None)
    if system is None:
        return error
    return ValueError(
        f"{path}: cannot be written ({system.strerror or system}); the checkpoint before it is "
        "whole: make room, and the same command goes on from there"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def load_checkpoint(folder: Path, which: str = "last") -> dict[str, Any] | None:
    """A fold's last checkpoint, on the CPU; None where it has none.

    With `which="previous"` the one before it serves where the last cannot be read. Where a process
    died between the two renames of `save_checkpoint`, the one before it is the last. Raises
    ValueError naming a file that is damaged or of another version, and what to do.
    """
    last, previous = folder / CHECKPOINT, folder / PREVIOUS
    anew = "delete it to train this fold anew"
    if not last.is_file():
        return _load(previous, anew) if previous.is_file() else None
    if not previous.is_file():
        return _load(last, anew)
    if which == "last":
        return _load(last, "resume_from=previous goes on from the one before it")
    try:
        return _load(last, f"going on from {PREVIOUS}")
    except ValueError as error:
        _log.warning("%s", error)
        return _load(previous, "delete both checkpoints to train this fold anew")


def _load(path: Path, remedy: str) -> dict[str, Any]:
    try:
        _check_sums(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path}: cannot be read ({reason}); {remedy}") from error
    found = state.get("format", 1) if isinstance(state, dict) else "unknown"
    if found != FORMAT:
        raise ValueError(
            f"{path}: is a checkpoint of format {found}, this version of dr reads {FORMAT}; go on "
            "with the version that wrote it, or delete it to train this fold anew"
        )
    return state


def _check_sums(path: Path) -> None:
    """Raises BadZipFile where the file is damaged, which `torch.load` may not see."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"wrong checksum of {damaged}")


def _is_whole(path: Path) -> bool:
    try:
        _check_sums(path)
    except Exception:
        return False
    return True


def drop_checkpoints(folder: Path) -> None:
    """Delete a finished fold's checkpoints, the older ones first."""
    for name in (_ASIDE, PREVIOUS, CHECKPOINT):
        (folder / name).unlink(missing_ok=True)


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the model's state as safetensors, whole or not at all, and flush it to the disk.

    Raises ValueError naming the file and the cause where it cannot be written.
    """
    from safetensors.torch import save

    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    try:
        write_whole(path, save(state))
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror or error})") from error


def load_weights_file(path: Path, model: nn.Module) -> None:
    """Load what `save_weights` wrote.

    Raises ValueError naming a file that is missing or does not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(str(path)))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path}: cannot be loaded into the model ({error})") from error
