"""State of an unfinished fold, and the weights of a finished one."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

CHECKPOINT = "checkpoint.pt"
WEIGHTS = "model.safetensors"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values aside, flush, and rename into place."""
    aside = folder / f".{CHECKPOINT}.tmp"
    with aside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(folder / CHECKPOINT)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The last checkpoint of a fold, on the CPU, or None.

    Raises ValueError naming a file that cannot be read.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except Exception as error:
        raise ValueError(
            f"{path}: cannot be read ({type(error).__name__}); delete it to train this fold anew"
        ) from error


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the model's state as safetensors, whole or not at all."""
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    aside = path.with_name(f".{path.name}.tmp")
    save_file(state, str(aside))
    aside.replace(path)


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
