"""Which folder a run goes on in, and with which settings.

What decides the folder, the first that applies:

1. `rerun=DIR` takes the config of DIR, and `resume=never` unless another `resume` is given.
2. `resume=never` makes a new folder: the first free of `<name>`, `<name>-2`, `<name>-3`.
3. `resume=DIR` goes on in DIR, wherever it lies, if this config is that run; else it is refused
   with every setting that differs.
4. `resume=auto` takes `<outputs>/<name>` and makes it where there is none; a folder of that name
   that holds another run is refused.

Then, in the folder:

5. Where the run is finished nothing is trained, which is said; only a new `test` set is scored.
6. A fold that is trained is not trained again.
7. A fold that a living process trains is refused.
8. A fold with a checkpoint goes on from it; from the one before it where the last cannot be read
   and `resume_from=previous`.
9. Any other fold begins anew.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from dr.accel.base import Accelerator
from dr.config import TrainConfig
from dr.training.environment import package_version
from dr.training.fine_tuning import kept_start
from dr.training.identity import scientific_values
from dr.training.run_folder import RESULT, RunFolder
from dr.urls import mask_values

_ABSENT = "absent"
_OF_THE_RUN = ("precision", "channels_last")
"""Settings in force that the identity of a run holds: others are another run."""
_NOT_DECISIVE = frozenset({"threads_asked"})


def open_run(path: Path, identity: str, settings: Mapping[str, Any]) -> RunFolder:
    """The run folder that `resume=DIR` names, of the run whose `decisive_settings` are given.

    Raises ValueError where it is no run folder, or that of another run: then with every setting
    that differs.
    """
    result = path / RESULT
    try:
        found = json.loads(result.read_text())["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"resume={path}: is no run folder ({RESULT} cannot be read); name one, or choose "
            "auto or never"
        ) from error
    if found == identity:
        return RunFolder(path, identity)
    differing = differences(stored_settings(path), mask_values(dict(settings)))
    listed = "".join(f"\n  {line}" for line in differing)
    if not differing:
        listed = " none of the settings differ, so another version of dr made it"
    raise ValueError(
        f"resume={path}: is another run (its id is {str(found)[:8]}, this one's {identity[:8]}); "
        f"resume=auto trains this one in a folder of its own. What differs:{listed}"
    )


def stored_settings(path: Path) -> dict[str, Any]:
    """`decisive_settings` of the run in a folder, as far as its files tell them.

    Raises ValueError naming a file that cannot be read.
    """
    try:
        values = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        environment = json.loads((path / "environment.json").read_text())
        data = json.loads((path / RESULT).read_text())["data"]
        return scientific_values(values) | {
            "data": data["digest"],
            "image_size": data["image_size"],
            "accel.precision": environment["precision"],
            "accel.channels_last": environment["channels_last"],
            **kept_start(path),
        }
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"resume={path}: its files cannot be read ({error})") from error


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`key: one before, another now` for each key that differs, sorted; `version` is no key."""
    keys = sorted({*stored, *now} - {"version"})
    return [
        f"{key}: {stored.get(key, _ABSENT)} before, {now.get(key, _ABSENT)} now"
        for key in keys
        if stored.get(key, _ABSENT) != now.get(key, _ABSENT)
    ]


def settings_in_force(
    accelerator: Accelerator, config: TrainConfig, *, accumulate: int = 1
) -> dict[str, Any]:
    """What a fold is computed with, besides the settings that its run's identity holds."""
    return {
        "device": accelerator.name,
        "processor": _processor(accelerator),
        "ranks": accelerator.world_size,
        "threads": torch.get_num_threads(),
        "threads_asked": config.accel.threads is not None,
        "accumulate": accumulate,
        "precision": accelerator.precision,
        "channels_last": accelerator.channels_last,
        "torch": torch.__version__,
        "dr": package_version("dr"),
    }


def _processor(accelerator: Accelerator) -> str:
    if accelerator.device.type == "cpu":
        return torch.backends.cpu.get_cpu_capability()
    return accelerator.describe()


def check_settings(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two `settings_in_force` and is taken as it is now, a line each.

    With one of these the fold goes on, but not to the same bits as if it had kept the first:
    device, processor, ranks, threads on the CPU, accumulate, versions. Raises ValueError, with
    all differences, where precision or layout differ: they are another run's.
    """
    decisive = {key for key in {*stored, *now} if key not in _NOT_DECISIVE}
    if stored.get("device") != "cpu" or now.get("device") != "cpu":
        decisive.discard("threads")
    lines = differences(
        {key: stored[key] for key in decisive & stored.keys()},
        {key: now[key] for key in decisive & now.keys()},
    )
    refused = [key for key in _OF_THE_RUN if stored.get(key) != now.get(key)]
    if refused:
        raise ValueError(
            f"the checkpoint is of another run than this one ({' and '.join(refused)}): "
            f"{'; '.join(lines)}"
        )
    return lines


def go_on_with(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Set what is automatic now to what a checkpoint was computed with; then `check_settings`.

    On the CPU that is the number of threads, which decides the last bits of a result, unless
    `accel.threads` asks for a number or the ranks are others.
    """
    same = all(stored.get(key) == now[key] for key in ("device", "ranks"))
    if now["device"] == "cpu" and same and not now["threads_asked"]:
        torch.set_num_threads(stored["threads"])
        now = {**now, "threads": stored["threads"]}
    return check_settings(stored, now)
