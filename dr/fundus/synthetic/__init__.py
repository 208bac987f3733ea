"""Synthetic fundus photographs: drawn eyes, for where no patient's may be shipped."""

from dr.fundus.synthetic.dataset import draw_photograph, draw_photographs
from dr.fundus.synthetic.labels import Row, synthetic_labels

__all__ = ["Row", "draw_photograph", "draw_photographs", "synthetic_labels"]
