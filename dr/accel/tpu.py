"""TPU through torch-xla: the one file that imports it."""

import importlib.util

from dr.accel.base import Accelerator
from dr.config import AccelConfig


def connect(config: AccelConfig) -> Accelerator:
    """Raises ValueError saying what is missing; training on TPU is not built yet."""
    if importlib.util.find_spec("torch_xla") is None:
        raise ValueError(
            "accel=tpu: torch-xla is not installed here; it needs an environment of its own: "
            "pip install -c constraints-tpu.txt -e '.[tpu]'"
        )
    raise ValueError(
        "accel=tpu: training through torch-xla is not supported yet; use accel=cpu or accel=cuda"
    )
