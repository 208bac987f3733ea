"""Networks by timm's names, and the normalisation their weights expect.

What a timm network is: Wightman, PyTorch Image Models (https://github.com/huggingface/
pytorch-image-models). Pooling stays what each network was trained with: global averaging for
all convolutional networks in general use, the class token for many transformers.
"""

import difflib
import re
from dataclasses import dataclass
from typing import Any

import torch

from dr.config import ModelConfig
from dr.modeling.heads import install_head
from dr.modeling.weights import RUN, RunWeights, hub_weights, load_run_weights, load_weights

HEAD_STD = 0.01
"""Standard deviation of a new head's weights."""


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel (RGB), for pixel values scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def normalisation(config: ModelConfig) -> Normalisation:
    """The normalisation that the pretrained weights of `config.name` were trained with.

    Raises:
        ValueError: `config.name` is no timm model.
    """
    cfg = _pretrained_cfg(config.name)
    return Normalisation(mean=tuple(cfg.mean), std=tuple(cfg.std))


def build_model(
    config: ModelConfig,
    *,
    outputs: int,
    head: str = "linear",
    pretrained: bool = True,
    image_size: int | None = None,
    start: RunWeights | None = None,
) -> torch.nn.Module:
    """The timm network `config.name` with a head of `outputs` values.

    Args:
        config: the network, where its weights come from, and its drop rates.
        outputs: size of the head.
        head: its kind, a key of `dr.modeling.heads.HEADS`.
        pretrained: load the weights `config.weights`; without, the network is left at its
            random initialisation (torch's global generator), to load a run's own weights.
        image_size: side of the square input in pixels. Only networks built for one size take it;
            null leaves those at the size of their weights.
        start: what `config.weights` means where it names a run (`run:DIR`).

    Returns:
        A module in training mode, float32 on the CPU: `[N, 3, H, W]` -> `[N, outputs]`.

    Raises:
        ValueError: the name, a drop rate, gradient checkpointing or the image size doesn't suit
            timm, the head doesn't suit the network, or the weights can't be had.
    """
    cfg = _pretrained_cfg(config.name)
    arguments = _arguments(config, cfg, image_size)
    arguments["num_classes"] = outputs if head == "linear" else 1
    if pretrained and config.weights == "hub":
        with hub_weights(config) as overlay:
            arguments |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
            model = _create(config, cfg, arguments)
        if arguments["num_classes"] != cfg.num_classes:
            _calm_head(model)
        install_head(model, kind=head, outputs=outputs)
    else:
        model = _create(config, cfg, arguments)
        _calm_head(model)
        install_head(model, kind=head, outputs=outputs)
        if pretrained:
            _load(model, config, start)
    if config.grad_checkpointing:
        _checkpoint_gradients(model, config)
    if "img_size" in arguments:
        _check_image_size(model, config, cfg, arguments)
    return model


def _load(model: torch.nn.Module, config: ModelConfig, start: RunWeights | None) -> None:
    if not config.weights.startswith(RUN):
        load_weights(model, config)
        return
    assert start is not None, "run:DIR is looked up before a network is built"
    load_run_weights(model, start)


def _checkpoint_gradients(model: torch.nn.Module, config: ModelConfig) -> None:
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AssertionError, AttributeError, NotImplementedError) as error:
        raise ValueError(
            f"model.grad_checkpointing=True: {config.name} cannot; leave it out, or choose another "
            "model.name"
        ) from error


def _calm_head(model: torch.nn.Module) -> None:
    """Start the head near zero: EfficientNet's own start grows as the outputs get fewer."""
    head = model.get_classifier()  # type: ignore[operator]
    if isinstance(head, torch.nn.Linear):
        torch.nn.init.trunc_normal_(head.weight, std=HEAD_STD)
        if head.bias is not None:
            torch.nn.init.zeros_(head.bias)


def _pretrained_cfg(name: str) -> Any:
    from timm.models import get_pretrained_cfg, is_model, list_models, list_pretrained

    base, _, tag = name.partition(".")
    if not is_model(base):
        close = difflib.get_close_matches(base, list_models(), n=5)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists all"
        raise ValueError(f"model.name={name!r}: timm has no such model; {hint}")
    if tag and name not in list_pretrained():
        known = ", ".join(list_pretrained(f"{base}.*")) or "none"
        raise ValueError(f"model.name={name!r}: timm has no weights tagged so; there are: {known}")
    return get_pretrained_cfg(name)


def _arguments(config: ModelConfig, cfg: Any, image_size: int | None) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("drop_rate", "drop_path_rate")
        if getattr(config, name)
    }
    if image_size is not None and cfg.fixed_input_size:
        arguments["img_size"] = image_size
    return arguments


def _create(config: ModelConfig, cfg: Any, arguments: dict[str, Any]) -> torch.nn.Module:
    import timm

    try:
        model: torch.nn.Module = timm.create_model(config.name, **arguments)
    except TypeError as error:
        refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if refused is None or refused[1] not in arguments:
            raise
        if refused[1] == "img_size":
            raise ValueError(_other_size(config, cfg, arguments)) from error
        setting = f"model.{refused[1]}={arguments[refused[1]]!r}"
        raise ValueError(f"{setting}: {config.name} has no such setting; leave it at 0") from error
    except AssertionError as error:
        raise ValueError(_other_size(config, cfg, arguments)) from error
    return model


def _other_size(config: ModelConfig, cfg: Any, arguments: dict[str, Any]) -> str:
    return (
        f"image_size={arguments.get('img_size')}: {config.name} doesn't take it; "
        f"set image_size={cfg.input_size[-1]}, or choose a convolutional model.name, "
        "which takes any size"
    )


def _check_image_size(
    model: torch.nn.Module, config: ModelConfig, cfg: Any, arguments: dict[str, Any]
) -> None:
    side = arguments["img_size"]
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, side, side))
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"{_other_size(config, cfg, arguments)} ({error})") from error
    finally:
        model.train()
