"""The worst mistakes of a run, and their pictures as a page holds them."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dr.reporting.html.run_files import Predictions
from dr.scoring.metrics import grade_of

SIDE = 224
"""Side in pixels of a picture in the gallery, at most."""
_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A record whose score lies far from its label; `grade` is the predicted one."""

    name: str
    fold: int
    label: int
    score: float
    grade: int

    @property
    def distance(self) -> float:
        """How far the score is from the label, in grades."""
        return abs(self.score - self.label)


@dataclass(frozen=True)
class Pictures:
    """A photograph and what explains its score, uint8 `[S, S, 3]`, RGB; None: there is none."""

    photograph: NDArray[np.uint8]
    heat_map: NDArray[np.uint8] | None = None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A mistake as the page shows it; pictures are data URIs of `side` px, or empty."""

    name: str
    fold: int
    label: int
    score_text: str
    grade: int
    picture: str = ""
    heat_map: str = ""
    side: int = SIDE


def worst_mistakes(predictions: Predictions, count: int) -> list[Mistake]:
    """The `count` records whose scores lie furthest from their labels, the furthest first.

    Equals come in the order of their names. Records whose predicted grade is right are none.
    """
    grades = grade_of(predictions.probabilities)
    distances = np.abs(predictions.scores - predictions.labels)
    order = np.lexsort((np.array(predictions.names), -distances))
    wrong = [int(row) for row in order if grades[row] != predictions.labels[row]]
    return [
        Mistake(
            name=predictions.names[row],
            fold=int(predictions.folds[row]),
            label=int(predictions.labels[row]),
            score=float(predictions.scores[row]),
            grade=int(grades[row]),
        )
        for row in wrong[:count]
    ]


def shown(mistake: Mistake, pictures: Mapping[str, Pictures]) -> Shown:
    """A mistake with its pictures, as far as there are some, by its name."""
    found = pictures.get(mistake.name)
    heat_map = None if found is None else found.heat_map
    return Shown(
        name=mistake.name,
        fold=mistake.fold,
        label=mistake.label,
        score_text=f"{mistake.score:.2f}",
        grade=mistake.grade,
        picture="" if found is None else data_uri(found.photograph),
        heat_map="" if heat_map is None else data_uri(heat_map),
    )


def data_uri(picture: NDArray[np.uint8], *, side: int = SIDE) -> str:
    """uint8 `[S, S, 3]` as a small JPEG in a `data:` URI, shrunk to `side` px where larger."""
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
