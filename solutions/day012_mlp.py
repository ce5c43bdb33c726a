"""Day 12: the forward pass of a multilayer perceptron, and the weights from which it can learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from llm180 import known_mistakes


def mlp_forward(
    X: np.ndarray,
    layers: Sequence[tuple[np.ndarray, np.ndarray]],
    activation: Callable[[np.ndarray], np.ndarray],
) -> list[np.ndarray]:
    """The outputs of every layer of a multilayer perceptron, the input first.

    Parameters
    ----------
    X:
        ``(..., n0)``: rows of inputs, any number of batch axes, also none.
    layers:
        Pairs ``(W, b)``, first layer first. ``W`` has shape ``(fan_in, fan_out)``
        and ``b`` shape ``(fan_out,)``; the fan-in of each layer is the fan-out of
        the one before. All arrays are real and are left unchanged.
    activation:
        Applied to ``h @ W + b`` in every layer *but the last*, which is linear. It
        maps an array to one of the same shape and dtype, and may overwrite its
        argument.

    Returns
    -------
    ``len(layers) + 1`` arrays: a copy of ``X``, then the output of each layer, so
    that ``[-1]`` holds the outputs of the network. All are float32 if ``X`` and all
    weights and biases are, else float64. Without layers, ``X`` is all there is.

    Raises ValueError if a layer does not fit its input; the message says which,
    ``layer 1`` being the first.

    Source: Goodfellow et al. 2016, "Deep Learning", sec. 6.1 and 6.4.
    """
    parts = [X, *(part for layer in layers for part in layer)]
    single = all(part.dtype == np.float32 for part in parts)
    dtype = np.float32 if single else np.float64
    outputs = [X.astype(dtype)]
    for number, (W, b) in enumerate(layers, start=1):
        h = outputs[-1]
        if W.ndim != 2 or h.shape[-1:] != W.shape[:1] or b.shape != W.shape[1:]:
            raise ValueError(
                f"layer {number}: W {W.shape} and b {b.shape} do not fit an input "
                f"of shape {h.shape}"
            )
        z = h @ W.astype(dtype) + b.astype(dtype)
        # equivalent `number != len(layers)`: the number never exceeds the length
        outputs.append(activation(z) if number < len(layers) else z)
    return outputs


known_mistakes(
    mlp_forward,
    (
        "activation(z) if number < len(layers) else z",
        "activation(z)",
        "the activation is applied to the last layer too: no output can be negative, or beyond 1",
    ),
    (
        "h @ W.astype(dtype) + b.astype(dtype)",
        "h @ W.astype(dtype)",
        "the biases are left out: every hinge goes through the origin",
    ),
    (
        "outputs.append(activation(z) if number < len(layers) else z)",
        "outputs.append(z)",
        "there is no activation: the layers collapse to one matrix",
    ),
    (
        "h = outputs[-1]",
        "h = outputs[0]",
        "every layer reads X; it should read the output of the layer before",
    ),
    (
        "z = h @ W.astype(dtype) + b.astype(dtype)",
        "z = activation(h) @ W.astype(dtype) + b.astype(dtype)",
        "the activation stands before the product: X is bent, and hidden outputs are bent twice",
    ),
    (
        " or b.shape != W.shape[1:]",
        "",
        "a bias of shape (1,) or (B, k) is not refused: broadcasting hides it",
    ),
    (
        "activation(z) if number",
        "activation(z - b.astype(dtype)) + b.astype(dtype) if number",
        "the bias is added behind the activation; before it, it moves the bend",
    ),
    (
        "np.float32 if single else np.float64",
        "X.dtype",
        "the dtype comes from X alone: integers cut the weights off",
    ),
    (
        "outputs = [X.astype(dtype)]",
        "outputs = [X.astype(dtype, copy=False)]",
        "the first output is X itself and no copy: whoever writes into it changes the data",
    ),
    (
        "    return outputs\n",
        "    return outputs[1:]\n",
        "the input is missing at the front: the backward pass needs it for the first layer",
    ),
)


def relu_interpolant(
    x: np.ndarray, y: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """A network with one hidden layer of ReLUs that passes through given points.

    Parameters
    ----------
    x:
        ``(n,)``, strictly increasing, ``n`` at least 1.
    y:
        ``(n,)``: the values there. Both are real and are left unchanged.

    Returns
    -------
    Two layers for ``mlp_forward``, float64: ``(1, n)`` and ``(n,)``, then ``(n, 1)``
    and ``(1,)``. With ReLU between them they compute, for an input of shape
    ``(B, 1)``, what ``np.interp`` does: straight lines between the points, ``y[0]``
    to the left of them and ``y[-1]`` to the right. Hidden unit ``i`` has its kink at
    ``x[i]``, and ``W1`` holds ones.

    Raises ValueError if ``x`` and ``y`` are not two lists of equally many numbers,
    at least one, or if ``x`` is not strictly increasing.

    Source: derived on the page.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    if x.ndim != 1 or x.shape != y.shape or not x.size:
        raise ValueError(f"x {x.shape} and y {y.shape} make no list of points")
    if not (np.diff(x) > 0).all():
        raise ValueError("x must be strictly increasing")
    slopes = np.diff(y) / np.diff(x)
    bends = np.diff(slopes, prepend=0.0, append=0.0)
    return [(np.ones((1, len(x))), -x), (bends[:, None], y[:1])]


