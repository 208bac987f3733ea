"""What a logger is told of a fold, and the guard that keeps a failing one from ending the run."""

import json
import logging
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from dr.files import write_json
from dr.urls import masked

TOKEN_FILE = "logger.json"
KEPT = "kept/"
"""Before the name of a score of the epoch that is kept."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Logged:
    """The fold that is logged.

    `folder` is the fold's, in the run's folder; `history` has the rows of history.csv of the
    epochs that are done already; `settings` are flat.
    """

    folder: Path
    fold: int
    identity: str
    settings: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder.parent

    @property
    def name(self) -> str:
        """`<run folder>/<fold folder>`."""
        return f"{self.run.name}/{self.folder.name}"

    def token(self) -> str:
        """What tells this fold's training from all others, also after an interruption."""
        path = self.folder / TOKEN_FILE
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, {"token": uuid.uuid4().hex[:16]})
        return str(json.loads(path.read_text())["token"])


class Logger(ABC):
    """Takes the figures of one fold, epoch by epoch; a step of it is an epoch, from 1.

    To open one brings it up to date with the history, so that each epoch is in it once.
    """

    @abstractmethod
    def epoch(self, row: Mapping[str, Any]) -> None:
        """Log a row of history.csv."""

    @abstractmethod
    def finish(self, scores: Mapping[str, Any]) -> None:
        """The fold is done: log the scores of its kept epoch, `scores["epoch"]`.

        They are empty where that epoch is chosen later.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections; without `finish`, the fold was interrupted."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class NoLogger(Logger):
    """Logs nothing."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        pass

    def finish(self, scores: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class GuardedLogger(Logger):
    """A logger that is switched off, with one warning, when it fails or takes too long.

    Each call has `seconds` seconds, `close` after an interruption `hurry` seconds.
    """

    def __init__(
        self, name: str, opening: Callable[[], Logger], *, seconds: float = 60, hurry: float = 3
    ) -> None:
        self._name = name
        self._seconds = seconds
        self._hurry = hurry
        self._finished = False
        self._logger: Logger | None = self._attempt("opening it", opening)

    def epoch(self, row: Mapping[str, Any]) -> None:
        if (logger := self._logger) is not None:
            self._attempt(f"epoch {row['epoch']}", lambda: logger.epoch(row))

    def finish(self, scores: Mapping[str, Any]) -> None:
        self._finished = True
        if (logger := self._logger) is not None:
            self._attempt("the scores", lambda: logger.finish(scores))

    def close(self) -> None:
        logger, self._logger = self._logger, None
        if logger is not None:
            seconds = self._seconds if self._finished else self._hurry
            self._attempt("closing it", logger.close, seconds=seconds)

    def _attempt(
        self, what: str, call: Callable[[], T], *, seconds: float | None = None
    ) -> T | None:
        try:
            return within(seconds or self._seconds, call)
        except Exception as error:
            self._logger = None
            _log.warning(
                "logger=%s: switched off, the run goes on without it; %s failed: %s",
                self._name,
                what,
                masked(f"{type(error).__name__}: {error}"),
            )
            return None


def within(seconds: float, call: Callable[[], T]) -> T:
    """The result of `call`; what takes longer is left alone in its thread.

    Raises TimeoutError then, RuntimeError for an exit asked for, else what `call` raises.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="logger", daemon=True)
    thread.start()
    thread.join(seconds)
    if results:
        return results[0]
    if not errors:
        raise TimeoutError(f"no answer within {seconds:g} s")
    if isinstance(errors[0], Exception):
        raise errors[0]
    raise RuntimeError(repr(errors[0])) from errors[0]


def figures(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of history.csv or of scores, but for the epoch."""
    return {
        name: float(value) for name, value in row.items() if name != "epoch" and value is not None
    }


def kept(scores: Mapping[str, Any]) -> dict[str, float]:
    """`figures` of the kept epoch, by the names they are logged by."""
    numbers = figures(scores)
    if scores:
        numbers["epoch"] = float(scores["epoch"])
    return {KEPT + name: value for name, value in numbers.items()}


def batches(values: Mapping[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """The entries of a mapping, at most `size` at a time."""
    items = list(values.items())
    for begin in range(0, len(items), size):
        yield dict(items[begin : begin + size])
