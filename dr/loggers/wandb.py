"""Weights & Biases: a run a fold, offline in `<run>/wandb` or on a server."""

import os
import shutil
from collections.abc import Mapping
from typing import Any

from dr.config import WandbConfig
from dr.loggers.base import Logged, Logger, figures, kept

INIT_SECONDS = 30


class WandbLogger(Logger):
    """The W&B run whose id is the fold's token.

    Offline files cannot be gone on with: those of an interrupted fold are written anew from its
    history. Online, W&B goes on with the run, and gets what it does not have yet.
    """

    def __init__(self, config: WandbConfig, logged: Logged) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        if config.mode == "offline":
            for old in (logged.run / "wandb").glob(f"offline-run-*-{logged.token()}"):
                shutil.rmtree(old)
        self._run = _begin(config, logged)
        self._finished = False
        first = self._run.step if self._run.resumed else 0
        for row in logged.history:
            if row["epoch"] >= first:
                self.epoch(row)

    def epoch(self, row: Mapping[str, Any]) -> None:
        self._run.log(figures(row), step=int(row["epoch"]), commit=True)

    def finish(self, scores: Mapping[str, Any]) -> None:
        self._run.summary.update(kept(scores))
        self._finished = True

    def close(self) -> None:
        self._run.finish(exit_code=0 if self._finished else 1)


def _begin(config: WandbConfig, logged: Logged) -> Any:
    import wandb

    online = config.mode == "online"
    return wandb.init(
        project=config.project,
        mode="online" if online else "offline",
        dir=str(logged.run),
        id=logged.token(),
        resume="allow" if online else None,
        group=logged.run.name,
        name=logged.name,
        config={"run": logged.run.name, "identity": logged.identity, "fold": logged.fold}
        | dict(logged.settings),
        settings=wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            init_timeout=INIT_SECONDS,
            silent=True,
            x_disable_stats=True,
        ),
    )
