"""SIGTERM and SIGINT, noted for work that comes to its end by itself."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

SAME_SIGNAL_S = 1.0
"""Signals within this time are one: a terminal's Ctrl-C may arrive a second time as a wrapper's."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class FirstSignal:
    """The first of `SIGNALS` that comes within the context, of the main thread; 0: none came.

    `then` is called with it. One that comes later than `SAME_SIGNAL_S` after it has its default
    action. `since` is the time (of `time.monotonic`) at which the first one came.
    """

    def __init__(self, then: Callable[[int], None] = lambda number: None) -> None:
        self.number = 0
        self.since = 0.0
        self._then = then
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.number:
            self.number, self.since = number, time.monotonic()
            self._then(number)
        elif time.monotonic() - self.since > SAME_SIGNAL_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
