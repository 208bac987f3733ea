"""Training curves of a run as one picture: loss, QWK, accuracy and learning rate by epoch."""

import csv
import math
import os
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dr.reporting.runs import RunSummary, read_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = dict[str, NDArray[np.float64]]
COLUMNS = ("epoch", "learning_rate", "train_loss", "loss", "qwk", "accuracy")
_TITLES = ("Loss", "QWK", "Accuracy", "Learning rate")
_RING: dict[str, Any] = {
    "marker": "o",
    "markersize": 9,
    "fillstyle": "none",
    "markeredgewidth": 2,
    "linestyle": "none",
}
_MEAN_COLOUR = "0.15"
_FEW_EPOCHS = 12
_TITLE_WIDTH = 100


def draw_curves(run: Path) -> Path:
    """Draw `curves.png` into a run folder and return its path.

    Four panels by epoch: loss (training dashed, validation solid), QWK, accuracy and learning
    rate; a colour a fold, a ring at the epoch each finished fold kept, and the mean with a band
    of one standard deviation where several folds were validated. Raises `ValueError` where the
    run has no `fold-K/history.csv`, or one cannot be read.
    """
    histories = read_histories(run)
    figure = _draw(read_run(run), histories)
    target = run / "curves.png"
    aside = run / f".curves-{os.getpid()}.png"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(aside, format="png")
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return target


def read_histories(run: Path) -> dict[int, History]:
    """Columns of each fold's `history.csv`: float64 [epochs], `nan` where a cell is empty."""
    paths = {
        int(path.parent.name.removeprefix("fold-")): path
        for path in run.glob("fold-*/history.csv")
        if path.parent.name.removeprefix("fold-").isdecimal()
    }
    histories = {fold: read_history(paths[fold]) for fold in sorted(paths)}
    if not any(len(history["epoch"]) for history in histories.values()):
        fix = "train an epoch first, or name another run folder"
        raise ValueError(f"{run}: no fold-*/history.csv holds an epoch; {fix}")
    return {fold: history for fold, history in histories.items() if len(history["epoch"])}