known_mistakes(
    relu_interpolant,
    (
        "np.diff(slopes, prepend=0.0, append=0.0)",
        "np.append(slopes, 0.0)",
        "each unit carries the whole slope of its stretch; the units to its left are still on, so it should add the change of slope",
    ),
    (
        "np.diff(slopes, prepend=0.0, append=0.0)",
        "np.append(np.diff(slopes, prepend=0.0), 0.0)",
        "nothing stops the last slope: to the right of the points the line goes on",
    ),
    (
        "np.ones((1, len(x))), -x)",
        "np.ones((1, len(x))), x)",
        "the kinks are mirrored: relu(t + b) bends at -b",
    ),
    (
        "y[:1])]",
        "np.zeros(1))]",
        "the value at the first point is missing: the last bias should hold it",
    ),
    (
        "np.diff(y) / np.diff(x)",
        "np.diff(y)",
        "a slope is a rise over a run: the distance between the points is not divided by",
    ),
    (
        "(np.diff(x) > 0).all()",
        "(np.diff(x) >= 0).all()",
        "two points at the same x are not refused: there is no line through them",
    ),
    (
        "x, y = x.astype(np.float64), y.astype(np.float64)",
        "x, y = x, y",
        "differences of unsigned integers wrap around: convert to floats first",
    ),
)


def xavier_uniform(
    fan_in: int, fan_out: int, rng: np.random.Generator, gain: float = 1.0
) -> np.ndarray:
    """Uniform weights of variance ``gain² · 2 / (fan_in + fan_out)``, mean zero.

    Parameters
    ----------
    fan_in, fan_out:
        The widths before and behind the layer, each at least 1.
    rng:
        The only source of randomness; it moves on with every call.
    gain:
        Factor on all weights, positive.

    Returns
    -------
    ``(fan_in, fan_out)``, float64, for use as ``x @ W``.

    Raises ValueError if a width is less than 1 or the gain is not positive.

    Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep
    feedforward neural networks", eq. 16.
    """
    if fan_in < 1 or fan_out < 1:
        raise ValueError(f"fan_in {fan_in} or fan_out {fan_out} is less than 1")
    if gain <= 0:
        raise ValueError(f"the gain must be positive, got {gain}")
    bound = gain * math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-bound, bound, size=(fan_in, fan_out))


