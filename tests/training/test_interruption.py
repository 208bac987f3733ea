import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr.checks import check_train
from dr.compose import run_door
from dr.config import TrainConfig
from dr.signals import SAME_SIGNAL_S
from dr.training import interruption
from dr.training.interruption import (
    REASONS,
    TIME_LIMIT,
    Interrupted,
    Stopper,
    count_from,
    deadline,
    parse_duration,
)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("90m", 5400), ("8.5h", 30600), ("2d", 172800), (".5h", 1800), (" 1.s ", 1)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@given(st.floats(1e-3, 1e6), st.sampled_from("smhd"))
def test_a_duration_is_its_number_times_its_unit(number: float, unit: str) -> None:
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    assert parse_duration(f"{number:.6f}{unit}") == float(f"{number:.6f}") * seconds


@pytest.mark.parametrize("text", ["90", "h", "", "1h30m", "-1h", "8,5h", "nanh", "1e3s", "1 h"])
def test_no_duration_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"time_limit=.*: give a number and its unit, as in 45s"):
        parse_duration(text)
    with pytest.raises(ValueError, match=r"patience=0h: must be above 0"):
        parse_duration("0h", key="patience")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Interrupted) as caught, Stopper() as stopper:
        assert stopper.reason() == 0
        send(number)
        assert stopper.reason() == number
        send(number)  # the same press of Ctrl-C, by another way
        assert stopper.reason() in REASONS
        raise stopper.interrupted(stopper.reason())
    assert caught.value.exit_code == {"SIGTERM": 143, "SIGINT": 130}[number.name]
    assert str(caught.value).startswith(f"stopped by {number.name}, the state is saved")
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_second_signal_has_its_default_action() -> None:
    child = os.fork()
    if child == 0:
        try:
            with Stopper() as stopper:
                send(signal.SIGINT)
                stopper.since -= SAME_SIGNAL_S + 1
                send(signal.SIGINT)
                time.sleep(60)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGINT


def test_a_signal_that_nobody_asked_about_is_sent_again() -> None:
    with pytest.raises(KeyboardInterrupt), Stopper():
        send(signal.SIGINT)


def test_the_error_within_is_not_hidden_by_a_signal() -> None:
    with pytest.raises(ValueError, match="bad"), Stopper():
        send(signal.SIGINT)
        raise ValueError("bad")


def test_beside_the_main_thread_signals_are_left_alone() -> None:
    found = []

    def ask() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with Stopper(1e9) as stopper:
            found.append((signal.getsignal(signal.SIGTERM) is before, stopper.reason()))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found == [(True, 0)]


def test_a_time_limit_is_a_reason_with_its_own_code() -> None:
    assert Stopper(1e6).reason() == 0
    stopper = Stopper(-1)
    assert stopper.reason() == TIME_LIMIT
    stop = stopper.interrupted(TIME_LIMIT)
    assert stop.exit_code == 75
    assert str(stop) == "the time limit is over, the state is saved"


def test_a_stop_crosses_processes() -> None:
    stop = pickle.loads(pickle.dumps(Interrupted("stopped", 143)))
    assert (str(stop), stop.exit_code) == ("stopped", 143)


def test_a_deadline_counts_from_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "_started", None)
    assert deadline(None) is None
    now = time.time()
    assert now + 60 <= (deadline("1m") or 0) <= time.time() + 60
    count_from(1000.0)
    assert deadline("1m") == 1060.0


@pytest.mark.parametrize("sweep", [[], ["--multirun", "seed=0,1"]], ids=["run", "sweep"])
@pytest.mark.parametrize("code", [130, 143, 75])
def test_a_door_leaves_with_the_code_of_the_stop(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    code: int,
    sweep: list[str],
) -> None:
    asked = []

    def main(config: TrainConfig) -> None:
        asked.append(config.seed)
        raise Interrupted("why", code)

    monkeypatch.setattr(interruption, "_started", None)
    monkeypatch.setattr(sys, "argv", ["dr.train", f"outputs={tmp_path}", *sweep])
    with pytest.raises(SystemExit) as caught:
        run_door("train", schema=TrainConfig, check=check_train, main=main)
    assert (caught.value.code, asked) == (code, [0])
    assert capsys.readouterr().err.endswith("dr.train: why\n")