def read_history(path: Path) -> History:
    """The columns `COLUMNS` of one `history.csv`; `ValueError` names the file and the line."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if lacking:
            raise ValueError(f"{path}: lacks the columns {', '.join(lacking)}; train it again")
        rows = [_numbers(row, f"{path}, line {reader.line_num}") for row in reader]
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in COLUMNS}


def _numbers(row: Mapping[str, str | None], where: str) -> dict[str, float]:
    cells = {name: row[name] for name in COLUMNS}
    if None in cells.values():
        raise ValueError(f"{where}: has too few cells; train this fold again")
    try:
        return {name: float(cell) if cell else math.nan for name, cell in cells.items()}
    except ValueError as error:
        raise ValueError(f"{where}: {error}; train this fold again") from error


def _draw(run: RunSummary, histories: Mapping[int, History]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), dpi=110, layout="constrained")
    loss, qwk, accuracy, rate = figure.subplots(2, 2).flat
    colours = dict(zip(histories, _colours(len(histories)), strict=True))
    last = max(history["epoch"][-1] for history in histories.values())
    for ax, title in zip((loss, qwk, accuracy, rate), _TITLES, strict=True):
        _frame(ax, title, last)
    for fold, history in histories.items():
        _plot(loss, history, "train_loss", color=colours[fold], linestyle="--", linewidth=1)
    for ax, column in ((loss, "loss"), (qwk, "qwk"), (accuracy, "accuracy")):
        _draw_validation(ax, column, run, histories, colours)
    _draw_rates(rate, histories, colours)
    figure.suptitle(_title(run), parse_math=False, fontsize=12)
    handles = _legend(run, histories, colours)
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def _is_validated(histories: Mapping[int, History]) -> bool:
    return any(np.isfinite(history["qwk"]).any() for history in histories.values())


def _is_averaged(histories: Mapping[int, History]) -> bool:
    shortest = min(len(history["epoch"]) for history in histories.values())
    return _is_validated(histories) and len(histories) > 1 and shortest > 1


def _colours(count: int) -> list[Any]:
    from matplotlib import color_sequences, colormaps

    distinct = color_sequences["petroff10"]
    if count <= len(distinct):
        return list(distinct[:count])
    return [colormaps["turbo"](share) for share in np.linspace(0.05, 0.95, count)]


def _frame(ax: "Axes", title: str, last: float) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_title(title, loc="left", fontsize=11)
    ax.set_xlabel("epoch")
    ax.set_xlim(0.5, last + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.grid(color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _plot(ax: "Axes", history: History, column: str, **style: Any) -> None:
    style.setdefault("marker", "." if len(history["epoch"]) <= _FEW_EPOCHS else "")
    style.setdefault("linewidth", 1.3)
    ax.plot(history["epoch"], history[column], **style)


def _draw_validation(
    ax: "Axes",
    column: str,
    run: RunSummary,
    histories: Mapping[int, History],
    colours: Mapping[int, Any],
) -> None:
    if not _is_validated(histories):
        if column != "loss":
            ax.text(0.5, 0.5, "no validation fold", transform=ax.transAxes, ha="center")
            ax.set_yticks([])
        return
    for fold, history in histories.items():
        _plot(ax, history, column, color=colours[fold])
        at = np.flatnonzero(history["epoch"] == run.folds.get(fold, {}).get("epoch"))
        ring: dict[str, Any] = {"color": colours[fold], "clip_on": False} | _RING
        ax.plot(history["epoch"][at], history[column][at], **ring)
    if _is_averaged(histories):
        _draw_mean(ax, column, list(histories.values()))


def _draw_mean(ax: "Axes", column: str, histories: Sequence[History]) -> None:
    """Mean and standard deviation over folds, of the epochs that all of them have."""
    epochs = min((history["epoch"] for history in histories), key=len)
    values = np.array([history[column][: len(epochs)] for history in histories])
    mean, sd = values.mean(axis=0), values.std(axis=0, ddof=1)
    ax.plot(epochs, mean, color=_MEAN_COLOUR, linewidth=2.2)
    ax.fill_between(epochs, mean - sd, mean + sd, color=_MEAN_COLOUR, alpha=0.12, linewidth=0)


def _draw_rates(ax: "Axes", histories: Mapping[int, History], colours: Mapping[int, Any]) -> None:
    """One dark line where the folds share their learning rates, as far as each has come."""
    longest = max(histories.values(), key=lambda history: len(history["epoch"]))
    shared = all(
        np.allclose(history["learning_rate"], longest["learning_rate"][: len(history["epoch"])])
        for history in histories.values()
    )
    if shared:
        _plot(ax, longest, "learning_rate", color=_MEAN_COLOUR)
    else:
        for fold, history in histories.items():
            _plot(ax, history, "learning_rate", color=colours[fold])
    ax.yaxis.set_major_formatter("{x:.3g}")


def _legend(
    run: RunSummary, histories: Mapping[int, History], colours: Mapping[int, Any]
) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    training = Line2D([], [], color="0.4", linestyle="--", label="training loss")
    if not _is_validated(histories):
        return [training]
    entries: list[Any] = [
        Line2D([], [], color=colour, linewidth=2, label=_fold_label(run, fold))
        for fold, colour in colours.items()
    ]
    entries.append(training)
    if run.folds:
        entries.append(Line2D([], [], color="0.4", label="epoch kept", **_RING))
    if _is_averaged(histories):
        entries.append(Line2D([], [], color=_MEAN_COLOUR, linewidth=2.2, label="mean of folds"))
        entries.append(Patch(color=_MEAN_COLOUR, alpha=0.12, linewidth=0, label="± 1 sd"))
    return entries


def _fold_label(run: RunSummary, fold: int) -> str:
    qwk = run.folds.get(fold, {}).get("qwk", math.nan)
    return f"fold {fold}" if math.isnan(qwk) else f"fold {fold}: QWK {qwk:.3f}"


def _title(run: RunSummary) -> str:
    parts: list[str] = [] if run.state == "complete" else [run.state]
    if run.pooled is not None and not math.isnan(run.pooled["qwk"]):
        parts.append(f"pooled QWK {run.pooled['qwk']:.4f}")
    mean, sd = (scores.get("qwk", math.nan) for scores in (run.mean, run.sd))
    if not math.isnan(sd):
        parts.append(f"mean of folds {mean:.4f} ± {sd:.4f}")
    if run.optimistic:
        parts.append("epoch picked on the fold it is scored on: optimistic")
    name = "\n".join(textwrap.wrap(run.name, _TITLE_WIDTH)) or run.name
    return "\n".join(filter(None, (name, ", ".join(parts))))
