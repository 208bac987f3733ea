import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dr.accel.base import Accelerator
from dr.accel.choice import choose_accelerator
from dr.config import AccelConfig

# Ranks find a task by its module's name, on the path that they get from the process of the tests.
sys.path.insert(0, str(Path(__file__).parent))


def plain_cpu(devices: int) -> Accelerator:
    config = AccelConfig(
        name="cpu", devices=devices, precision="float32", channels_last=False, threads=1
    )
    return choose_accelerator(config)


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[Accelerator]:
    with plain_cpu(2) as accelerator:
        yield accelerator


@pytest.fixture(scope="session")
def four_ranks() -> Iterator[Accelerator]:
    with plain_cpu(4) as accelerator:
        yield accelerator
