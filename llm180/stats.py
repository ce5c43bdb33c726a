"""Means with intervals, as the experiments of the lessons print them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

__all__ = ["Interval", "interval"]


class Interval(NamedTuple):
    """A mean, and how far its confidence interval reaches to either side; ``f"{x:.1f}"`` prints both."""

    mean: float
    half: float

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}} ± {self.half:{spec}}"

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside: for paired differences, the evidence that there is one."""
        return abs(self.mean) > self.half


def interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean of independent runs and the half-width of its confidence interval, by Student's t.

    ``values`` are at least two numbers, one per seed or split. Day 6 derives the interval. To compare two methods on
    the same seeds, give the differences: ``interval(a - b)``.

    Raises ValueError for fewer than two values, more than one axis, or a confidence not between 0 and 1, and TypeError
    for an :class:`Interval`, whose two numbers are no runs.
    """
    if isinstance(values, Interval):
        raise TypeError("interval() takes the values of the runs; this is an Interval already")
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or x.size < 2:
        raise ValueError(f"an interval needs a list of at least two numbers, got shape {x.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is a number between 0 and 1, got {confidence}")
    quantile = float(student.ppf((1 + confidence) / 2, x.size - 1))
    return Interval(float(x.mean()), quantile * float(x.std(ddof=1)) / x.size**0.5)
