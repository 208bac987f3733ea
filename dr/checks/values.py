"""Checks of single values, each a list of at most one problem."""

import math
from collections.abc import Iterable

from dr.config import Problem


def one_of(key: str, value: object, allowed: Iterable[str]) -> list[Problem]:
    """Nothing where `value` is one of `allowed`."""
    names = tuple(allowed)
    if value in names:
        return []
    return [Problem(key, value, f"choose one of {', '.join(names)}")]


def at_least(key: str, value: float | None, low: float) -> list[Problem]:
    """Nothing for None, or a finite number of at least `low`."""
    if value is None or (math.isfinite(value) and value >= low):
        return []
    return [Problem(key, value, f"must be a number of at least {low}")]


def above(key: str, value: float | None, low: float) -> list[Problem]:
    """Nothing for None, or a finite number above `low`."""
    if value is None or (math.isfinite(value) and value > low):
        return []
    return [Problem(key, value, f"must be a number above {low}")]


def share(key: str, value: float) -> list[Problem]:
    """Nothing for a number from 0 to below 1."""
    return [] if 0 <= value < 1 else [Problem(key, value, "must be at least 0 and below 1")]


def required(key: str, value: object, fix: str) -> list[Problem]:
    """Nothing where something is given."""
    return [Problem(key, value, fix)] if value in (None, "", []) else []
