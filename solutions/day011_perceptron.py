"""Day 11: the perceptron, the margin that bounds its mistakes, and logistic regression."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from llm180 import known_mistakes


def with_bias(X: np.ndarray) -> np.ndarray:
    """X, shape ``(n, d)``, with a last column of ones: the bias becomes a weight."""
    return np.column_stack([X, np.ones(len(X))])


def signed_rows(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The rows ``y_i x_i``, float64 ``(n, d)``; w is right on row i if z_i . w > 0.

    Raises ValueError if X is not ``(n, d)`` with at least one row of finite numbers,
    or y is not ``(n,)`` with labels 1 and -1.
    """
    X, y = np.asarray(X, dtype=np.float64), np.asarray(y)
    if X.ndim != 2 or y.shape != X.shape[:1] or not len(X):
        raise ValueError(f"X {X.shape} and y {y.shape} are not n >= 1 rows and labels")
    if not np.isin(y, (-1, 1)).all():
        raise ValueError("labels must be 1 and -1")
    if not np.isfinite(X).all():
        raise ValueError("X holds a number that is not finite")
    return y[:, None] * X


def perceptron_fit(
    X: np.ndarray, y: np.ndarray, max_passes: int = 100, average: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Rosenblatt's perceptron: visit the rows in order, learn from mistakes only.

    It starts at ``w = 0`` and visits rows 0 to n - 1, again and again. A row with
    ``y * (w . x) <= 0`` is a mistake, also at 0: then ``y * x`` is added to w. It
    stops after a pass without a mistake, or after ``max_passes`` passes, which is
    how it ends on data that no plane through the origin separates.

    Parameters
    ----------
    X:
        ``(n, d)``, any real dtype. There is no bias but a column of ones in X.
        It is left unchanged.
    y:
        ``(n,)``, labels 1 and -1.
    max_passes:
        At least 1.
    average:
        If true, return the mean of w over all row visits, each taken after the
        visit and its update, the last pass included. Mistakes are the same.

    Returns
    -------
    w:
        ``(d,)``, float64.
    mistakes:
        ``(k,)``, integers: the row of each mistake, in the order in which they came.

    Raises ValueError where ``signed_rows`` does, or, with the name ``max_passes`` in
    its message, if that is below 1.

    Source: Rosenblatt 1958; averaged after Freund and Schapire 1999, sec. 2.
    """
    if max_passes < 1:
        raise ValueError(f"max_passes must be at least 1, got {max_passes}")
    Z = signed_rows(X, y)
    w, total, visits = np.zeros(Z.shape[1]), np.zeros(Z.shape[1]), 0
    mistakes: list[int] = []
    for _ in range(max_passes):
        before = len(mistakes)
        for i, z in enumerate(Z):
            if z @ w <= 0:  # equivalent `w @ z`: the same dot product
                w += z
                mistakes.append(i)
            total += w
        visits += len(Z)
        if len(mistakes) == before:  # equivalent `<= before`: it never falls
            break
    return total / visits if average else w, np.array(mistakes)


known_mistakes(
    perceptron_fit,
    (
        "if z @ w <= 0:",
        "if z @ w < 0:",
        "a score of exactly 0 decides nothing: with w = 0 at the start, no row is ever a mistake",
    ),
    (
        "if z @ w <= 0:",
        "if z @ w <= 1:",
        "only mistakes teach: a row that is right with a small margin is left alone",
    ),
    (
        "w += z",
        "w += 2 * z",
        "the update adds y x once; every multiple has the same boundary but other weights",
    ),
    (
        "w += z",
        "w += z / np.linalg.norm(z)",
        "the row is added as it is, not scaled to length 1",
    ),
    (
        "        if len(mistakes) == before:\n            break\n",
        "        if len(mistakes) == before:\n            return w, np.array(mistakes)\n",
        "the clean pass ends with the last w, also where the mean is asked for",
    ),
    (
        "        if len(mistakes) == before:\n            break\n",
        "        if len(mistakes) == before:\n            total -= len(Z) * w\n            visits -= len(Z)\n            break\n",
        "the clean pass at the end counts as well: its visits belong to the mean",
    ),
    (
        "        if len(mistakes) == before:\n            break\n",
        "        if len(mistakes) != before:\n            break\n",
        "it stops after the first pass with a mistake; a pass without one is the sign to stop",
    ),
    (
        "    Z = signed_rows(X, y)\n",
        "    Z = signed_rows(X, y)[np.random.default_rng(0).permutation(len(X))]\n",
        "the rows are shuffled; they are visited in their order, and the order decides the weights",
    ),
    (
        "                mistakes.append(i)\n            total += w\n",
        "                mistakes.append(i)\n                total += w\n",
        "w is summed at mistakes only: a w that survives many rows counts for each of them",
    ),
    (
        "                w += z\n                mistakes.append(i)\n            total += w\n",
        "                w += z\n                mistakes.append(i)\n            total += z\n",
        "the rows are averaged in place of the weights",
    ),
    (
        "            if z @ w <= 0:\n                w += z\n                mistakes.append(i)\n            total += w\n",
        "            total += w\n            if z @ w <= 0:\n                w += z\n                mistakes.append(i)\n",
        "w is summed before its update: the mean lags one row behind",
    ),
    (
        "w, total, visits = np.zeros(Z.shape[1]), np.zeros(Z.shape[1]), 0",
        "w = total = np.zeros(Z.shape[1]); visits = 0",
        "w and its running sum are one array: each addition to one changes the other",
    ),
)


class Margin(NamedTuple):
    """A direction and what it proves about the largest margin gamma of the data."""

    w: np.ndarray  # (d,), of length 1
    low: float  # its own margin: gamma is at least this
    high: float  # no direction has a larger margin than this
    bound: float  # (R / low)**2; infinite if low is not positive


def margin_bound(
    # equivalent `100001` `99999`: no step more or less decides
    X: np.ndarray, y: np.ndarray, rtol: float = 1e-6, max_steps: int = 100_000
) -> Margin:
    """The largest margin of separable data, enclosed from both sides.

    With ``z_i = y_i x_i``, it keeps weights ``a_i >= 0`` of sum 1, all on row 0 at
    first, and shortens ``p = sum a_i z_i``. A step moves weight from j, the row of
    largest ``z . p`` among those that have weight, to i, the row of smallest: as much
    as makes p shortest, but no more than j has. It stops when
    ``high - low <= rtol * high``, or after ``max_steps`` steps.

    Parameters
    ----------
    X:
        ``(n, d)``, any real dtype. It is left unchanged.
    y:
        ``(n,)``, labels 1 and -1.

    Returns
    -------
    ``w = p / |p|``, ``low = min z_i . w`` and ``high = |p|``, which enclose gamma
    after any number of steps; and ``bound = (R / low)**2`` with R the length of the
    longest row: no perceptron makes more mistakes. If ``low <= 0``, it is infinite.

    Raises ValueError where ``signed_rows`` does, and one that says ``not separable``
    when ``high`` falls to ``1e-9 * R`` or below.

    Source: Mitchell, Dem'yanov and Malozemov 1974; the bound is Novikoff's, 1962.
    """
    Z = signed_rows(X, y)
    R = np.linalg.norm(Z, axis=1).max()
    a = np.zeros(len(Z))
    a[0] = 1.0
    for step in itertools.count():
        p = a @ Z
        high = np.linalg.norm(p)
        if high <= 1e-9 * R:
            raise ValueError("not separable: 0 is a mean of the signed rows")
        score = Z @ p
        i = score.argmin()
        # equivalent `a != 0`: no weight is negative
        j = np.where(a > 0, score, -np.inf).argmax()
        low = score[i] / high
        if high - low <= rtol * high or step >= max_steps:  # equivalent `step == max_steps`: it counts
            break
        move = Z[i] - Z[j]
        t = min(a[j], (score[j] - score[i]) / (move @ move))
        a[i] += t
        a[j] -= t
    bound = (R / low) ** 2 if low > 0 else np.inf
    return Margin(p / high, low, high, bound)


known_mistakes(
    margin_bound,
    (
        "low = score[i] / high",
        "low = score[i]",
        "the functional margin stands for the geometric one: divide by the length of p",
    ),
    (
        "bound = (R / low) ** 2",
        "bound = R / low",
        "the bound is the square of R over the margin",
    ),
    (
        "bound = (R / low) ** 2",
        "bound = (R / high) ** 2",
        "the upper end of the enclosure is no margin that anything reaches: the bound may be too small",
    ),
    (
        "R = np.linalg.norm(Z, axis=1).max()",
        "R = np.linalg.norm(Z, axis=1).mean()",
        "R is the length of the longest row, not of a mean one",
    ),
    (
        "t = min(a[j], (score[j] - score[i]) / (move @ move))",
        "t = (score[j] - score[i]) / (move @ move)",
        "row j gives away more weight than it has: p leaves the hull, and its length bounds nothing",
    ),
    (
        "np.where(a > 0, score, -np.inf).argmax()",
        "score.argmax()",
        "weight is taken from a row that has none, so nothing moves",
    ),
    (
        "t = min(a[j], (score[j] - score[i]) / (move @ move))",
        "t = a[j]",
        "all weight of row j is moved, past the point where p is shortest",
    ),
    (
        "        if high <= 1e-9 * R:\n"
        '            raise ValueError("not separable: 0 is a mean of the signed rows")\n',
        "",
        "data that no plane separates are not refused",
    ),
    (
        "if high - low <= rtol * high or",
        "if high - low <= rtol or",
        "the tolerance is a share of high: rows that are 1,000 times as long change nothing",
    ),
    (
        "Margin(p / high, low",
        "Margin(p, low",
        "w must have length 1",
    ),
)


def logistic_fit(
    # equivalent `max_steps: int = 101` `max_steps: int = 99`: no step more decides
    X: np.ndarray, y: np.ndarray, l2: float, tol: float = 1e-8, max_steps: int = 100
) -> np.ndarray:
    """Logistic regression by Newton's method, with halved steps where it overshoots.

    It minimizes, over w from 0 on, the mean over the rows of
    ``log(1 + exp(-y * (w . x)))``, plus ``l2 / 2 * (w . w)``. All weights count in
    the penalty, also that of a column of ones. A step is halved while it raises the
    loss by more than ``1e-12`` of it; a smaller rise is rounding.

    Parameters
    ----------
    X:
        ``(n, d)``, any real dtype, entries of any size. It is left unchanged.
    y:
        ``(n,)``, labels 1 and -1.
    l2:
        Strength of the penalty, 0 or more.
    tol:
        It stops when no entry of the gradient is larger than this in size.

    Returns
    -------
    ``(d,)``, float64, the weights of the minimum.

    Raises ValueError where ``signed_rows`` does; if ``l2`` is negative or NaN; and,
    with ``l2 = 0``, if the columns of X are dependent, or if a w turns up that puts
    every row on its side: the data are separable, so there is no minimum. The
    message has the word ``l2``, ``dependent`` or ``separable``.
    (Data that separate but for rows *on* the plane have none either; that case is
    not noticed.)
    RuntimeError if ``max_steps`` Newton steps do not reach ``tol``.

    Source: Hastie, Tibshirani and Friedman 2009, "The Elements of Statistical
    Learning", sec. 4.4.1; derived on the page.
    """
    Z = signed_rows(X, y)
    n, d = Z.shape
    if not l2 >= 0:
        raise ValueError(f"l2 must be 0 or more, got {l2}")
    # equivalent `l2 <= 0` `!= d`: l2 is not negative, and no rank exceeds d
    if l2 == 0 and np.linalg.matrix_rank(Z) < d:
        raise ValueError("the columns are dependent: without l2, w is not unique")

    def loss(w: np.ndarray) -> float:
        return np.logaddexp(0, -Z @ w).mean() + l2 / 2 * (w @ w)

    w = np.zeros(d)
    for _ in range(max_steps + 1):
        m = Z @ w
        if l2 == 0 and (m > 0).all():  # equivalent `l2 <= 0`: it is not negative
            raise ValueError("the data are separable: without l2, w grows for ever")
        miss = np.exp(-np.logaddexp(0, m))  # the probability of the other label
        grad = l2 * w - miss @ Z / n
        if abs(grad).max() <= tol:
            return w
        hessian = (Z.T * (miss * (1 - miss))) @ Z / n + l2 * np.eye(d)
        step = np.linalg.solve(hessian, grad)
        most = loss(w) * (1 + 1e-12)  # more than that is no rounding error
        while loss(w - step) > most:  # equivalent `>= most`: never equal, for the slack
            step /= 2
        w = w - step
    raise RuntimeError(f"{max_steps} steps did not bring the gradient to {tol}")


known_mistakes(
    logistic_fit,
    (
        "np.exp(-np.logaddexp(0, m))",
        "np.exp(-np.logaddexp(0, -m))",
        "each row pulls with the probability of its own label: it must be that of the other one",
    ),
    (
        "grad = l2 * w - miss @ Z / n",
        "grad = l2 * w - miss @ Z",
        "the gradient of the sum is mixed with a penalty for the mean",
    ),
    (
        "grad = l2 * w - miss @ Z / n",
        "grad = -miss @ Z / n",
        "the penalty's gradient is missing",
    ),
    (
        "grad = l2 * w - miss @ Z / n",
        "grad = 2 * l2 * w - miss @ Z / n",
        "the penalty is l2 / 2 times the square, so its gradient is l2 w",
    ),
    (
        "miss * (1 - miss)",
        "miss",
        "the curvature of a row is p (1 - p); with p alone, Newton's steps are too short to arrive",
    ),
    (
        "        while loss(w - step) > most:\n            step /= 2\n",
        "",
        "the full Newton step is taken even where it raises the loss, and it may never come back",
    ),
    (
        "np.exp(-np.logaddexp(0, m))",
        "1 / (1 + np.exp(m))",
        "the exponential of a large margin overflows",
    ),
    (
        "        if l2 == 0 and (m > 0).all():\n"
        '            raise ValueError("the data are separable: without l2, w grows for ever")\n',
        "",
        "separable data without a penalty are not refused: what is returned depends on the tolerance",
    ),
    (
        "l2 * np.eye(d)",
        "l2 * np.diag(np.arange(d) < d - 1)",
        "the last weight is treated as a bias without penalty; here every weight counts",
    ),
)