known_mistakes(
    xavier_uniform,
    (
        "math.sqrt(6 / (fan_in + fan_out))",
        "math.sqrt(2 / (fan_in + fan_out))",
        "the standard deviation is used as the bound: a uniform variable reaches √3 times as far",
    ),
    (
        "math.sqrt(6 / (fan_in + fan_out))",
        "math.sqrt(6 / fan_in)",
        "only the fan-in counts here; Xavier's compromise takes the sum of both fans",
    ),
    (
        "math.sqrt(6 / (fan_in + fan_out))",
        "6 / (fan_in + fan_out)",
        "the square root is missing: that is a variance's formula, and the bound is a length",
    ),
    (
        "gain * math.sqrt(6 / (fan_in + fan_out))",
        "math.sqrt(6 * gain / (fan_in + fan_out))",
        "the gain stands under the root; it multiplies the weights, so their variance by its square",
    ),
    (
        "gain * math.sqrt",
        "gain**2 * math.sqrt",
        "the gain enters squared: that is its factor on the variance, and the weights get it once",
    ),
    (
        "rng.uniform(-bound, bound, size=(fan_in, fan_out))",
        "rng.uniform(-bound, bound, size=(fan_out, fan_in))",
        "the shape is PyTorch's (fan_out, fan_in); for x @ W it is (fan_in, fan_out)",
    ),
    (
        "rng.uniform(-bound, bound,",
        "rng.uniform(0, bound,",
        "all weights are positive: the mean is not zero, and sums drift away",
    ),
    (
        "rng.uniform(-bound, bound, size=(fan_in, fan_out))",
        "rng.normal(0, bound / 3**0.5, size=(fan_in, fan_out))",
        "the variance is right, the distribution is normal: some weights lie beyond the bound",
    ),
    (
        "rng.uniform(-bound",
        "np.random.default_rng(0).uniform(-bound",
        "every call makes a generator of its own: all layers of one shape get the same weights",
    ),
)


def kaiming_normal(
    fan_in: int,
    fan_out: int,
    rng: np.random.Generator,
    slope: float = 0.0,
    mode: str = "fan_in",
) -> np.ndarray:
    """Normal weights of variance ``2 / ((1 + slope²) · fan)``, mean zero.

    Parameters
    ----------
    fan_in, fan_out:
        The widths before and behind the layer, each at least 1.
    rng:
        The only source of randomness; it moves on with every call.
    slope:
        The activation is ``z`` for ``z > 0`` and ``slope * z`` below: 0 for ReLU, 1
        for a linear layer.
    mode:
        ``"fan_in"`` keeps the variance forward, ``"fan_out"`` backward.

    Returns
    -------
    ``(fan_in, fan_out)``, float64, for use as ``x @ W``.

    Raises ValueError if a width is less than 1 or the mode is neither of the two.

    Source: He et al. 2015, "Delving Deep into Rectifiers", eq. 10, 14 and 15.
    """
    if fan_in < 1 or fan_out < 1:
        raise ValueError(f"fan_in {fan_in} or fan_out {fan_out} is less than 1")
    fans = {"fan_in": fan_in, "fan_out": fan_out}
    if mode not in fans:
        raise ValueError(f'mode must be "fan_in" or "fan_out", got {mode!r}')
    std = math.sqrt(2 / ((1 + slope**2) * fans[mode]))
    return rng.normal(0.0, std, size=(fan_in, fan_out))


known_mistakes(
    kaiming_normal,
    (
        "math.sqrt(2 / ((1 + slope**2) * fans[mode]))",
        "2 / ((1 + slope**2) * fans[mode])",
        "the variance is used as the standard deviation: its square root is missing",
    ),
    (
        "math.sqrt(2 /",
        "math.sqrt(1 /",
        "the 2 is missing: half of the signal is lost in every ReLU layer",
    ),
    (
        "math.sqrt(2 / ((1 + slope**2) * fans[mode]))",
        "math.sqrt(4 / ((1 + slope**2) * (fan_in + fan_out)))",
        "both fans are averaged; Kaiming's rule takes one, as the mode says",
    ),
    (
        '{"fan_in": fan_in, "fan_out": fan_out}',
        '{"fan_in": fan_out, "fan_out": fan_in}',
        "the two modes are exchanged: fan_in is the width before the layer, the number of terms of a forward sum",
    ),
    (
        "fans[mode]))",
        "fan_in))",
        "the mode is ignored: fan_out divides by the width behind the layer",
    ),
    (
        "(1 + slope**2)",
        "(1 + slope)",
        "the slope acts on the square of the signal: it should be squared",
    ),
    (
        "(1 + slope**2) * ",
        "",
        "the slope is ignored: what passes below zero adds to the variance",
    ),
    (
        "size=(fan_in, fan_out))",
        "size=(fan_out, fan_in))",
        "the shape is PyTorch's (fan_out, fan_in); for x @ W it is (fan_in, fan_out)",
    ),
    (
        "rng.normal(0.0, std, size=(fan_in, fan_out))",
        "rng.uniform(-(3**0.5) * std, 3**0.5 * std, size=(fan_in, fan_out))",
        "the variance is right, the distribution is uniform: this is kaiming_uniform",
    ),
    (
        "rng.normal(0.0, std, size=(fan_in, fan_out))",
        "np.random.normal(0.0, std, size=(fan_in, fan_out))",
        "the generator that was passed is not used: the same seed gives other weights",
    ),
)


