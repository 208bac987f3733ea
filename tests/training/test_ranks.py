"""One experiment on one process and on several: the same losses, the same predictions."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dr.config import TrainConfig
from dr.training.cross_validation import cross_validate
from dr.training.history import read_history

TOLERANCE = 1e-5
"""Of a loss. Ranks add up the same float32 numbers in another order, a few 1e-7 of their size.
Weights whose gradient would be 0 but for that (BatchNorm undoes their change) get steps of AdamW
in directions that the rounding chose, which the running statistics of the evaluation see; at this
learning rate that is a few 1e-6 of the loss after three epochs."""

# 40 training and 20 held-out records: neither batches nor ranks divide them.
CHANGES = ("batch_size=11", "schedule.max_lr=0.001", "epochs=3", "fold=0")


Make = Callable[..., TrainConfig]


@pytest.fixture
def train(tiny_config: Make, tmp_path: Path) -> Callable[[int], Path]:
    """`train(devices)`: the folder of a run on so many."""

    def make(devices: int) -> Path:
        outputs = f"outputs={tmp_path / str(devices)}"
        outcome = cross_validate(tiny_config(*CHANGES, outputs, f"accel.devices={devices}"))
        assert outcome is not None
        return outcome.folder

    return make


def predictions(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "fold-0" / "predictions.csv")


def assert_equal_runs(one: Path, other: Path) -> None:
    assert one.name == other.name
    rows, others = (read_history(run / "fold-0") for run in (one, other))
    for column in ("train_loss", "loss"):
        expected, found = ([row[column] for row in history] for history in (rows, others))
        np.testing.assert_allclose(found, expected, rtol=TOLERANCE)
    first, second = predictions(one), predictions(other)
    assert second["name"].is_unique
    assert first["name"].tolist() == second["name"].tolist()
    figures = ["score", *(f"p{grade}" for grade in range(5))]
    np.testing.assert_allclose(second[figures], first[figures], atol=1e-4)


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_train_what_one_process_trains(devices: int, train: Callable[[int], Path]) -> None:
    one = train(1)
    assert len(predictions(one)) == 20
    assert_equal_runs(one, train(devices))


def node(number: int, port: int, arguments: list[str]) -> "subprocess.Popen[str]":
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    place = [f"--node-rank={number}", "--master-addr=127.0.0.1", f"--master-port={port}"]
    return subprocess.Popen(
        [*launcher, *place, "-m", "dr.train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
    )


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_two_nodes(arguments: list[str]) -> list[tuple[int, str]]:
    """Exit code and output of both nodes' torchrun."""
    port = free_port()
    nodes = [node(number, port, arguments) for number in (0, 1)]
    outputs = [one.communicate(timeout=280)[0] for one in nodes]
    return [(one.returncode, text) for one, text in zip(nodes, outputs, strict=True)]


@pytest.mark.slow
def test_two_nodes_of_torchrun_make_one_run(
    train: Callable[[int], Path], tiny_overrides: list[str], tmp_path: Path
) -> None:
    outputs = tmp_path / "nodes"
    ends = on_two_nodes([*tiny_overrides, *CHANGES, f"outputs={outputs}"])
    assert [code for code, _ in ends] == [0, 0], ends
    runs = [path for path in outputs.iterdir() if not path.name.startswith(".")]
    assert len(runs) == 1
    assert_equal_runs(train(1), runs[0])
    assert [str(runs[0]) in text for _, text in ends] == [True, False]


@pytest.mark.slow
def test_an_error_of_the_first_node_ends_both(tiny_overrides: list[str], tmp_path: Path) -> None:
    outputs = tmp_path / "nodes"
    ends = on_two_nodes([*tiny_overrides, *CHANGES, "batch_size=4000", f"outputs={outputs}"])
    assert "batch_size=4000: is larger than the 40 records" in ends[0][1]
    assert ends[0][0] == 1
    assert not list(outputs.glob("*-*"))
