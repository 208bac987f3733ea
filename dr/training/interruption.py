"""Stopping a training between two steps: by a signal, or because its time is over."""

import os
import re
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

TIME_LIMIT = 1000
"""The reason of a stop whose time is over; those of signals are their numbers."""
TIME_LIMIT_EXIT = 75
"""EX_TEMPFAIL: nothing is wrong, the same command goes on."""
SAME_SIGNAL_S = 1.0
"""Ctrl-C reaches a process from the terminal and from its parent: within this it is one signal."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
REASONS: tuple[int, ...] = (*map(int, _SIGNALS), TIME_LIMIT)
"""Every reason to stop; where several are given, the first of them counts."""

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


class Stopper:
    """Notes SIGTERM, SIGINT and the end of a time limit, for a loop that asks after every step.

    Within its context (of the main thread) a first signal is noted, and a second one, later than
    `SAME_SIGNAL_S` after it, does what it would without. `time_limit_s` seconds are counted from
    `started`, a time of `time.monotonic`; None means from now.
    """

    def __init__(self, time_limit_s: float | None = None, *, started: float | None = None) -> None:
        self._limit = time_limit_s
        self._started = time.monotonic() if started is None else started
        self._signal = 0
        self._noted = 0.0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self._signal:
            self._signal, self._noted = number, time.monotonic()
        elif time.monotonic() - self._noted > SAME_SIGNAL_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def reason(self) -> int:
        """0 to go on, the number of a signal, or `TIME_LIMIT`."""
        if self._signal:
            return self._signal
        over = self._limit is not None and time.monotonic() - self._started >= self._limit
        return TIME_LIMIT if over else 0

    def interrupted(self, reason: int) -> Interrupted:
        """What to raise, after saving, for a `reason` that this or another rank gave."""
        if reason == TIME_LIMIT:
            cause, code = "the time limit is over", TIME_LIMIT_EXIT
        else:
            cause, code = f"stopped by {signal.Signals(reason).name}", 128 + reason
        return Interrupted(f"{cause}; the state is saved, the same command goes on", code)


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
