"""Day 10: gradient descent derived line by line, a line search, and Newton's method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from llm180 import known_mistakes
from solutions.day002_linear_systems import lu_solve


def descent_lemma_step(
    f: Callable[[np.ndarray], float],
    grad: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    L: float | np.ndarray,
    m: float = 0.0,
) -> dict[str, Any]:
    """One step of gradient descent, as the lines of its derivation.

    Write ``‖v‖²`` for the *weighted* square ``(L * v**2).sum()``. The function obeys,
    for all points ``y`` and ``z``, with ``g`` the gradient at ``z``,

        ``g·(y - z) + m/2 ‖y - z‖²  <=  f(y) - f(z)  <=  g·(y - z) + 1/2 ‖y - z‖²``

    Parameters
    ----------
    f, grad:
        The function and its gradient, for arrays of shape ``(n,)``.
    x:
        ``(n,)``, float64: the point where the step begins.
    L:
        Positive: one number, or ``(n,)``, one for each coordinate.
    m:
        From 0 to 1. If ``L`` is one number, ``m`` is 1/κ.

    Returns
    -------
    A dict with the entries

    - ``upper``, a function: ``upper(y)``, the right inequality's bound on ``f(y)``,
      known at ``x``;
    - ``new``, ``(n,)``: the point where ``upper`` is least;
    - ``gain``: how much ``f`` falls from ``x`` to ``new`` at least, as ``upper`` says;
    - ``lower``, a function: ``lower(y)``, the left inequality's bound on ``f(y)``;
    - ``floor``: the least value of ``lower`` anywhere, -inf if it has none;
    - ``factor``: the least number so that ``gain`` and ``floor`` imply
      ``f(new) - min f <= factor * (f(x) - min f)``;
    - ``progress``, a function: ``progress(z)``, the bound on ``f(new) - f(z)`` that
      is written with ``‖x - z‖²`` and ``‖new - z‖²`` alone;
    - ``after``, a function: ``after(k, z)``, the bound on ``f(x_k) - f(z)`` for
      ``k >= 1`` such steps that begin at ``x``, by summing ``progress`` with m = 0.

    Raises ValueError if an ``L`` is not positive, or ``m`` is not from 0 to 1; the
    message names ``L`` or ``m``.

    Source: derived on the page for one L; Nesterov 2018, "Lectures on Convex
    Optimization", sec. 1.2.3 and 2.1.5.
    """
    if not (np.all(np.asarray(L) > 0) and 0 <= m <= 1):
        raise ValueError(f"need a positive L and m from 0 to 1, got L {L}, m {m}")
    value, g = f(x), grad(x)

    def square(v: np.ndarray) -> float:
        return (L * v**2).sum()

    new = x - g / L
    gain = (g**2 / L).sum() / 2
    if m > 0:  # equivalent `m != 0`: m is never negative
        floor = value - gain / m
    else:
        floor = -np.inf if g.any() else value
    return {
        # equivalent `(y - x) @ g`: a dot product is symmetric
        "upper": lambda y: value + g @ (y - x) + square(y - x) / 2,
        "new": new,
        "gain": gain,
        # equivalent `(y - x) @ g`: a dot product is symmetric
        "lower": lambda y: value + g @ (y - x) + m * square(y - x) / 2,
        "floor": floor,
        "factor": 1 - m,
        "progress": lambda z: ((1 - m) * square(x - z) - square(new - z)) / 2,
        "after": lambda k, z: square(x - z) / (2 * k),
    }


known_mistakes(
    descent_lemma_step,
    (
        "new = x - g / L",
        "new = x - g * L",
        "a large curvature wants a short step: the derivative of upper is g + L (y - x), set it to zero",
    ),
    (
        "new = x - g / L",
        "new = x + g / L",
        "the step goes uphill: upper is least against the gradient",
    ),
    (
        "new = x - g / L",
        "new = x - g / np.max(L)",
        "the largest L sets the step of every coordinate; upper is least where each has its own",
    ),
    (
        "gain = (g**2 / L).sum() / 2",
        "gain = (g**2 / L).sum()",
        "the first-order gain alone: half of it is paid back to the quadratic term",
    ),
    (
        "gain = (g**2 / L).sum() / 2",
        "gain = (g**2 * L).sum() / 2",
        "a bowl that curves more is less deep: put new into upper, and L ends below the line",
    ),
    (
        "gain = (g**2 / L).sum() / 2",
        "gain = (g**2).sum() / (2 * np.max(L))",
        "the gain of a step with the largest L, not of the step to new",
    ),
    (
        '"upper": lambda y: value + g @ (y - x) + square(y - x) / 2,',
        '"upper": lambda y: value + g @ (y - x) + square(y - x),',
        "the integral of s from 0 to 1 is a half, and the quadratic term has lost it",
    ),
    (
        '"upper": lambda y: value + g @ (y - x) + square(y - x) / 2,',
        '"upper": lambda y: f(y) + grad(y) @ (y - x) + square(y - x) / 2,',
        "value and gradient are taken at y; the bound may use what is known at x only",
    ),
    (
        "floor = value - gain / m",
        "floor = value - gain",
        "lower has the curvature m L, not L: its least value lies 1/m times as deep as that of upper",
    ),
    (
        "floor = value - gain / m",
        "floor = value - gain * m",
        "a flatter bowl is deeper, not less deep: look where lower has slope zero",
    ),
    (
        "floor = -np.inf if g.any() else value",
        "floor = -np.inf",
        "where the gradient is zero and m is 0, lower is level, and its least value is f(x)",
    ),
    (
        "floor = -np.inf if g.any() else value",
        "floor = value",
        "a plane that is not level has no least value",
    ),
    (
        '"factor": 1 - m,',
        '"factor": (1 - m) / (1 + m),',
        "that is the factor of the best step on a quadratic; gain and floor give less",
    ),
    (
        '"progress": lambda z: ((1 - m) * square(x - z) - square(new - z)) / 2,',
        '"progress": lambda z: (square(x - z) - square(new - z)) / 2,',
        "the curvature of lower is not used: between x and z, f lies m/2 times the weighted square above its tangent",
    ),
    (
        "square(x - z) / (2 * k)",
        "square(x - z) / 2",
        "k inequalities were summed, and the last value is the least of k: divide by k",
    ),
    (
        "np.all(np.asarray(L) > 0)",
        "np.any(np.asarray(L) > 0)",
        "one coordinate with a curvature that is not positive is let through",
    ),
)


def gradient_descent(
    f: Callable[[np.ndarray], float],
    grad: Callable[[np.ndarray], np.ndarray],
    x0: np.ndarray,
    step: float | Callable[[np.ndarray, np.ndarray], float],
    tol: float = 1e-8,
    max_steps: int = 1000,
) -> tuple[np.ndarray, np.ndarray]:
    """Minimize by steps against the gradient: ``x -> x - t * grad(x)``.

    Parameters
    ----------
    f, grad:
        The function and its gradient, for arrays of the shape of ``x0``.
    x0:
        Real, of any shape: where to begin. It is left unchanged.
    step:
        ``t``: one positive number, or a function that is given ``x`` and
        ``grad(x)`` and returns it, as a line search does.
    tol:
        Stop as soon as the length of the gradient is at most this, also before the
        first step.
    max_steps:
        Stop after so many steps in any case.

    Returns
    -------
    path:
        ``(steps + 1, *x0.shape)``, float64: every point, ``x0`` first.
    values:
        ``(steps + 1,)``, float64: ``f`` at each.

    Raises ValueError, with the word "positive", if a step is not. Raises
    FloatingPointError at the first point where the value or the gradient is not
    finite, or where the value exceeds the first one by more than
    ``1e6 * max(1, abs(first))``: the step is too large. The message says at which
    point of the path, as "step 11"; ``x0`` is step 0.

    Source: Cauchy 1847; Nocedal and Wright 2006, "Numerical Optimization", ch. 2-3.
    """
    x = np.array(x0, dtype=np.float64)
    first = f(x)
    path, values = [x], [first]
    limit = first + 1e6 * max(1.0, abs(first))
    while True:
        g = grad(x)
        finite = np.isfinite(values[-1]) and np.isfinite(g).all()
        if not (finite and values[-1] <= limit):
            raise FloatingPointError(
                f"diverged in step {len(path) - 1}: value {values[-1]:.3g}"
            )
        if np.linalg.norm(g) <= tol or len(path) > max_steps:
            return np.array(path), np.array(values, dtype=np.float64)
        t = step(x, g) if callable(step) else step
        if not t > 0:
            raise ValueError(f"the step must be positive, got {t}")
        x = x - t * g
        path.append(x)
        values.append(f(x))


known_mistakes(
    gradient_descent,
    (
        "x = x - t * g",
        "x = x + t * g",
        "the step goes uphill: the gradient points up, so subtract it",
    ),
    (
        "values[-1] <= limit",
        "abs(values[-1]) <= limit - first",
        "a value far below the first is no divergence: compare the rise over the first value",
    ),
    (
        "np.linalg.norm(g) <= tol",
        "np.linalg.norm(g) < tol",
        "a gradient whose length is exactly tol is short enough to stop",
    ),
    (
        "x = x - t * g",
        "x -= t * g",
        "`x -= ...` changes the array that is already in the path, so all points of the path are the last one",
    ),
    (
        "x = x - t * g",
        "x = x - t * g / np.linalg.norm(g)",
        "the gradient is scaled to length 1: steps then do not shrink near the minimum",
    ),
    (
        "np.linalg.norm(g) <= tol",
        "np.abs(g).max() <= tol",
        "the largest entry is compared with tol, not the length of the gradient",
    ),
    (
        "np.linalg.norm(g) <= tol",
        "len(values) > 1 and abs(values[-1] - values[-2]) <= tol",
        "a small change of f is no sign of a minimum: it may be a small step",
    ),
    (
        "len(path) > max_steps",
        "len(path) >= max_steps",
        "one step too few: the path holds x0 and max_steps more points",
    ),
    (
        "x = np.array(x0, dtype=np.float64)",
        "x = np.asarray(x0)",
        "the dtype of x0 stays: float32 rounds the path, and an integer x0 gives a path of mixed kinds",
    ),
    (
        "values.append(f(x))",
        "values.append(f(path[-2]))",
        "each value belongs to the point before: f is called before the step",
    ),
    (
        "finite and values[-1] <= limit",
        "values[-1] <= limit",
        "a gradient with NaN or infinity, or a value of minus infinity, is not noticed",
    ),
    (
        "finite and values[-1] <= limit",
        "finite",
        "only an overflow counts as divergence; a value a million times the first must be reported",
    ),
    (
        "if not t > 0:",
        "if t < 0:",
        "a step of zero never arrives, and NaN is not below zero: ask whether t is positive",
    ),
)


def backtracking(
    f: Callable[[np.ndarray], float],
    x: np.ndarray,
    g: np.ndarray,
    d: np.ndarray,
    start: float = 1.0,
    c: float = 1e-4,
    shrink: float = 0.5,
) -> float:
    """A step along ``d`` that lowers ``f`` enough: Armijo's rule.

    Parameters
    ----------
    f:
        The function, for arrays of the shape of ``x``. It may be NaN or infinite
        away from ``x``; such a trial is refused.
    x, g, d:
        Of one shape: the point, the gradient there, and the direction.
    start:
        The first trial, positive.
    c:
        The share of the promised slope that must be kept, between 0 and 1.
    shrink:
        What a refused trial is multiplied by, between 0 and 1.

    Returns
    -------
    The first ``t`` of ``start``, ``start * shrink``, ``start * shrink**2``, ... with
    ``f(x + t * d) <= f(x) + c * t * (g·d) + 4 * eps * abs(f(x))``. The last term,
    with the eps of float64, forgives the rounding of ``f``. ``f`` is called once at
    ``x`` and once per trial.

    Raises ValueError, with the word "downhill" or "descent", unless ``g·d < 0``.
    Raises FloatingPointError if 100 trials are refused.

    Source: Armijo 1966; Nocedal and Wright 2006, "Numerical Optimization", sec. 3.1.
    """
    slope = (g * d).sum()
    if not slope < 0:
        raise ValueError(f"d is no descent direction: its slope is {slope:.3g}")
    value, t = f(x), start
    rounding = 4 * np.finfo(np.float64).eps * abs(value)
    for _ in range(100):
        if f(x + t * d) <= value + c * t * slope + rounding:
            return t
        t *= shrink
    raise FloatingPointError(f"no step lowers f enough, down to {t:.1e}: is g right?")


known_mistakes(
    backtracking,
    (
        "value + c * t * slope + rounding",
        "value + rounding",
        "any decrease is accepted: Armijo's rule wants a share of what the slope promised",
    ),
    (
        "value + c * t * slope + rounding",
        "value + t * slope + rounding",
        "all that the slope promises is asked for; a curve that bends up keeps a share c of it",
    ),
    (
        "value + c * t * slope + rounding",
        "value + c * slope + rounding",
        "the promise is t times the slope, so a shorter step is asked for less",
    ),
    (
        "value + c * t * slope + rounding",
        "value - c * t * (g**2).sum() + rounding",
        "that is the slope along -g; the slope along d is the dot product of g and d",
    ),
    (
        "value + c * t * slope + rounding",
        "value + c * t * slope",
        "near a minimum f falls by less than its rounding, and every step is refused",
    ),
    (
        "rounding = 4 * np.finfo(np.float64).eps * abs(value)",
        "rounding = 4 * np.finfo(np.float64).eps",
        "rounding is relative: the allowance grows with the size of f",
    ),
    (
        "if f(x + t * d) <= value + c * t * slope + rounding:",
        "if not f(x + t * d) > value + c * t * slope + rounding:",
        "NaN is not greater than anything, so a trial where f does not exist is accepted",
    ),
    (
        "            return t\n        t *= shrink\n",
        "            return t\n        t -= start / 100\n",
        "trials shrink by a difference; they must shrink by a factor",
    ),
    (
        "            return t\n        t *= shrink\n",
        "            return t * shrink\n        t *= shrink\n",
        "the trial that passed is shrunk once more",
    ),
    (
        "if not slope < 0:",
        "if slope > 0:",
        "a direction along the contour, or one with NaN, is no way down either",
    ),
    (
        "if f(x + t * d) <=",
        "if f(x - t * d) <=",
        "the trial point is on the other side: d already points downhill",
    ),
)


def newton(
    f: Callable[[np.ndarray], float],
    grad: Callable[[np.ndarray], np.ndarray],
    hess: Callable[[np.ndarray], np.ndarray],
    x0: np.ndarray,
    damped: bool = True,
    tol: float = 1e-8,
    max_steps: int = 100,
) -> tuple[np.ndarray, np.ndarray]:
    """Minimize by steps to the bottom of the quadratic model: ``H d = -g``.

    Parameters
    ----------
    f, grad, hess:
        The function, its gradient ``(n,)`` and its Hessian ``(n, n)``.
    x0:
        ``(n,)``, real: where to begin. It is left unchanged.
    damped:
        If False, every step is ``d``, wherever it leads. If True, the step is
        ``t * d`` with ``t`` from ``backtracking``, started at 1. And where the
        least eigenvalue of ``H`` is not positive, a multiple of the identity is
        added first, so that the least becomes ``1e-3`` times the largest absolute
        one: ``d`` then goes downhill.
    tol, max_steps:
        As in ``gradient_descent``.

    Returns
    -------
    path:
        ``(steps + 1, n)``, float64: every point, ``x0`` first.
    values:
        ``(steps + 1,)``, float64: ``f`` at each.

    Raises ``numpy.linalg.LinAlgError`` if a system has no solution, and
    FloatingPointError at the first point where the value or the gradient is not
    finite.

    Source: Nocedal and Wright 2006, "Numerical Optimization", sec. 3.3-3.4.
    """
    x = np.array(x0, dtype=np.float64)
    path, values = [x], [f(x)]
    while True:
        g = grad(x)
        if not (np.isfinite(values[-1]) and np.isfinite(g).all()):
            raise FloatingPointError(
                f"diverged in step {len(path) - 1}: value {values[-1]:.3g}"
            )
        if np.linalg.norm(g) <= tol or len(path) > max_steps:
            return np.array(path), np.array(values, dtype=np.float64)
        H = hess(x)
        if damped:
            curvature = np.linalg.eigvalsh(H)
            if curvature[0] <= 0:
                wanted = 1e-3 * abs(curvature).max()
                H = H + (wanted - curvature[0]) * np.eye(len(H))
        d = lu_solve(H, -g)
        t = backtracking(f, x, g, d) if damped else 1.0
        x = x + t * d
        path.append(x)
        values.append(f(x))


known_mistakes(
    newton,
    (
        "d = lu_solve(H, -g)",
        "d = lu_solve(H, g)",
        "the sign is missing: H d = -g",
    ),
    (
        "d = lu_solve(H, -g)",
        "d = -g / np.diag(H)",
        "the diagonal of H alone is used: that is no longer the bottom of the model",
    ),
    (
        "d = lu_solve(H, -g)",
        "d = -(H @ g)",
        "H is multiplied where a system has to be solved",
    ),
    (
        "t = backtracking(f, x, g, d) if damped else 1.0",
        "t = 1.0",
        "full steps only: far from the minimum they may lead uphill",
    ),
    (
        "t = backtracking(f, x, g, d) if damped else 1.0",
        "t = backtracking(f, x, g, -g) if damped else 1.0",
        "the line search runs along -g, but the step is taken along d",
    ),
    (
        "t = backtracking(f, x, g, d) if damped else 1.0",
        "t = backtracking(f, x, g, d)",
        "the line search runs without being asked for; damped=False is the textbook's full step",
    ),
    (
        "            if curvature[0] <= 0:\n",
        "            if False:\n",
        "an indefinite Hessian is used as it is: the step goes to a saddle, or not downhill",
    ),
    (
        "            if curvature[0] <= 0:\n",
        "            if curvature[0] < 0:\n",
        "an eigenvalue of exactly zero leaves the system singular; it has to be raised as well",
    ),
    (
        "H = H + (wanted - curvature[0]) * np.eye(len(H))",
        "H = H + (wanted - curvature[0])",
        "a number is added to every entry of H; only the diagonal moves all eigenvalues alike",
    ),
    (
        "H = H + (wanted - curvature[0]) * np.eye(len(H))",
        "H = H + wanted * np.eye(len(H))",
        "the shift has to lift the least eigenvalue above zero first, then to the wanted size",
    ),
    (
        "abs(curvature).max()",
        "curvature[-1]",
        "the largest eigenvalue is not the largest in absolute value: a negative one may be larger in size",
    ),
    (
        "H = hess(x)",
        "H = hess(path[0])",
        "the Hessian of the first point is kept: it must be taken where the step begins",
    ),
    (
        "x = np.array(x0, dtype=np.float64)",
        "x = np.asarray(x0)",
        "the first point keeps the dtype of x0, so integers are handed to f",
    ),
)
