"""TensorBoard: event files in `<run>/tensorboard/fold-<number>`."""

import shutil
from collections.abc import Mapping
from typing import Any

from dr.loggers.base import Logged, Logger, figures, kept


class TensorBoardLogger(Logger):
    """Writes a fold's event file anew from its history, so that no reader meets an epoch twice."""

    def __init__(self, logged: Logged) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = logged.run / "tensorboard" / logged.folder.name
        shutil.rmtree(folder, ignore_errors=True)
        # A TensorBoard that is open drops from `purge_step` on what it read from the old file.
        self._writer: Any = SummaryWriter(str(folder), purge_step=0)
        self._writer.add_text("settings", _table(logged), 0)
        for row in logged.history:
            self._add(figures(row), row["epoch"])
        self._writer.flush()

    def epoch(self, row: Mapping[str, Any]) -> None:
        self._add(figures(row), row["epoch"])
        self._writer.flush()

    def finish(self, scores: Mapping[str, Any]) -> None:
        self._add(kept(scores), scores.get("epoch", 0))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _add(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, int(step))


def _table(logged: Logged) -> str:
    """The fold and its settings as a Markdown table."""
    values = {"run": logged.name, "identity": logged.identity, **logged.settings}
    rows = [f"| {key} | {str(value).replace('|', '&#124;')} |" for key, value in values.items()]
    return "\n".join(["| setting | value |", "|---|---|", *rows])
