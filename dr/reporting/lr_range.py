"""The picture of a learning-rate range test."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def draw_lr_range(
    target: Path, *, rates: Values, losses: Values, smoothed: Values, marks: Mapping[str, float]
) -> None:
    """Draw `losses` and `smoothed` float64 `[n]` over `rates` `[n]` as a PNG at `target`.

    `marks` are rates by what they are called; each is a vertical line. The loss axis shows the
    smoothed curve up to a little above its start, so that divergence does not flatten it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    ax = figure.subplots()
    ax.semilogx(rates, losses, ".", color="0.7", label="loss of a step")
    ax.semilogx(rates, smoothed, color="0.15", linewidth=2, label="smoothed")
    for number, (name, rate) in enumerate(marks.items()):
        ax.axvline(rate, color=f"C{number}", linestyle="--", label=f"{name}: {rate:.2g}")
    low, start = float(smoothed.min()), float(smoothed[0])
    room = max(start - low, 0.05 * abs(start), 1e-12)
    ax.set_ylim(low - 0.4 * room, max(start, low) + 0.8 * room)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("training loss")
    ax.grid(color="0.9", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    aside = target.with_name(f".{target.name}-{os.getpid()}.png")
    try:
        figure.savefig(aside, format="png")
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
