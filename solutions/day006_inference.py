"""Day 6: the Gaussian that makes the data most probable, a bootstrap interval for any
statistic, and a permutation test for the difference of two means."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from llm180 import known_mistakes


def mle_gaussian(
    x: ArrayLike, axis: int = -1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maximum likelihood for a Gaussian: mean, variance, and the log-likelihood there.

    Parameters
    ----------
    x:
        Independent observations of any numeric dtype, all finite. Computed in float64.
    axis:
        The axis of the observations, of length n at least 1; each slice along it is
        a data set of its own.

    Returns
    -------
    mean, variance, log_likelihood: float64, each of the shape of ``x`` without
    ``axis``. The variance divides by n. The log-likelihood is the sum over the
    observations of the natural log of the density at this mean and variance;
    ``inf`` where the variance is 0.

    Raises ValueError that says ``observations`` if there are none, and one that says
    ``finite`` if one is NaN or infinite.

    Source: Wasserman 2004, "All of Statistics", sec. 9.3.
    """
    x = np.asarray(x, dtype=np.float64)
    # equivalent `x.ndim <= 0` `x.shape[axis] <= 0`: neither is ever below 0
    if x.ndim == 0 or x.shape[axis] == 0:
        raise ValueError(f"no observations in an array of shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("every observation must be finite")
    mean = x.mean(axis=axis, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=axis)
    with np.errstate(divide="ignore"):  # the log of 0
        per_observation = -(np.log(2 * math.pi * variance) + 1) / 2
    return mean.squeeze(axis), variance, x.shape[axis] * per_observation


known_mistakes(
    mle_gaussian,
    (
        "((x - mean) ** 2).mean(axis=axis)",
        "x.var(axis=axis, ddof=min(1, x.shape[axis] - 1))",
        "the variance is divided by n - 1: that is the unbiased estimator, not the one of maximum likelihood",
    ),
    (
        "((x - mean) ** 2).mean(axis=axis)",
        "np.abs((x**2).mean(axis=axis) - mean.squeeze(axis) ** 2)",
        "the mean of the squares minus the square of the mean cancels when the mean is large: subtract first, then square",
    ),
    (
        "((x - mean) ** 2).mean(axis=axis)",
        "np.sqrt(((x - mean) ** 2).mean(axis=axis))",
        "the standard deviation is returned where the variance is asked for",
    ),
    (
        "    x = np.asarray(x, dtype=np.float64)\n",
        "    x = np.asarray(x)\n",
        "the sums are taken in the dtype of the input: float32 loses digits",
    ),
    (
        "x.shape[axis] * per_observation",
        "per_observation",
        "the log-likelihood is the sum over the observations, not the mean",
    ),
    (
        "np.log(2 * math.pi * variance)",
        "np.log(variance)",
        "the constant of the density is missing in the log-likelihood",
    ),
    (
        "mean = x.mean(axis=axis, keepdims=True)\n",
        "mean = np.full_like(x.mean(axis=axis, keepdims=True), x.mean())\n",
        "one mean is taken over the whole array; each slice has its own",
    ),
    (
        "    if not np.isfinite(x).all():\n",
        "    if False:\n",
        "NaN and infinity pass through instead of raising a ValueError",
    ),
    (
        "    if x.ndim == 0 or x.shape[axis] == 0:\n",
        "    if False:\n",
        "no observations give NaN with a warning; they are to be refused",
    ),
)


def bootstrap_ci(
    x: ArrayLike,
    statistic: Callable[..., ArrayLike],
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2000,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval for a statistic of independent observations.

    Parameters
    ----------
    x:
        ``(n, ...)``, n observations at least 1. An observation is a number or a row,
        and a row is drawn as a whole, so that pairs stay together.
    statistic:
        Called as ``statistic(sample, axis=k)``; reduces axis k, that of the
        observations, as ``np.mean`` does. May be given many samples at once.
    rng:
        The source of chance: an equal state gives an equal interval.
    level:
        The share of the resampled values between the two ends, above 0 and below 1.
    resamples:
        How many samples of n observations are drawn, with replacement, at least 1.

    Returns
    -------
    low, high: the quantiles ``(1 - level) / 2`` and ``(1 + level) / 2`` of the
    statistic over the resamples, each of the shape of ``statistic(x, axis=0)``.

    Raises ValueError that says ``observations``, ``level`` or ``resamples``, for
    what is not as above.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13.
    """
    x = np.asarray(x)
    # equivalent `x.ndim <= 0` `len(x) <= 0`: neither is ever below 0
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"no observations in an array of shape {x.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    chosen = rng.integers(len(x), size=(resamples, len(x)))
    values = statistic(x[chosen], axis=1)  # x[chosen]: (resamples, n, ...)
    ends = (1 - level) / 2, (1 + level) / 2
    low, high = np.quantile(values, ends, axis=0)
    return low, high


known_mistakes(
    bootstrap_ci,
    (
        "chosen = rng.integers(len(x), size=(resamples, len(x)))",
        "chosen = np.random.default_rng(0).integers(len(x), size=(resamples, len(x)))",
        "the draws do not come from the generator that was passed in",
    ),
    (
        "chosen = rng.integers(len(x), size=(resamples, len(x)))",
        "chosen = rng.permuted(np.tile(np.arange(len(x)), (resamples, 1)), axis=1)",
        "the observations are shuffled, not drawn with replacement: each resample is the data again",
    ),
    (
        "chosen = rng.integers(len(x), size=(resamples, len(x)))",
        "chosen = rng.integers(len(x), size=(resamples, max(1, len(x) // 2)))",
        "a resample has fewer observations than the data, so the interval is too wide",
    ),
    (
        "rng.integers(len(x), size",
        "rng.integers(max(1, len(x) - 1), size",
        "the last observation is never drawn: the upper bound of integers is excluded already",
    ),
    (
        "ends = (1 - level) / 2, (1 + level) / 2",
        "ends = 1 - level, level",
        "each side leaves out 1 - level; both sides together have to",
    ),
    (
        "    return low, high\n",
        "    center = statistic(x, axis=0)\n    return 2 * center - high, 2 * center - low\n",
        "the interval is mirrored at the estimate: this is the basic bootstrap, not the percentile one",
    ),
    (
        "    low, high = np.quantile(values, ends, axis=0)\n",
        "    half = 1.959964 * np.std(values, axis=0)\n    center = statistic(x, axis=0)\n    low, high = center - half, center + half\n",
        "the interval is the estimate plus and minus 1.96 standard deviations, whatever the shape and the level",
    ),
    (
        "np.quantile(values, ends, axis=0)",
        "np.quantile(values, ends)",
        "the quantiles run over all values together; a statistic of several columns has an interval for each",
    ),
    (
        "x[chosen], axis=1)",
        "np.take_along_axis(np.broadcast_to(x, (resamples, *x.shape)), rng.integers(len(x), size=(resamples, *x.shape)), axis=1), axis=1)",
        "the columns are resampled one by one, which tears the pairs apart",
    ),
    (
        "    if not 0 < level < 1:\n",
        "    if False:\n",
        "a level outside 0 and 1 is not refused",
    ),
    (
        "    if x.ndim == 0 or len(x) == 0:\n",
        "    if False:\n",
        "an empty data set is not refused with a ValueError that says so",
    ),
    (
        "    if resamples < 1:\n",
        "    if False:\n",
        "a number of resamples below 1 is not refused with a ValueError that says so",
    ),
)


def permutation_test(
    x: ArrayLike,
    y: ArrayLike,
    rng: np.random.Generator,
    paired: bool = False,
    alternative: str = "two-sided",
    permutations: int = 9999,
) -> tuple[float, float]:
    """Permutation test of whether two samples differ, by the difference of their means.

    Parameters
    ----------
    x, y:
        ``(n,)`` and ``(m,)``, at least one observation each, of any numeric dtype.
    rng:
        The source of chance: an equal state gives an equal p-value.
    paired:
        False: each permutation divides all n + m observations anew into n and m.
        True: ``x[i]`` and ``y[i]`` are one pair, n = m, and each permutation exchanges
        the two within each pair with probability 1/2.
    alternative:
        What counts as at least as extreme as the observed difference d: values
        ``>= d`` for "greater", ``<= d`` for "less", and ``abs(value) >= abs(d)`` for
        "two-sided". Values that differ by less than 1e-12 of the largest
        ``abs(observation)`` count as equal.
    permutations:
        How many random permutations are drawn, at least 1.

    Returns
    -------
    The observed difference, mean of x minus mean of y, and the p-value: one more than
    the extreme permutations, divided by one more than all.

    Raises ValueError that says ``observations``, ``pairs``, ``alternative`` or
    ``permutations``, for what is not as above.

    Source: Phipson and Smyth 2010, "Permutation P-values Should Never Be Zero".
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 1 or y.ndim != 1 or not len(x) or not len(y):
        raise ValueError(f"shapes {x.shape}, {y.shape}: two vectors of observations")
    if paired and len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} values make no pairs")
    if alternative not in ("two-sided", "greater", "less"):
        raise ValueError(f"unknown alternative {alternative!r}")
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    observed = x.mean() - y.mean()
    both = np.concatenate([x, y])
    if paired:
        signs = rng.choice([-1, 1], size=(permutations, len(x)))
        values = (signs * (x - y)).mean(axis=1)
    else:
        shuffled = rng.permuted(np.tile(both, (permutations, 1)), axis=1)
        first, second = shuffled[:, : len(x)], shuffled[:, len(x) :]
        values = first.mean(axis=1) - second.mean(axis=1)
    fold = {"two-sided": np.abs, "greater": np.positive, "less": np.negative}
    slack = 1e-12 * np.abs(both).max()
    # equivalent `> fold[alternative](observed) - slack`: no value lies exactly there
    extreme = fold[alternative](values) >= fold[alternative](observed) - slack
    return float(observed), float((extreme.sum() + 1) / (permutations + 1))


known_mistakes(
    permutation_test,
    (
        "(extreme.sum() + 1) / (permutations + 1)",
        "extreme.mean()",
        "the observed arrangement is not counted, so a p-value of 0 can come out",
    ),
    (
        ">= fold[alternative](observed) - slack",
        "> fold[alternative](observed) + slack",
        "arrangements that tie with the observed one do not count; at least as extreme includes equal",
    ),
    (
        "slack = 1e-12 * np.abs(both).max()",
        "slack = 0.0",
        "ties are lost to rounding: equal differences of means come out a last digit apart",
    ),
    (
        "shuffled = rng.permuted(np.tile(both, (permutations, 1)), axis=1)",
        "shuffled = rng.choice(both, size=(permutations, len(both)))",
        "the observations are drawn with replacement: that is a bootstrap, not a permutation",
    ),
    (
        "shuffled = rng.permuted(np.tile(both, (permutations, 1)), axis=1)",
        "shuffled = rng.permutation(np.tile(both, (permutations, 1)), axis=1)",
        "every row gets one and the same permutation",
    ),
    (
        "first, second = shuffled[:, : len(x)], shuffled[:, len(x) :]",
        "first, second = np.array_split(shuffled, 2, axis=1)",
        "the observations are divided into halves; the two groups keep their sizes",
    ),
    (
        "signs = rng.choice([-1, 1], size",
        "signs = rng.choice([0, 1], size",
        "a pair is dropped where its two values are to be exchanged, which turns the sign of the difference",
    ),
    (
        "signs = rng.choice([-1, 1], size=(permutations, len(x)))",
        "signs = rng.choice([-1, 1], size=(permutations, 1))",
        "all pairs are exchanged together; each has a coin of its own",
    ),
    (
        "    if paired:\n",
        "    if False:\n",
        "the pairs are torn apart: the observations are shuffled across items",
    ),
    (
        '"two-sided": np.abs,',
        '"two-sided": np.positive,',
        "only one side is counted; two-sided takes large differences of either sign",
    ),
    (
        '"greater": np.positive, "less": np.negative',
        '"greater": np.negative, "less": np.positive',
        "greater and less have changed places: greater means that x has the larger mean",
    ),
    (
        "    if paired and len(x) != len(y):\n",
        "    if False:\n",
        "two lengths that make no pairs are not refused with a ValueError that says so",
    ),
    (
        "    if x.ndim != 1 or y.ndim != 1 or not len(x) or not len(y):\n",
        "    if False:\n",
        "an empty sample is not refused with a ValueError that says so",
    ),
)
