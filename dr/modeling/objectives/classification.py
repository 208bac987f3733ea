"""Objectives over five outputs, the softmax of which are the probabilities of the grades."""

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from dr.config import GRADES, CrossEntropyConfig, FocalConfig, SoftOrdinalConfig
from dr.modeling.objectives.base import ProbabilityObjective, Table, expected_grade, grades, widened


class CrossEntropy(ProbabilityObjective):
    """Softmax over the five grades; the score is the expected grade."""

    name = "cross_entropy"
    outputs = GRADES

    def __init__(
        self, config: CrossEntropyConfig, *, label_counts: ArrayLike | None = None
    ) -> None:
        super().__init__(config, label_counts=label_counts)
        self._smoothing = config.label_smoothing

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Negative log-likelihood of each record's grade. See `Objective.loss`."""
        return F.cross_entropy(widened(logits), labels, reduction="none")

    def training_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy with the smoothed label (Szegedy et al. 2016)."""
        return F.cross_entropy(
            widened(logits), labels, reduction="none", label_smoothing=self._smoothing
        )

    def decode(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax, and its expected grade. See `Objective.decode`."""
        return _softmax(logits)


class Focal(ProbabilityObjective):
    """Focal loss (Lin et al. 2017): `(1 - p) ** gamma` times the cross-entropy of the grade.

    It holds back from records that are likely already; its probabilities are less sure than
    those of cross-entropy.
    """

    name = "focal"
    outputs = GRADES

    def __init__(self, config: FocalConfig, *, label_counts: ArrayLike | None = None) -> None:
        super().__init__(config, label_counts=label_counts)
        self._gamma = config.gamma

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Focal loss of each record's grade. See `Objective.loss`."""
        wide = widened(logits)
        entropy = F.cross_entropy(wide, labels, reduction="none")
        own = labels[:, None] == grades(labels)
        log_others = wide.masked_fill(own, -torch.inf).logsumexp(dim=1) - wide.logsumexp(dim=1)
        return (self._gamma * log_others).exp() * entropy

    def decode(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax, and its expected grade. See `Objective.decode`."""
        return _softmax(logits)


class SoftOrdinal(ProbabilityObjective):
    """Cross-entropy with labels that are soft over neighbouring grades (SORD).

    Diaz and Marathe 2019, Soft Labels for Ordinal Regression: the label of grade t gives grade i
    `exp(-scale * distance(t, i))`, normalised. A network that fits puts out the soft label: its
    score, the expected grade, is pulled inwards at grades 0 and 4, its likeliest grade is not.
    """

    name = "soft_ordinal"
    outputs = GRADES

    def __init__(self, config: SoftOrdinalConfig, *, label_counts: ArrayLike | None = None) -> None:
        super().__init__(config, label_counts=label_counts)
        self._targets = Table(soft_labels(config))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy with each record's soft label. See `Objective.loss`."""
        wide = widened(logits)
        targets = self._targets.beside(labels)[labels].to(wide.dtype)
        return F.cross_entropy(wide, targets, reduction="none")

    def decode(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax, and its expected grade. See `Objective.decode`."""
        return _softmax(logits)


def soft_labels(config: SoftOrdinalConfig) -> Tensor:
    """float64 `[5, 5]`: row t is the soft label of grade t, summing to 1."""
    grade = torch.arange(GRADES, dtype=torch.float64)
    apart = (grade[:, None] - grade).abs()
    distance = apart.square() if config.distance == "squared" else apart
    return (-config.scale * distance).softmax(dim=1)


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    probabilities = logits.float().softmax(dim=1)
    return expected_grade(probabilities), probabilities
