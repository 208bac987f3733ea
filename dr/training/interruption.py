"""Stopping a training between two steps: by a signal, or because its time is over."""

import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Iterable
from types import TracebackType

from dr.signals import SIGNALS, FirstSignal

TIME_LIMIT = 1000
"""The reason of a stop whose time is over; those of signals are their numbers."""
TIME_LIMIT_EXIT = 75
"""EX_TEMPFAIL: nothing is wrong, the same command goes on."""
REASONS: tuple[int, ...] = (*map(int, SIGNALS), TIME_LIMIT)
"""Every reason to stop; where several are given, the first of them counts."""

_PR_SET_PDEATHSIG = 1
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Interrupted(Exception):
    """A training was stopped and its state saved; `exit_code` tells a shell why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message, exit_code)
        self.message = message
        self.exit_code = exit_code

    def __str__(self) -> str:
        return self.message


class Stopper(FirstSignal):
    """Notes SIGTERM, SIGINT and the end of a time limit, for a loop that asks after every step.

    A signal whose loop ended without an error is sent again at the context's end: it came after
    the last question. `time_limit_s` is counted from now.
    """

    def __init__(self, time_limit_s: float | None = None) -> None:
        super().__init__()
        self._end = None if time_limit_s is None else time.monotonic() + time_limit_s

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        if self.number and error is None:
            os.kill(os.getpid(), self.number)

    def reason(self) -> int:
        """0 to go on, the number of a signal, or `TIME_LIMIT`."""
        if self.number:
            return self.number
        over = self._end is not None and time.monotonic() >= self._end
        return TIME_LIMIT if over else 0

    def interrupted(self, reason: int) -> Interrupted:
        """What to raise, after saving, for a `reason` that this or another rank gave."""
        if reason == TIME_LIMIT:
            cause, code = "the time limit is over", TIME_LIMIT_EXIT
        else:
            cause, code = f"stopped by {signal.Signals(reason).name}", 128 + reason
        return Interrupted(f"{cause}, the state is saved", code)


def votes(reason: int) -> list[float]:
    """A rank's votes for each of `REASONS`, which can be added up over the ranks."""
    return [float(reason == known) for known in REASONS]


def voted(counts: Iterable[float]) -> int:
    """The first of `REASONS` that has a vote, 0 where none has."""
    return next((known for known, count in zip(REASONS, counts, strict=True) if count), 0)


_started: float | None = None


def count_from(started: float) -> None:
    """Let `deadline` count from `started`, a time of `time.time`: that of a whole command."""
    global _started
    _started = started


def deadline(time_limit: str | None) -> float | None:
    """The time (of `time.time`) at which a `time_limit` is over, None for no limit.

    It is counted from what `count_from` was told, else from now. Raises what `parse_duration`
    raises.
    """
    if time_limit is None:
        return None
    return (time.time() if _started is None else _started) + parse_duration(time_limit)


def die_with_parent() -> None:
    """Have this process sent SIGTERM when the one that started it dies, where Linux runs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


def parse_duration(value: str, *, key: str = "time_limit") -> float:
    """Seconds of a text as `45s`, `90m`, `8.5h` or `2d`.

    Raises ValueError naming `key` where it is none, or not above 0.
    """
    match = _DURATION.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"{key}={value}: give a number and its unit, as in 45s, 90m, 8.5h or 2d")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds <= 0:
        raise ValueError(f"{key}={value}: must be above 0")
    return seconds
