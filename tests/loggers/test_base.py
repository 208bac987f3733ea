import logging
import time
from collections.abc import Mapping
from typing import Any

import pytest

from dr.loggers.base import GuardedLogger, Logger, NoLogger, batches, within

CALLS = ("open", "epoch", "finish", "close")


class Fake(Logger):
    """Notes its calls; `failing` of them does `failure()` first."""

    def __init__(self, failing: str | None, failure: Any, calls: list[str]) -> None:
        self._failing, self._failure, self._calls = failing, failure, calls
        self._note("open")

    def _note(self, call: str) -> None:
        self._calls.append(call)
        if call == self._failing:
            self._failure()

    def epoch(self, row: Mapping[str, Any]) -> None:
        self._note("epoch")

    def finish(self, scores: Mapping[str, Any]) -> None:
        self._note("finish")

    def close(self) -> None:
        self._note("close")


def use(failing: str | None, failure: Any = None, *, seconds: float = 5) -> list[str]:
    """The calls that reach a guarded logger in a fold of two epochs."""
    calls: list[str] = []
    with GuardedLogger(
        "fake", lambda: Fake(failing, failure, calls), seconds=seconds, hurry=seconds
    ) as logger:
        logger.epoch({"epoch": 1})
        logger.epoch({"epoch": 2})
        logger.finish({"epoch": 2})
    return calls


def broken() -> None:
    raise ConnectionError("https://ann:sesame@host: refused")


def hanging() -> None:
    time.sleep(3)


def leaving() -> None:
    raise SystemExit(3)


def test_a_logger_that_works_gets_every_call(caplog: pytest.LogCaptureFixture) -> None:
    assert use(None) == ["open", "epoch", "epoch", "finish", "close"]
    assert not caplog.records


@pytest.mark.parametrize("failing", CALLS)
@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (broken, "ConnectionError: https://***@host: refused"),
        (leaving, "RuntimeError: SystemExit(3)"),
        (hanging, "TimeoutError: no answer within 0.05 s"),
    ],
)
def test_a_failing_logger_is_switched_off_with_one_warning(
    failing: str, failure: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.perf_counter()
    calls = use(failing, failure, seconds=0.05 if failure is hanging else 5)
    assert time.perf_counter() - began < 2
    every = ["open", "epoch", "epoch", "finish", "close"]
    assert calls == every[: every.index(failing) + 1]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("logger=fake: switched off, the run goes on without it")
    assert record.getMessage().endswith(said)


def test_an_interrupted_fold_closes_its_logger_in_a_hurry() -> None:
    guarded = GuardedLogger("fake", lambda: Fake("close", hanging, []), seconds=60, hurry=0.05)
    began = time.perf_counter()
    guarded.close()
    assert time.perf_counter() - began < 2


def test_what_ends_in_time_gives_its_result_and_its_error() -> None:
    assert within(5, lambda: 7) == 7
    with pytest.raises(ConnectionError, match="refused"):
        within(5, broken)


def test_no_logger_takes_everything() -> None:
    with NoLogger() as logger:
        assert logger.epoch({"epoch": 1}) is None
        assert logger.finish({}) is None


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (3, [3]), (4, [3, 1])])
def test_batches(count: int, sizes: list[int]) -> None:
    values = {str(number): number for number in range(count)}
    parts = list(batches(values, 3))
    assert [len(part) for part in parts] == sizes
    assert {key: value for part in parts for key, value in part.items()} == values
