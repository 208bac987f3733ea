"""Objectives with one output, the grade itself."""

from numpy.typing import ArrayLike
from torch import Tensor

from dr.config import GRADES, HuberConfig
from dr.modeling.objectives.base import Objective, grades, widened


class Regression(Objective):
    """One output trained on the squared error of the grade; the score is the output, clamped.

    The probabilities spread the score linearly over its two neighbouring grades, so that their
    mean is the score and their argmax the nearest grade (a half goes down). They tell where the
    score lies, not how sure the model is. Ensembles average scores.
    """

    name = "regression"
    outputs = 1

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Squared error of the grade, not clamped. See `Objective.loss`."""
        output = widened(logits).squeeze(1)
        return (output - labels.to(output.dtype)).square()

    def decode(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The clamped output, and its interpolation. See `Objective.decode`."""
        score = logits.float().squeeze(1).clamp(0, GRADES - 1)
        return score, _interpolated(score)

    def explained(self, logits: Tensor) -> Tensor:
        """The output before it is clamped. See `Objective.explained`."""
        return logits.float().squeeze(1)

    def combine(self, scores: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the scores, and its interpolation. See `Objective.combine`."""
        score = scores.double().mean(dim=0).float()
        return score, _interpolated(score)


class Huber(Regression):
    """Regression on Huber's loss (1964): squared up to an error of `delta`, linear beyond."""

    name = "huber"

    def __init__(self, config: HuberConfig, *, label_counts: ArrayLike | None = None) -> None:
        super().__init__(config, label_counts=label_counts)
        self._delta = config.delta

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """`e ** 2 / 2` up to an error e of `delta`, `delta * (e - delta / 2)` beyond."""
        output = widened(logits).squeeze(1)
        # Not torch's own huber_loss, which XLA computes on the host.
        error = (output - labels.to(output.dtype)).abs()
        squared = error.clamp(max=self._delta)
        return squared * (error - squared / 2)


def _interpolated(score: Tensor) -> Tensor:
    return (1 - (score[:, None] - grades(score)).abs()).clamp(min=0)
