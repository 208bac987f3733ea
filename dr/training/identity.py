"""What a run is: the digest of all that decides its result, and of nothing else."""

import dataclasses
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from dr.config import OPERATIONAL_KEYS, TrainConfig
from dr.shards.naming import source_names

SCHEMA_VERSION = 1


def scientific_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that decide the result, as dotted keys; `source_weights` as each one's share."""
    return scientific_values(dataclasses.asdict(config))


def scientific_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """`scientific_settings` of a config that is given as nested plain values."""
    flat = _flatten({key: values[key] for key in values if key != "source_weights"}, "")
    weights = _weights(values.get("source_weights"), values.get("shards"))
    if weights is not None:
        exact = [Fraction(weight) for weight in weights]
        flat["source_weights"] = [str(weight / sum(exact)) for weight in exact]
    return {key: value for key, value in flat.items() if not _is_operational(key)}


def source_weights(config: TrainConfig) -> tuple[float, ...] | None:
    """The weight of each of several `shards`, in their order; None where their sizes decide."""
    return _weights(config.source_weights, config.shards)


def _weights(weights: Any, shards: Any) -> tuple[float, ...] | None:
    if isinstance(weights, dict):
        return tuple(weights[name] for name in source_names(shards))
    return None if weights is None else tuple(weights)


def _is_operational(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in OPERATIONAL_KEYS)


def _flatten(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def decisive_settings(
    config: TrainConfig,
    *,
    data: str,
    image_size: int,
    precision: str,
    channels_last: bool,
    start: str | None = None,
) -> dict[str, Any]:
    """The data's digest, the scientific settings, precision and layout: what a run is.

    `image_size`, `precision` and `channels_last` are those in force, so that a setting left to
    the machine and the same one spelled out are the same run on that machine. `start` is the
    key (`SourceRun.key`) of the run that `model.weights=run:DIR` names, which counts instead.
    """
    settings = scientific_settings(config)
    if start is not None:
        settings["model.weights"] = start
    return settings | {
        "data": data,
        "image_size": image_size,
        "accel.precision": precision,
        "accel.channels_last": channels_last,
        "version": SCHEMA_VERSION,
    }


def run_name(config: TrainConfig, identity: str) -> str:
    """`<model>_<schedule>_<id>`, a folder's name."""
    model = re.sub(r"[^A-Za-z0-9.-]+", "_", config.model.name)
    return f"{model}_{config.schedule.name}_{identity[:8]}"
