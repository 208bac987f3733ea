"""TPU through torch-xla: the one file that imports it."""

import importlib.util

from dr.accel.base import Accelerator
from dr.config import AccelConfig


def connect(config: AccelConfig) -> Accelerator:
    """Raises ValueError: training on TPU is not built yet; says what it will need."""
    found = importlib.util.find_spec("torch_xla") is not None
    raise ValueError(
        "accel=tpu: training through torch-xla is not supported yet; use accel=cpu or accel=cuda. "
        "It will need an environment of its own, with what constraints-tpu.txt names "
        f"(torch-xla is {'' if found else 'not '}installed here)"
    )
