"""Day 15: log-softmax, the loss of every language model with its gradient, and Huber's."""

from __future__ import annotations

import math

import numpy as np

from llm180 import known_mistakes


def log_softmax(z: np.ndarray, axis: int = -1) -> np.ndarray:
    """The logarithm of the softmax, computed without the softmax.

    Parameters
    ----------
    z:
        Logits of any size and any shape with at least one axis; ``-inf`` marks what
        cannot come. They are left unchanged.
    axis:
        The axis of the classes; it has at least one entry.

    Returns
    -------
    The shape of ``z``: ``z`` minus the log-sum-exp of its slice, so that the
    exponentials of a slice sum to 1. float32 if ``z`` is, else float64. A slice that
    holds NaN or ``+inf``, or ``-inf`` alone, has no distribution: all its entries are
    NaN, without a warning.

    Raises ValueError, with the word "axis", if ``z`` has no axis, or no logit along
    ``axis``.

    Source: Blanchard, Higham and Higham 2021, "Accurately computing the log-sum-exp
    and softmax functions", sec. 1.
    """
    if not z.ndim or not z.shape[axis]:
        raise ValueError(f"expected logits along axis {axis}, got shape {z.shape}")
    z = z.astype(np.float32 if z.dtype == np.float32 else np.float64)
    with np.errstate(invalid="ignore"):
        shifted = z - z.max(axis=axis, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


known_mistakes(
    log_softmax,
    (
        "        return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))\n",
        "        e = np.exp(shifted)\n        return np.log(e / e.sum(axis=axis, keepdims=True))\n",
        "the logarithm of a probability that has underflowed to 0 is -inf: subtract logarithms, never divide",
    ),
    (
        "shifted = z - z.max(axis=axis, keepdims=True)",
        "shifted = z",
        "the exponential of a large logit overflows: subtract the largest of the slice first",
    ),
    (
        "z.max(axis=axis, keepdims=True)",
        "z.max()",
        "the largest of the whole batch is subtracted: a row far below it underflows to nothing",
    ),
    (
        "np.exp(shifted).sum(axis=axis, keepdims=True)",
        "np.exp(shifted).sum()",
        "the sum runs over the whole batch; each slice sums to 1 on its own",
    ),
    (
        "return shifted - np.log(",
        "return z - np.log(",
        "the largest logit was taken out of the sum and never put back: subtract the log-sum-exp of the same z",
    ),
    (
        "        return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))\n",
        "        lse = z.max(axis=axis, keepdims=True) + np.log(np.exp(shifted).sum(axis=axis, keepdims=True))\n        return z - lse\n",
        "the small logarithm is added to the large maximum and its digits are rounded away: subtract the maximum first",
    ),
    (
        "np.log(np.exp(shifted).sum(axis=axis, keepdims=True))",
        "np.log(1e-6 + np.exp(shifted).sum(axis=axis, keepdims=True))",
        "a constant inside the logarithm hides an error and shifts every result; after the shift the sum is at least 1",
    ),
    (
        "np.float32 if z.dtype == np.float32 else np.float64",
        "np.float32",
        "float64 and integer logits are rounded to float32",
    ),
    (
        "not z.ndim or not z.shape[axis]",
        "not z.ndim",
        "a slice without logits is not refused",
    ),
)


def cross_entropy(
    logits: np.ndarray,
    targets: np.ndarray,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> tuple[float, np.ndarray]:
    """The cross-entropy of a batch in nats, and its gradient in the logits.

    Parameters
    ----------
    logits:
        ``(..., k)``, of any size; any number of batch axes, also none. ``-inf``
        marks what cannot come. They are left unchanged.
    targets:
        ``(...)``, integers: the right class of each row, from 0 to ``k - 1``, or
        ``ignore_index`` where the row does not count.
    label_smoothing:
        From 0 to below 1: this share of the target's probability is spread evenly
        over all ``k`` classes, the target included.
    ignore_index:
        Rows with this target add nothing to the loss, whatever their logits are, NaN
        included, and get the gradient 0. It may also be a class.
    reduction:
        ``"mean"`` over the rows that count, or their ``"sum"``.

    Returns
    -------
    loss:
        A ``float``. The mean over no row at all is NaN, the sum is 0. A row that
        counts and has no distribution, as in ``log_softmax``, makes it NaN.
    grad:
        ``(..., k)``: the derivative of the loss. float32 if ``logits`` is, else
        float64; all zero if no row counts.

    Raises ValueError if the shapes do not fit, if the targets are not of an integer
    dtype or one that counts is not from 0 to ``k - 1``, or if ``label_smoothing`` or
    ``reduction`` is none of the above.

    Source: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer
    Vision", sec. 7; the conventions are those of PyTorch's ``F.cross_entropy``.
    """
    if not logits.ndim or logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"targets of shape {targets.shape} do not fit logits of shape "
            f"{logits.shape}"
        )
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    k = logits.shape[-1]
    counted = targets != ignore_index
    chosen = targets[counted]  # (m,), m rows count
    if targets.dtype.kind not in "iu" or ((chosen < 0) | (chosen >= k)).any():
        raise ValueError(f"a target is not an integer from 0 to {k - 1}")

    log_p = log_softmax(logits[counted])  # (m, k)
    wanted = np.full_like(log_p, label_smoothing / k)
    wanted[np.arange(len(chosen)), chosen] += 1 - label_smoothing
    # where nothing is wanted, 0 * -inf would be NaN
    # equivalent `!= 0`: none is negative ;; `log_p, 1)` `log_p, -1)`: times 0 ;; `=1)`: 2 axes
    losses = -(wanted * np.where(wanted > 0, log_p, 0)).sum(axis=-1)
    grad = np.zeros(logits.shape, log_p.dtype)
    grad[counted] = np.exp(log_p) - wanted
    if reduction == "sum":  # equivalent `>= "sum"`: the other is "mean"
        return float(losses.sum()), grad
    if not len(chosen):
        return math.nan, grad
    return float(losses.mean()), grad / len(chosen)


known_mistakes(
    cross_entropy,
    (
        "return float(losses.mean()), grad / len(chosen)",
        "return float(losses.sum()) / targets.size, grad / targets.size",
        "the mean is taken over all rows, padding included: divide by the number of rows that count",
    ),
    (
        "return float(losses.mean()), grad / len(chosen)",
        "return float(losses.mean()), grad",
        "the loss is a mean and the gradient is that of the sum",
    ),
    (
        "grad[counted] = np.exp(log_p) - wanted",
        "grad[counted] = wanted - np.exp(log_p)",
        "the sign is that of a step downhill; the gradient is p minus what is wanted",
    ),
    (
        "    grad[counted] = np.exp(log_p) - wanted\n",
        "    grad[counted] = np.exp(log_p)\n    grad[(*np.nonzero(counted), chosen)] -= 1\n",
        "the gradient forgets the smoothing: it is p minus the smoothed target",
    ),
    (
        "label_smoothing / k",
        "label_smoothing / (k - 1)",
        "the share is spread over all k classes, the target included; so spread, the target sums to more than 1",
    ),
    (
        "np.full_like(log_p, label_smoothing / k)",
        "np.full_like(log_p, label_smoothing)",
        "every class gets the whole share: the smoothed target does not sum to 1",
    ),
    (
        "+= 1 - label_smoothing",
        "= 1 - label_smoothing",
        "the target class lost its own share, epsilon / k: the smoothed target sums to less than 1",
    ),
    (
        "    log_p = log_softmax(logits[counted])  # (m, k)\n",
        "    log_p = np.log(np.exp(log_softmax(logits[counted])) + 1e-12)\n",
        "a constant inside the logarithm ends the loss at 27.6 nats: a model that is more wrong never hears of it",
    ),
    (
        "np.where(wanted > 0, log_p, 0)",
        "np.where(np.isfinite(log_p), log_p, 0)",
        "a masked class is left out even where it is wanted: the loss there is infinite, and must show it",
    ),
    (
        "np.where(wanted > 0, log_p, 0)",
        "log_p",
        "a masked class has log-probability -inf, and 0 times -inf is NaN: leave out what is not wanted",
    ),
    (
        "    log_p = log_softmax(logits[counted])  # (m, k)\n",
        "    e = np.exp(logits[counted].astype(np.float64))\n    log_p = np.log(e / e.sum(axis=-1, keepdims=True))\n",
        "the softmax is taken first and its logarithm after: it overflows, or the logarithm of 0 comes up",
    ),
    (
        "    if not len(chosen):\n        return math.nan, grad\n",
        "    if not len(chosen):\n        return 0.0, grad\n",
        "the mean over no row is no number; a loss of 0 reports a perfect model",
    ),
    (
        "counted = targets != ignore_index",
        "counted = targets >= 0",
        "every negative target passes for padding, and ignore_index is never read: a broken target goes unnoticed",
    ),
    (
        "return float(losses.sum()), grad",
        "return float(losses.sum()), grad / max(1, len(chosen))",
        "the loss is a sum and the gradient is that of the mean",
    ),
)


def huber(
    prediction: np.ndarray, target: np.ndarray, delta: float = 1.0
) -> tuple[float, np.ndarray]:
    """The mean Huber loss of predictions, and its gradient in the predictions.

    With the error ``e = prediction - target``, one loss is ``e**2 / 2`` up to
    ``|e| = delta``, and ``delta * (|e| - delta / 2)`` beyond.

    Parameters
    ----------
    prediction, target:
        Real numbers of one shape, any shape, also ``()``. They are left unchanged.
    delta:
        Positive, in the unit of the target; ``math.inf`` gives half the squared
        error.

    Returns
    -------
    loss:
        A ``float``, the mean over all entries; NaN if there is none.
    grad:
        The shape of ``prediction``: the derivative of the *mean*. float32 if both
        inputs are, else float64.

    Raises ValueError if the shapes differ (nothing is broadcast), or ``delta`` is not
    positive.

    Source: Huber 1964, "Robust Estimation of a Location Parameter", sec. 1.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction of shape {prediction.shape} and target of shape "
            f"{target.shape} must have the same shape"
        )
    if not delta > 0:
        raise ValueError(f"delta must be positive, got {delta}")
    single = prediction.dtype == target.dtype == np.float32
    dtype = np.float32 if single else np.float64
    error = prediction.astype(dtype) - target.astype(dtype)
    force = np.clip(error, -delta, delta)
    losses = force * (error - force / 2)
    if not error.size:
        return math.nan, force
    return float(losses.mean()), force / error.size


known_mistakes(
    huber,
    (
        "losses = force * (error - force / 2)",
        "losses = np.where(abs(error) <= delta, error**2 / 2, delta * abs(error))",
        "the two pieces do not meet at delta: the line must be lowered by half of delta squared",
    ),
    (
        "losses = force * (error - force / 2)",
        "losses = force**2 / 2",
        "the clipped error is squared: beyond delta the loss is flat, though its slope should be delta",
    ),
    (
        "losses = force * (error - force / 2)",
        "losses = force * (error - force / 2) / delta",
        "this is the smooth L1 loss, Huber's divided by delta",
    ),
    (
        "return float(losses.mean()), force / error.size",
        "return float(losses.sum()), force / error.size",
        "the loss is a sum; the mean is asked for, and the gradient is that of the mean",
    ),
    (
        "return float(losses.mean()), force / error.size",
        "return float(losses.mean()), force",
        "the loss is a mean and the gradient is that of the sum",
    ),
    (
        "return float(losses.mean()), force / error.size",
        "return float(losses.mean()), error / error.size",
        "the gradient is not clipped: one outlier pulls as hard as its error is large",
    ),
    (
        "    if prediction.shape != target.shape:\n",
        "    if prediction.size != target.size:\n",
        "a column (n, 1) and a vector (n,) are broadcast to n times n differences",
    ),
    (
        "error = prediction.astype(dtype) - target.astype(dtype)",
        "error = (prediction - target).astype(dtype)",
        "the difference is taken in the dtype of the inputs: unsigned integers wrap around",
    ),
    (
        "force = np.clip(error, -delta, delta)",
        "force = np.clip(error, -1, 1)",
        "the error is clipped at 1, whatever delta is",
    ),
)