def predict_variance(
    start: float,
    fans: Sequence[int],
    stds: Sequence[float],
    activation: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """The variance of the pre-activations of each layer, for wide random layers.

    Parameters
    ----------
    start:
        The mean square of the network's inputs.
    fans:
        The fan-in of each layer, first layer first.
    stds:
        The standard deviation of each layer's weights, which are independent with
        mean zero. Biases are zero.
    activation:
        Applied entry by entry between the layers; takes and returns arrays.

    Returns
    -------
    ``(len(fans),)``, float64: the variance of an entry of ``h @ W`` in each layer,
    with the pre-activations taken to be normal. Relative error at most 1e-6 for a
    continuous activation that is smooth but perhaps at 0 and grows at most
    linearly, and variances up to 100.

    Raises ValueError if ``fans`` and ``stds`` are not equally many.

    Source: derived on the page; He et al. 2015, "Delving Deep into Rectifiers",
    sec. 2.2, for ReLU.
    """
    if len(fans) != len(stds):
        raise ValueError(f"got {len(fans)} fans and {len(stds)} standard deviations")
    # equivalent `(9.0, -9.0`: the same grid, walked backward
    # equivalent `-10.0`: so little lies out there ;; `-8.0`: likewise ;; `-18.0`: likewise
    # equivalent ` 10.0`: likewise ;; ` 8.0`: likewise ;; ` 18.0`: likewise
    # equivalent `9000`: as fine a grid ;; `9002`: likewise
    z = np.linspace(-9.0, 9.0, 9001)
    density = np.exp(-(z**2) / 2)
    density /= density.sum()
    variances = np.empty(len(fans))
    square = start
    for i, (fan, std) in enumerate(zip(fans, stds)):
        variances[i] = fan * std**2 * square
        # equivalent `2 @ density`: a dot product has no order
        square = density @ activation(np.sqrt(variances[i]) * z) ** 2
    return variances


known_mistakes(
    predict_variance,
    (
        "fan * std**2 * square",
        "fan * std * square",
        "the standard deviation enters as its square: variances multiply",
    ),
    (
        "fan * std**2 * square",
        "std**2 * square",
        "the fan-in is missing: as many terms are added as the layer has inputs",
    ),
    (
        "activation(np.sqrt(variances[i]) * z)",
        "activation(variances[i] * z)",
        "a normal variable of variance q is √q times a standard one",
    ),
    (
        "square = density @ activation(np.sqrt(variances[i]) * z) ** 2",
        "square = variances[i] / 2",
        "half of the variance passes through a ReLU; other activations need their own mean square",
    ),
    (
        "square = density @ activation(np.sqrt(variances[i]) * z) ** 2",
        "square = density @ activation(np.sqrt(variances[i]) * z) ** 2 - (density @ activation(np.sqrt(variances[i]) * z)) ** 2",
        "the next layer needs the mean square of its inputs, not their variance: a ReLU's outputs have a mean",
    ),
    (
        "square = density @ activation(np.sqrt(variances[i]) * z) ** 2",
        "square = (density @ activation(np.sqrt(variances[i]) * z)) ** 2",
        "the mean is squared; the mean of the square is asked for",
    ),
    (
        "    square = start\n",
        "    square = density @ activation(np.sqrt(start) * z) ** 2\n",
        "the first layer reads the data as it is: no activation stands in front of it",
    ),
    (
        "variances[i] = fan * std**2 * square\n        square",
        "square = fan * std**2 * square\n        variances[i]",
        "the values behind the activation are returned; those before it are asked for",
    ),
)
