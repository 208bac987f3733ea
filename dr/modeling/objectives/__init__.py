"""Objectives: what the head puts out, its loss, and how it decodes to a grade.

Here alone do the objectives differ. Whoever holds an `Objective` gets per-record losses, a score
in [0, 4] and the probabilities of five grades; the predicted grade is, everywhere in the
project, the argmax of the probabilities.
"""

from numpy.typing import ArrayLike

from dr.config import OBJECTIVES as CONFIGS
from dr.config import ObjectiveConfig
from dr.modeling.objectives.base import Objective
from dr.modeling.objectives.classification import CrossEntropy, Focal, SoftOrdinal
from dr.modeling.objectives.ordinal import Coral, Corn, Cumulative
from dr.modeling.objectives.regression import Huber, Regression

__all__ = ["OBJECTIVES", "Objective", "build_objective"]

OBJECTIVES: dict[str, type[Objective]] = {
    kind.name: kind
    for kind in (CrossEntropy, Focal, SoftOrdinal, Regression, Huber, Coral, Corn, Cumulative)
}
"""The class of each objective, by name."""


def build_objective(config: ObjectiveConfig, *, label_counts: ArrayLike | None = None) -> Objective:
    """The objective that `config.name` names; a bare `ObjectiveConfig` stands for its defaults.

    Args:
        config: its settings.
        label_counts: int `[5]`, how many of the fold's training records have each grade. Training
            with `class_weights` needs them, evaluation and prediction don't.

    Raises:
        ValueError: there is none of that name.
    """
    if config.name not in OBJECTIVES:
        names = ", ".join(OBJECTIVES)
        raise ValueError(f"objective.name={config.name!r}: choose one of {names}")
    if type(config) is ObjectiveConfig:
        config = CONFIGS[config.name](class_weights=config.class_weights)
    return OBJECTIVES[config.name](config, label_counts=label_counts)
