"""What a run was made with: versions, commit, device."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import dr
from dr.accel.base import Accelerator

_PACKAGES = (
    "dr",
    "torch",
    "torchvision",
    "timm",
    "albumentations",
    "tfrecord",
    "numpy",
    "pandas",
    "scikit-learn",
    "opencv-python-headless",
    "simplejpeg",
    "hydra-core",
    "omegaconf",
)


def code_version() -> str:
    """The package's version, with the git commit where it runs from a clone."""
    commit = _commit(Path(dr.__file__).resolve().parent)
    return package_version("dr") + (f" at {commit}" if commit else "")


def describe_environment(accelerator: Accelerator, *, threads: int) -> dict[str, Any]:
    """What `environment.json` holds."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: package_version(name) for name in _PACKAGES},
        "device": accelerator.describe(),
        "threads": threads,
        "precision": accelerator.precision,
        "channels_last": accelerator.channels_last,
    }


def package_version(package: str) -> str:
    """The version of an installed package, or `not installed`."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit(folder: Path) -> str | None:
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        tracked = ["git", "-C", str(folder), "ls-files", "--error-unmatch", "config.py"]
        subprocess.run(tracked, capture_output=True, check=True)
        found = subprocess.run(command, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
