"""Objectives: what the head puts out, its loss, and how it decodes to a grade.

Here alone do the objectives differ. Whoever holds an `Objective` gets per-record losses, a score
in [0, 4] and the probabilities of five grades; the predicted grade is, everywhere in the
project, the argmax of the probabilities.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from dr.config import GRADES, ObjectiveConfig


class Objective(ABC):
    """A loss and its decoding.

    Attributes:
        name: the key it is chosen by, `objective.name`.
        outputs: number of outputs of the model's head.
    """

    name: str
    outputs: int

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Losses of the records, not reduced.

        Args:
            logits: `[N, outputs]`, any floating dtype; below float32 they are widened first.
            labels: int64 `[N]`, grades 0 to 4.

        Returns:
            float32 `[N]` (float64 for float64 logits), at least 0.
        """

    @abstractmethod
    def decode(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Decode `[N, outputs]` logits.

        Returns:
            The score, float32 `[N]` in [0, 4], and the probabilities of the grades, float32
            `[N, 5]`, each in [0, 1], rows summing to 1.
        """

    @abstractmethod
    def combine(self, scores: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over the `M` models (or views) of an ensemble.

        Args:
            scores: `[M, N]`, each row from `decode`.
            probabilities: `[M, N, 5]`, each slice from `decode`.

        Returns:
            As `decode`: float32 `[N]` and `[N, 5]`.
        """


class CrossEntropy(Objective):
    """Softmax over the five grades; the score is the expected grade."""

    name = "cross_entropy"
    outputs = GRADES

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Negative log-likelihood of each record's grade. See `Objective.loss`."""
        return F.cross_entropy(_widened(logits), labels, reduction="none")

    def decode(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax, and its expected grade. See `Objective.decode`."""
        probabilities = logits.float().softmax(dim=1)
        return _expected_grade(probabilities), probabilities

    def combine(self, scores: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the probabilities, and its expected grade. See `Objective.combine`."""
        mean = probabilities.double().mean(dim=0).float()
        return _expected_grade(mean), mean


class Regression(Objective):
    """One output trained on the squared error of the grade; the score is the output, clamped.

    The probabilities spread the score linearly over its two neighbouring grades, so that their
    mean is the score and their argmax the nearest grade (a half goes down).
    """

    name = "regression"
    outputs = 1

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Squared error of the grade, not clamped. See `Objective.loss`."""
        output = _widened(logits).squeeze(1)
        return (output - labels.to(output.dtype)).square()

    def decode(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The clamped output, and its interpolation. See `Objective.decode`."""
        score = logits.float().squeeze(1).clamp(0, GRADES - 1)
        return score, _interpolated(score)

    def combine(self, scores: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the scores, and its interpolation. See `Objective.combine`."""
        score = scores.double().mean(dim=0).float()
        return score, _interpolated(score)


OBJECTIVES: dict[str, type[Objective]] = {kind.name: kind for kind in (CrossEntropy, Regression)}


def build_objective(config: ObjectiveConfig) -> Objective:
    """The objective that `config.name` names.

    Raises:
        ValueError: there is none of that name.
    """
    if config.name not in OBJECTIVES:
        names = ", ".join(OBJECTIVES)
        raise ValueError(f"objective.name={config.name!r}: choose one of {names}")
    return OBJECTIVES[config.name]()


def _widened(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _grades(like: Tensor) -> Tensor:
    return torch.arange(GRADES, dtype=like.dtype, device=like.device)


def _expected_grade(probabilities: Tensor) -> Tensor:
    return (probabilities * _grades(probabilities)).sum(dim=1).clamp(0, GRADES - 1)


def _interpolated(score: Tensor) -> Tensor:
    return (1 - (score[:, None] - _grades(score)).abs()).clamp(min=0)
