"""How far a run is: rich bars on a terminal, plain lines elsewhere, always on stderr."""

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_log = logging.getLogger(__name__)


class JobProgress:
    """Counts work done out of `total` pictures (or photographs), with the time left for all.

    Without `bar` it prints lines on a terminal too: several processes may share that.
    """

    def __init__(
        self, total: int, *, description: str, every: float = 30.0, bar: bool = True
    ) -> None:
        self._console = Console(stderr=True)
        self._total = total
        self._done = 0
        self._description = description
        self._started = time.monotonic()
        self._said = self._started
        self._every = every
        self._bar: Progress | None = None
        if bar and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(description, total=total)

    def __enter__(self) -> "JobProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int, *, description: str | None = None) -> None:
        """Count `count` more as done."""
        self._done += count
        if self._bar is not None:
            text = description or self._description
            self._bar.update(self._task, advance=count, description=text)
        elif time.monotonic() - self._said > self._every:
            self._said = time.monotonic()
            _log.info("%s: %d of %d, %s", self._description, self._done, self._total, self.left())

    def skip(self, count: int) -> None:
        """Take `count` out of the work: it was done before."""
        self._total -= count
        if self._bar is not None:
            self._bar.update(self._task, total=self._total)

    def left(self) -> str:
        """The time left in words."""
        if not self._done:
            return "time left unknown"
        seconds = (time.monotonic() - self._started) * (self._total - self._done) / self._done
        return f"{_spell(seconds)} left"

    def say(self, line: str) -> None:
        """Print a line above the bar, or as it is."""
        if self._bar is not None:
            self._console.print(line, highlight=False, markup=False)
        else:
            _log.info("%s", line)


def _spell(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
