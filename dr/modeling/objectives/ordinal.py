"""Objectives with four outputs, one for each step between neighbouring grades.

The score is, in all of them, the expected grade, which equals the sum of P(grade > k) over k.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dr.config import GRADES
from dr.modeling.objectives.base import ProbabilityObjective, expected_grade, widened

STEPS = GRADES - 1
MIN_GAP = 1e-6
"""Below this distance of two logits their probabilities can't be told apart in float32."""


class Coral(ProbabilityObjective):
    """Output k tells the grade's being above k, by one weight vector and four biases (CORAL).

    Cao, Mirjalili and Raschka 2020, Rank consistent ordinal regression. The biases are in order
    at the optimum, not on the way there: where P(grade > k) rises with k, it is rearranged, which
    never takes it further from the true one (Chernozhukov, Fernandez-Val and Galichon 2010) and
    keeps the score.
    """

    name = "coral"
    outputs = STEPS
    head = "shared"

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum over the steps of the binary cross-entropy of `grade > k`. See `Objective.loss`."""
        wide = widened(logits)
        above = (labels[:, None] > _steps(labels)).to(wide.dtype)
        return F.binary_cross_entropy_with_logits(wide, above, reduction="none").sum(dim=1)

    def decode(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Differences of P(grade > k), and their expected grade. See `Objective.decode`."""
        return _from_survival(logits.float().sigmoid())


class Corn(ProbabilityObjective):
    """Output k tells the grade's being above k, given that it is at least k (CORN).

    Shi, Cao and Raschka 2021, Deep neural networks for rank-consistent ordinal regression based
    on conditional probabilities.
    """

    name = "corn"
    outputs = STEPS

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum of the binary cross-entropies of the steps that the grade reaches.

        It is the negative log-likelihood of the grade. The paper divides a batch's sum by its
        number of reached steps, where the mean over records divides by the records.
        """
        wide = widened(logits)
        above = (labels[:, None] > _steps(labels)).to(wide.dtype)
        reached = labels[:, None] >= _steps(labels)
        each = F.binary_cross_entropy_with_logits(wide, above, reduction="none")
        return torch.where(reached, each, 0).sum(dim=1)

    def decode(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The chain of conditional probabilities, and its mean. See `Objective.decode`."""
        wide = logits.float()
        reach = F.pad(wide.sigmoid().cumprod(dim=1), (1, 0), value=1.0)
        stop = F.pad((-wide).sigmoid(), (0, 1), value=1.0)
        probabilities = reach * stop
        return expected_grade(probabilities), probabilities


class Cumulative(ProbabilityObjective):
    """The proportional odds model (McCullagh 1980): one slope, four thresholds in order.

    P(grade > k) is the sigmoid of output k; the head keeps the outputs descending.
    """

    name = "cumulative"
    outputs = STEPS
    head = "ordered"

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Negative log-likelihood of each record's grade. See `Objective.loss`.

        Each row of `logits` descends. It uses `s(a) - s(b) = s(a) s(-b) (1 - exp(b - a))` for the
        sigmoid s, in logarithms, so that no probability is lost to rounding.
        """
        wide = widened(logits)
        gaps = (wide[:, :-1] - wide[:, 1:]).clamp(min=MIN_GAP)
        chances = (
            F.pad(F.logsigmoid(wide), (1, 0))
            + F.pad(F.logsigmoid(-wide), (0, 1))
            + F.pad((-torch.expm1(-gaps)).log(), (1, 1))
        )
        return -chances.gather(1, labels[:, None]).squeeze(1)

    def decode(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Differences of P(grade > k), and their expected grade. See `Objective.decode`."""
        return _from_survival(logits.float().sigmoid())


def _steps(like: Tensor) -> Tensor:
    return torch.arange(STEPS, device=like.device)


def _from_survival(above: Tensor) -> tuple[Tensor, Tensor]:
    """Score and probabilities of P(grade > k) `[N, 4]`, rearranged to descend."""
    ordered = above.sort(dim=1, descending=True).values
    edges = F.pad(F.pad(ordered, (1, 0), value=1.0), (0, 1))
    probabilities = edges[:, :-1] - edges[:, 1:]
    return expected_grade(probabilities), probabilities
