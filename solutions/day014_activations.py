"""Day 14: activation functions with their slopes, exact to the last digits far out on both sides."""

from __future__ import annotations

import math

import numpy as np

from llm180 import known_mistakes


def _as_float(x: np.ndarray) -> np.ndarray:
    """The same numbers: float32 stays float32, all else becomes float64."""
    x = np.asarray(x)
    return x if x.dtype == np.float32 else x.astype(np.float64)


def sigmoid(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``1 / (1 + exp(-x))`` and its slope, entry by entry.

    Parameters
    ----------
    x:
        Real, of any shape, ``()`` and empty ones included, and of any size: nothing
        overflows. It is left unchanged.

    Returns
    -------
    y, slope:
        Both of the shape of ``x``; float32 if ``x`` is, else float64. Both are right
        to the last digits also where they are tiny. NaN gives NaN. A gradient goes
        back through the function as ``dx = dy * slope``.

    Source: derived on the page; Goodfellow et al. 2016, "Deep Learning", sec. 3.10.
    """
    x = _as_float(x)
    e = np.exp(-np.abs(x))  # in (0, 1]: it can underflow to 0, which is harmless
    # equivalent `x > 0`: at 0, e is 1 and both branches are the same
    y = np.where(x >= 0, 1, e) / (1 + e)
    return y, e / (1 + e) ** 2


known_mistakes(
    sigmoid,
    (
        "    y = np.where(x >= 0, 1, e) / (1 + e)\n",
        "    y = 1 / (1 + np.exp(-x))\n",
        "exp(1000) overflows: NumPy warns, and the warning drowns real ones",
    ),
    (
        "    y = np.where(x >= 0, 1, e) / (1 + e)\n",
        "    y = 1 / (1 + np.exp(-np.clip(x, -500, 500)))\n",
        "a clipped input still overflows in float32, and a tighter clip loses the small values: choose the branch by the sign",
    ),
    (
        "    y = np.where(x >= 0, 1, e) / (1 + e)\n",
        "    y = np.exp(x) / (1 + np.exp(x))\n",
        "for a large positive input this is infinity over infinity, NaN",
    ),
    (
        "np.where(x >= 0, 1, e) / (1 + e)",
        "1 / (1 + e)",
        "only the size of x is used: for a negative x the result is 1 minus the right one",
    ),
    (
        "    return y, e / (1 + e) ** 2\n",
        "    return y, y * (1 - y)\n",
        "1 - y rounds to 0 for x above 37: the slope loses all its digits on that side",
    ),
    (
        "    return y, e / (1 + e) ** 2\n",
        "    return y, x * (1 - x)\n",
        "s (1 - s) is meant for the output s; the input was put in",
    ),
    (
        "e / (1 + e) ** 2",
        "1 - y**2",
        "that is the slope of tanh",
    ),
    (
        "x = _as_float(x)",
        "x = np.asarray(x, dtype=np.float64)",
        "float32 does not stay float32",
    ),
    (
        "np.where(x >= 0, 1, e) / (1 + e)",
        "0.5 * (1 + np.tanh(x / 2))",
        "1 + tanh cancels for a negative x: below -37 the result is 0",
    ),
)


def log_sigmoid(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``log(sigmoid(x))`` and its slope, entry by entry, without a logarithm of zero.

    Parameters
    ----------
    x:
        Real, of any shape, ``()`` and empty ones included, and of any finite size.
        It is left unchanged.

    Returns
    -------
    y, slope:
        Both of the shape of ``x``; float32 if ``x`` is, else float64. Both are right
        to the last digits on both sides. NaN gives NaN.

    Source: derived on the page; Goodfellow et al. 2016, "Deep Learning", sec. 3.10.
    """
    x = _as_float(x)
    e = np.exp(-np.abs(x))
    # equivalent `x > 0`: at 0, e is 1 and both branches are the same
    slope = np.where(x >= 0, e, 1) / (1 + e)  # sigmoid(-x)
    return np.minimum(x, 0) - np.log1p(e), slope


known_mistakes(
    log_sigmoid,
    (
        "np.minimum(x, 0) - np.log1p(e)",
        "np.log(np.where(x >= 0, 1, e) / (1 + e))",
        "the sigmoid of -1000 underflows to 0, and its logarithm is minus infinity",
    ),
    (
        "np.log1p(e)",
        "np.log(1 + e)",
        "1 + e rounds to 1 once e is below 1e-16: the loss of a confident right answer becomes 0; log1p keeps it",
    ),
    (
        "np.minimum(x, 0) - np.log1p(e)",
        "-np.log1p(np.exp(-x))",
        "the exponential of 1000 overflows: take the large part out first",
    ),
    (
        "np.where(x >= 0, e, 1) / (1 + e)",
        "np.where(x >= 0, 1, e) / (1 + e)",
        "the slope is sigmoid(-x), what was lacking to 1, not sigmoid(x)",
    ),
    (
        "np.where(x >= 0, e, 1) / (1 + e)",
        "e / (1 + e) ** 2",
        "that is the slope of the sigmoid; the logarithm outside divides it by the sigmoid",
    ),
    (
        "np.minimum(x, 0) - np.log1p(e)",
        "np.maximum(x, 0) + np.log1p(e)",
        "that is log(1 + exp(x)), which is minus log_sigmoid(-x): a logarithm of a probability is never positive",
    ),
    (
        "np.where(x >= 0, e, 1) / (1 + e)",
        "1 - np.where(x >= 0, 1, e) / (1 + e)",
        "1 - sigmoid(x) loses its digits where the sigmoid is close to 1: use sigmoid(-x)",
    ),
    (
        "x = _as_float(x)",
        "x = np.asarray(x, dtype=np.float64)",
        "float32 does not stay float32",
    ),
)


def leaky_relu(x: np.ndarray, slope: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    """``x`` where it is positive and ``slope * x`` elsewhere, and the derivative.

    Parameters
    ----------
    x:
        Real, of any shape, ``()`` and empty ones included. It is left unchanged.
    slope:
        What a negative input is multiplied by; at least 0, which is the ReLU, and
        less than 1.

    Returns
    -------
    y, dydx:
        Both of the shape of ``x``; float32 if ``x`` is, else float64. At 0, where
        there is no derivative, ``dydx`` is ``slope``, as in PyTorch. NaN gives NaN
        in ``y``.

    Raises ValueError if ``slope`` is not in [0, 1).

    Source: Maas et al. 2013, "Rectifier Nonlinearities Improve Neural Network
    Acoustic Models", sec. 2.
    """
    if not 0 <= slope < 1:
        raise ValueError(f"slope must be at least 0 and less than 1, got {slope}")
    x = _as_float(x)
    dydx = np.where(x > 0, 1, slope).astype(x.dtype)
    return x * dydx, dydx


known_mistakes(
    leaky_relu,
    (
        "    return x * dydx, dydx\n",
        "    return np.maximum(x, 0), dydx\n",
        "the output does not leak: negative inputs give 0",
    ),
    (
        "np.where(x > 0, 1, slope)",
        "np.where(x > 0, 1, 0 * x)",
        "the slope is 0 for a negative input: that is the ReLU, and it can die",
    ),
    (
        "np.where(x > 0, 1, slope)",
        "np.where(x >= 0, 1, slope)",
        "at 0 the derivative is taken from the right; PyTorch, and the page, take it from the left",
    ),
    (
        "np.where(x > 0, 1, slope)",
        "np.where(x > 0, 1, np.where(x < 0, slope, 0))",
        "at 0 the derivative is neither piece's: it should be the slope on the left",
    ),
    (
        ".astype(x.dtype)",
        "",
        "np.where with Python numbers makes float64: float32 does not stay float32",
    ),
    (
        "x = _as_float(x)",
        "x = np.asarray(x)",
        "for integers the slope is rounded to 0, an integer",
    ),
    (
        "if not 0 <= slope < 1:",
        "if slope > 1:",
        "a negative slope, or one of 1, is not refused",
    ),
)


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def gelu(x: np.ndarray, approximate: str = "none") -> tuple[np.ndarray, np.ndarray]:
    """The Gaussian error linear unit and its slope, entry by entry.

    With ``"none"`` it is ``x * P(Z <= x)`` for a standard normal ``Z``; with
    ``"tanh"`` it is ``x * (1 + tanh(u)) / 2``, where
    ``u = sqrt(2 / pi) * (x + 0.044715 * x**3)``.

    Parameters
    ----------
    x:
        Real, of any shape, ``()`` and empty ones included, and of any finite size:
        nothing overflows. It is left unchanged.
    approximate:
        ``"none"`` or ``"tanh"``.

    Returns
    -------
    y, slope:
        Both of the shape of ``x``; float32 if ``x`` is, else float64. Both keep their
        digits where they are tiny. NaN gives NaN. The slope is that of the form that
        was asked for.

    Raises ValueError if ``approximate`` is neither.

    Source: Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", sec. 2.
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f'approximate must be "none" or "tanh", got {approximate!r}')
    x = _as_float(x)
    # equivalent `-39` `-41` `39` `41`: the gate is 0 or 1 and flat from 39 on
    # equivalent `np.clip(-40, x, 40)`: the larger of both, then the smaller with 40
    near = np.clip(x, -40, 40).astype(np.float64)
    # equivalent `approximate <= "none"`: "none" comes before "tanh"
    if approximate == "none":
        gate = _erfc(-near / math.sqrt(2)) / 2
        rise = np.exp(-(near**2) / 2) / math.sqrt(2 * math.pi)
    else:
        scale = 2 * math.sqrt(2 / math.pi)
        gate, rise = sigmoid(scale * (near + 0.044715 * near**3))
        rise = rise * scale * (1 + 3 * 0.044715 * near**2)
    slope = gate + near * rise
    return x * gate.astype(x.dtype), slope.astype(x.dtype)


known_mistakes(
    gelu,
    (
        "_erfc(-near / math.sqrt(2)) / 2",
        "_erfc(-near) / 2",
        "erf is the integral of exp(-t²), not of exp(-t²/2): its argument is x over the root of 2",
    ),
    (
        "_erfc(-near / math.sqrt(2)) / 2",
        "(1 - _erfc(near / math.sqrt(2)) / 2)",
        "one minus nearly one: the left tail loses its digits; erfc of the other sign has them",
    ),
    (
        "slope = gate + near * rise",
        "slope = gate",
        "the gate depends on x too: the product rule has a second term",
    ),
    (
        "            rise = rise * scale * (1 + 3 * 0.044715 * near**2)\n".replace("            ", "        "),
        "        rise = np.exp(-(near**2) / 2) / math.sqrt(2 * math.pi)\n",
        "the tanh form has a slope of its own; that of the exact form was taken",
    ),
    (
        "        gate, rise = sigmoid(scale * (near + 0.044715 * near**3))\n",
        "        t = np.tanh(scale / 2 * (near + 0.044715 * near**3))\n        gate, rise = (1 + t) / 2, (1 - t**2) / 4\n",
        "1 + tanh(u) cancels in the left tail, and 1 - tanh(u)² in both: sigmoid(2u) and its slope keep their digits",
    ),
    (
        "        rise = rise * scale * (1 + 3 * 0.044715 * near**2)\n",
        "",
        "the slope of the gate is taken in 2u; the chain rule multiplies it by the slope of 2u in x",
    ),
    (
        "1 + 3 * 0.044715 * near**2",
        "1 + 0.044715 * near**2",
        "the derivative of x cubed is 3 x squared",
    ),
    (
        "scale = 2 * math.sqrt(2 / math.pi)",
        "scale = math.sqrt(2 / math.pi)",
        "(1 + tanh u) / 2 is the sigmoid of 2u, not of u",
    ),
    (
        "np.clip(x, -40, 40).astype(np.float64)",
        "x.astype(np.float64)",
        "x squared and x cubed overflow for a huge x, and zero times infinity is NaN",
    ),
    (
        'if approximate == "none":',
        "if True:",
        "the tanh form is not computed: the exact one is returned for both",
    ),
)
