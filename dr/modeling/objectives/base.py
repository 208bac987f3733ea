"""What every objective is, and what several of them share."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dr.config import GRADES, ObjectiveConfig


class Objective(ABC):
    """A loss and its decoding.

    Attributes:
        name: the key it is chosen by, `objective.name`.
        outputs: number of outputs of the model's head.
        head: what kind of head that is, a key of `dr.modeling.heads.HEADS`.
    """

    name: str
    outputs: int
    head: str = "linear"

    def __init__(self, config: ObjectiveConfig, *, label_counts: ArrayLike | None = None) -> None:
        """`label_counts` [5] are needed to train with class weights, and for nothing else."""
        self._weights = None
        self._host_weights = np.ones(GRADES)
        self._weighted = config.class_weights > 0
        if self._weighted and label_counts is not None:
            weights = class_weights(label_counts, strength=config.class_weights)
            self._weights = Table(torch.tensor(weights, dtype=torch.float32))
            self._host_weights = weights

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Losses of the records, not reduced, as evaluation reports them.

        Neither class weights nor label smoothing enter, so that runs with and without compare.

        Args:
            logits: `[N, outputs]`, any floating dtype; below float32 they are widened first.
            labels: int64 `[N]`, grades 0 to 4.

        Returns:
            float32 `[N]` (float64 for float64 logits), at least 0.
        """

    def training_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Losses of the records as they are trained on, before class weights. See `loss`."""
        return self.loss(logits, labels)

    def training_sums(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum of the training losses, and the sum of the records' class weights.

        The loss to train on is the first over the second, each summed over all ranks before.
        Both are scalars of the losses' dtype; without class weights the second is N.
        """
        losses = self.training_losses(logits, labels)
        weights = self.record_weights(labels).to(losses.dtype)
        return (losses * weights).sum(), weights.sum()

    def record_weights(self, labels: Tensor) -> Tensor:
        """The class weight of each record, float32 `[N]`: 1 without `objective.class_weights`."""
        if self._weights is None:
            assert not self._weighted, "training with class weights needs label_counts"
            return torch.ones(labels.shape, dtype=torch.float32, device=labels.device)
        return self._weights.beside(labels)[labels]

    def total_weight(self, labels: NDArray[np.int64]) -> float:
        """The sum of the class weights of records with `labels` int64 `[N]`, on the host."""
        return float(self._host_weights[labels].sum())

    @abstractmethod
    def decode(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Decode `[N, outputs]` logits.

        Returns:
            The score, float32 `[N]` in [0, 4], and the probabilities of the grades, float32
            `[N, 5]`, each in [0, 1], rows summing to 1. The score is their mean.
        """

    def explained(self, logits: Tensor) -> Tensor:
        """What a heat map explains of `[N, outputs]` logits: `[N]`, rising with the score.

        It has a gradient where the score is clamped too.
        """
        return self.decode(logits)[0]

    @abstractmethod
    def combine(self, scores: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over the `M` models (or views) of an ensemble.

        Args:
            scores: `[M, N]`, each row from `decode`.
            probabilities: `[M, N, 5]`, each slice from `decode`.

        Returns:
            As `decode`: float32 `[N]` and `[N, 5]`.
        """


class ProbabilityObjective(Objective):
    """An objective whose outputs say how likely each grade is: ensembles average probabilities."""

    def combine(self, scores: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the probabilities, and its expected grade. See `Objective.combine`."""
        mean = probabilities.double().mean(dim=0).float()
        return expected_grade(mean), mean


class Table:
    """A constant tensor that moves, once, to the device of what it is used beside."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def beside(self, other: Tensor) -> Tensor:
        """The constant on the device of `other`."""
        if self._values.device != other.device:
            self._values = self._values.to(other.device)
        return self._values


def class_weights(label_counts: ArrayLike, *, strength: float) -> NDArray[np.float64]:
    """Weights of the grades, proportional to (1 / frequency) ** `strength`.

    Args:
        label_counts: how many training records each of the 5 grades has, not all 0.
        strength: from 0 (all alike) to 1 (each grade weighs the same in all).

    Returns:
        float64 `[5]`, of mean 1 over the training records; 0 for a grade that none has.
    """
    counts = np.asarray(label_counts, dtype=np.float64)
    assert counts.shape == (GRADES,) and counts.sum() > 0
    weights = np.zeros(GRADES)
    present = counts > 0
    weights[present] = counts[present] ** -strength
    scaled: NDArray[np.float64] = weights * counts.sum() / (weights * counts).sum()
    return scaled


def widened(logits: Tensor) -> Tensor:
    """`logits` as float32 at least: below it, losses lose the digits that gradients need."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def grades(like: Tensor) -> Tensor:
    """0 to 4, in dtype and on the device of `like`."""
    return torch.arange(GRADES, dtype=like.dtype, device=like.device)


def expected_grade(probabilities: Tensor) -> Tensor:
    """Mean grade `[N]` of probabilities `[N, 5]`, in [0, 4]."""
    return (probabilities * grades(probabilities)).sum(dim=1).clamp(0, GRADES - 1)
