"""Training pictures that grow over a run: small and quick at first, of the full size at its end.

The progressive resizing of fast.ai, and of EfficientNetV2 (Tan and Le 2021, arXiv 2104.00298),
whose augmentation grows along; here it stays as it is. Scores are always those of the full size.
"""

from dataclasses import dataclass

STEP = 32
"""Sizes between the first and the last are multiples of it, the stride of common networks."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """From `start` px in the first epoch to `end` px, over `percent` of `epochs`.

    The last epoch is at `end` in any case, as a network is scored there.
    """

    start: int
    end: int
    percent: float
    epochs: int

    def image_size_at(self, epoch: int) -> int:
        """The training size of an epoch, from 0; never falls.

        It lies on a line, at the nearest multiple of `STEP`, `start` and `end` themselves aside.
        """
        growing = min(self.epochs * self.percent / 100, self.epochs - 1)
        if epoch >= growing:
            return self.end
        if epoch == 0:
            return self.start
        size = self.start + (self.end - self.start) * epoch / growing
        return min(max(self.start, STEP * round(size / STEP)), self.end)

    @property
    def sizes(self) -> tuple[int, ...]:
        """All sizes of the run, from the smallest."""
        return tuple(sorted({self.image_size_at(epoch) for epoch in range(self.epochs)}))
