"""What a run is: the digest of all that decides its result, and of nothing else."""

import dataclasses
import re
from typing import Any

from dr.config import OPERATIONAL_KEYS, TrainConfig
from dr.digests import digest_of

SCHEMA_VERSION = 1


def scientific_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that decide the result, as dotted keys."""
    flat = _flatten(dataclasses.asdict(config), "")
    return {key: value for key, value in flat.items() if not _is_operational(key)}


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


def run_identity(
    config: TrainConfig, *, data: str, image_size: int, precision: str, channels_last: bool
) -> str:
    """SHA-256 (hex) of the data's digest, the scientific settings, precision and layout.

    `image_size`, `precision` and `channels_last` are those in force, so that a setting left to
    the machine and the same one spelled out are the same run on that machine.
    """
    settings = scientific_settings(config)
    settings |= {
        "data": data,
        "image_size": image_size,
        "accel.precision": precision,
        "accel.channels_last": channels_last,
        "version": SCHEMA_VERSION,
    }
    return digest_of(settings)


def run_name(config: TrainConfig, identity: str) -> str:
    """`<model>_<schedule>_<id>`, a folder's name."""
    model = re.sub(r"[^A-Za-z0-9.-]+", "_", config.model.name)
    return f"{model}_{config.schedule.name}_{identity[:8]}"
