"""Where the time of a run goes."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from dr.files import write_json
from dr.training.run_folder import RunFolder


class Timings:
    """Adds up the seconds of named stages; a stage's own are without those of stages inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = self._since = time.perf_counter()
        self._open: list[str] = []

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """The time of this block is the stage's."""
        self._close()
        self._open.append(stage)
        try:
            yield
        finally:
            self._close()
            self._open.pop()

    def _close(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.add({self._open[-1]: now - self._since})
        self._since = now

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add what another process took for its stages."""
        for stage, taken in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + taken

    def summary(self) -> dict[str, float]:
        """Seconds of every stage, of none of them as `rest`, and of all since the first `total`."""
        total = time.perf_counter() - self._began
        rest = total - sum(self.seconds.values())
        entry = {**self.seconds, "rest": rest, "total": total}
        return {stage: round(seconds, 3) for stage, seconds in entry.items()}


def record_timings(run: RunFolder, timings: Timings) -> None:
    """Add an entry for this process to the run's `environment.json`."""
    from filelock import FileLock

    path = run.path / "environment.json"
    with FileLock(run.path / ".lock"):
        environment = json.loads(path.read_text())
        entry = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **timings.summary()}
        environment["timings"] = [*environment.get("timings", []), entry]
        write_json(path, environment)
