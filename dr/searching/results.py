"""What came of a search, in words."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from dr.config import SearchConfig

FINISHED, DROPPED, FAILED, RUNNING = "finished", "dropped", "failed", "under way"
_STATES = {
    TrialState.COMPLETE: FINISHED,
    TrialState.PRUNED: DROPPED,
    TrialState.FAIL: FAILED,
    TrialState.RUNNING: RUNNING,
    TrialState.WAITING: RUNNING,
}
_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """A trial: the values it tried by key, each trained fold's score, its run folder's name.

    `score` is the mean of its folds', None where it has none; `error` says why it failed.
    """

    number: int
    state: str
    values: dict[str, Any]
    scores: dict[int, float]
    score: float | None
    run: str | None
    error: str | None


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """A search's folder, its config, and every trial, by number."""

    folder: Path
    config: SearchConfig
    rows: tuple[TrialRow, ...]

    def of(self, state: str) -> list[TrialRow]:
        """The trials of a state; those that are finished best first."""
        found = [row for row in self.rows if row.state == state]
        sign = 1 if self.config.metric == "loss" else -1
        return sorted(found, key=lambda row: 0.0 if row.score is None else sign * row.score)

    @property
    def best(self) -> TrialRow | None:
        """The finished trial of the best score."""
        return next(iter(self.of(FINISHED)), None)


def trial_rows(study: Study) -> tuple[TrialRow, ...]:
    """Every trial of a study, by number."""
    return tuple(_row(trial) for trial in study.get_trials(deepcopy=False))


def _row(trial: FrozenTrial) -> TrialRow:
    scores = {int(fold): score for fold, score in trial.user_attrs.get("scores", {}).items()}
    return TrialRow(
        number=trial.number,
        state=_STATES[trial.state],
        values=dict(trial.params),
        scores=scores,
        score=sum(scores.values()) / len(scores) if scores else None,
        run=trial.user_attrs.get("run"),
        error=trial.user_attrs.get("error"),
    )


def describe(result: SearchResult) -> str:
    """The best trials in a table, what became of the others, and what to do next."""
    states = (FINISHED, DROPPED, FAILED, RUNNING)
    counts = ", ".join(f"{len(result.of(state))} {state}" for state in states)
    lines = [f"{result.folder}", f"  {len(result.rows)} trials: {counts}"]
    lines += _best(result) + _dropped(result) + _failed(result)
    if result.of(RUNNING):
        lines.append("  trials under way are other processes'; the same command tells the end")
    return "\n".join(lines + _next(result))


def _best(result: SearchResult) -> list[str]:
    finished = result.of(FINISHED)
    if not finished:
        return ["  no trial was trained on all its folds"]
    keys = list(finished[0].values)
    head = ["trial", result.config.metric, "folds", *keys, "run"]
    rows = [_cells(row, keys) for row in finished[:_SHOWN]]
    more = len(finished) - len(rows)
    return ["", *_table([head, *rows]), *([f"  and {more} more"] if more else []), ""]


def _cells(row: TrialRow, keys: Sequence[str]) -> list[str]:
    values = [_number(row.values[key]) for key in keys]
    return [str(row.number), f"{row.score:.4f}", str(len(row.scores)), *values, str(row.run)]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return ["  " + "  ".join(cells).rstrip() for cells in padded]


def _dropped(result: SearchResult) -> list[str]:
    dropped = result.of(DROPPED)
    if not dropped:
        return []
    by_folds: dict[int, list[str]] = {}
    for row in sorted(dropped, key=lambda row: row.number):
        by_folds.setdefault(len(row.scores), []).append(str(row.number))
    when = "; ".join(
        f"after {count} fold{'s' * (count > 1)}: {', '.join(numbers)}"
        for count, numbers in sorted(by_folds.items())
    )
    return [f"  dropped {when}. Their runs stay unfinished: no other fold of them is trained"]


def _failed(result: SearchResult) -> list[str]:
    lines = []
    for row in result.of(FAILED):
        reason = (row.error or "its process died as it was asked for").replace("\n", "\n    ")
        lines.append(f"  trial {row.number} failed: {reason}")
    return lines


def _next(result: SearchResult) -> list[str]:
    best, config = result.best, result.config
    if best is None:
        return []
    outputs = shlex.quote(f"outputs={config.outputs}")
    rerun = shlex.quote(f"rerun={Path(config.outputs) / str(best.run)}")
    seeds = " ".join(str(config.seed + more) for more in (1, 2, 3))
    fold = shlex.quote(f"fold={config.fold}".replace(" ", ""))
    command = f"python -m dr.train {rerun} {fold} resume=auto seed=$seed"
    lines = [
        f"  The best of {len(result.rows)} trials was picked for its score, so that is optimistic. "
        "Which others",
        f"  can't be told from it: python -m dr.compare {outputs}",
        "  Fresh seeds of its setting tell more:",
        f"    for seed in {seeds}; do {command}; done",
    ]
    if config.select == "best":
        lines.append("  select=best: each fold's epoch was picked on it as well: optimistic twice")
    return lines
