"""torch-xla on virtual CPU devices: `make test-tpu`; without torch-xla nothing here is collected.

PJRT's number of devices holds for a process, so the tests run once for each CPU_NUM_DEVICES.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dr.accel.base import Accelerator
from dr.accel.choice import choose_accelerator
from dr.compose import compose
from dr.config import AccelConfig, TrainConfig
from dr.loading.batches import Batch
from dr.training.learner import Learner, build_learner
from dr.training.loop import StepFigures, train_step

if importlib.util.find_spec("torch_xla") is None:
    collect_ignore_glob = ["test_*.py"]

QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""Half the time to compile; the tests compute next to nothing."""
os.environ.setdefault("PJRT_DEVICE", "CPU")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"
sys.path.insert(0, str(Path(__file__).parent))

RECORDS = 40
BATCH = 8
LABELS = np.arange(RECORDS) % 5
LABEL_COUNTS = np.array([16, 8, 8, 4, 4])
IMAGES = np.random.default_rng(0).integers(0, 255, (RECORDS, 16, 16, 3), dtype=np.uint8)
FETCHES = "TransferFromDeviceTime"


@pytest.fixture(scope="session")
def devices() -> int:
    """How many virtual devices this process has."""
    return int(os.environ.get("CPU_NUM_DEVICES", "1"))


@pytest.fixture(scope="session")
def tpu() -> Iterator[Accelerator]:
    with choose_accelerator(AccelConfig(name="tpu", precision="float32")) as accelerator:
        yield accelerator


@pytest.fixture(scope="session")
def cpu() -> Iterator[Accelerator]:
    config = AccelConfig(name="cpu", precision="float32", channels_last=False)
    with choose_accelerator(config) as accelerator:
        yield accelerator


class Counters:
    """What torch-xla counted since the start or the last `reset`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._compiled, self._fetched = _count("CompileTime"), _count(FETCHES)
        self._fallbacks = _fallbacks()

    @property
    def compiled(self) -> int:
        return _count("CompileTime") - self._compiled

    @property
    def fetched(self) -> int:
        """How often values came to the host."""
        return _count(FETCHES) - self._fetched

    @property
    def fallbacks(self) -> set[str]:
        """What was computed on the host."""
        return {name for name, count in _fallbacks().items() if count != self._fallbacks.get(name)}


def _count(name: str) -> int:
    from torch_xla.debug import metrics

    data = metrics.metric_data(name)
    return int(data[0]) if data else 0


def _fallbacks() -> dict[str, int]:
    from torch_xla.debug import metrics

    names = [name for name in metrics.counter_names() if name.startswith("aten::")]
    return {name: int(metrics.counter_value(name)) for name in names}


@pytest.fixture
def counters(tpu: Accelerator) -> Counters:
    return Counters()


@pytest.fixture
def make_learner(tmp_path: Path) -> Callable[..., Learner]:
    """`make_learner(accelerator, "optimizer=sgd", ...)`: the smallest network there is."""
    import tiny_network  # noqa: F401

    def make(accelerator: Accelerator, *changes: str) -> Learner:
        base = ["model.name=tiny_network", "model.weights=none", "model.drop_rate=0"]
        base += ["model.drop_path_rate=0", "augment=none", "accel=cpu", "shards=unused"]
        config = compose("train", TrainConfig, [*base, f"outputs={tmp_path}", *changes])
        accelerator.seed(1, 2)
        return build_learner(config, accelerator, image_size=16, label_counts=LABEL_COUNTS)

    return make


@pytest.fixture
def step() -> Callable[..., StepFigures]:
    """`step(learner, number, rate=1e-3)`: the training step of that number, of 8 records."""

    def take(learner: Learner, number: int, *, rate: float = 1e-3) -> StepFigures:
        records = (np.arange(BATCH) + number * BATCH) % RECORDS
        return train_step(
            learner,
            Batch(IMAGES[records], records),
            labels=LABELS,
            drawing=None,
            learning_rate=rate,
            key=(0, 0, number),
        )

    return take
