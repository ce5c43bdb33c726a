"""Day 19: batch normalization, layer normalization and RMS normalization on Day 13's tensor."""

from __future__ import annotations

import numpy as np

from llm180 import known_mistakes
from solutions.day013_backprop import Tensor, unbroadcast


class BatchNorm1d:
    """Standardize each feature over the batch, then scale and shift it.

    ``weight`` and ``bias``, shape ``(features,)``, are leaves that require a gradient.
    ``running_mean`` and ``running_var``, arrays of the same shape, are no parameters:
    calls with ``training`` True update them in place, calls with False use them.

    Source: Ioffe and Szegedy 2015, "Batch Normalization", algorithms 1 and 2; the
    conventions are torch.nn.BatchNorm1d's.
    """

    def __init__(
        self, features: int, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        """Weight and running variance begin at ones, bias and running mean at zeros.

        ``training`` is True at first; ``momentum`` is the share of the new batch.
        """
        self.weight = Tensor(np.ones(features), requires_grad=True)
        self.bias = Tensor(np.zeros(features), requires_grad=True)
        self.running_mean = np.zeros(features)
        self.running_var = np.ones(features)
        self.eps = eps
        self.momentum = momentum
        self.training = True

    def parameters(self) -> list[Tensor]:
        """The tensors to train: weight, then bias."""
        return [self.weight, self.bias]

    def __call__(self, x: Tensor) -> Tensor:
        """``(B, features)`` to ``(B, features)``; an array is a constant.

        In training, mean and biased variance are those of the batch, and gradients
        flow through both. Then ``momentum`` times the batch's mean and *unbiased*
        variance goes into the running ones, with ``1 - momentum`` times the old.

        Raises ValueError, with the shape of ``x`` in its message, if that is another
        one; also one that says ``rows``, for fewer than two rows in training. Then
        nothing has changed.
        """
        x = Tensor.lift(x)
        if x.shape[1:] != self.weight.shape:
            raise ValueError(f"an input of shape {x.shape} for {self.weight.shape}")
        if self.training:
            rows = len(x.data)
            if rows < 2:
                raise ValueError(f"training needs two rows or more, got {rows}")
            mean = x.mean(axis=0)
            centered = x - mean
            var = (centered * centered).mean(axis=0)
            unbiased = var.data * (rows / (rows - 1))
            self.running_mean += self.momentum * (mean.data - self.running_mean)
            self.running_var += self.momentum * (unbiased - self.running_var)
        else:
            centered = x - self.running_mean
            var = self.running_var
        return centered * (var + self.eps) ** -0.5 * self.weight + self.bias


known_mistakes(
    BatchNorm1d,
    (
        "self.momentum * (unbiased - self.running_var)",
        "self.momentum * (var.data - self.running_var)",
        "the running variance takes the unbiased variance of the batch, divided by B - 1",
    ),
    (
        "(var + self.eps) ** -0.5",
        "(var * (rows / (rows - 1) if self.training else 1.0) + self.eps) ** -0.5",
        "the batch itself is divided by the biased variance, the mean of the squares",
    ),
    (
        "self.running_mean += self.momentum * (mean.data - self.running_mean)",
        "self.running_mean += (1 - self.momentum) * (mean.data - self.running_mean)",
        "momentum is the share of the new batch here, not of the past",
    ),
    (
        "centered = x - mean\n",
        "centered = x - mean.data\n",
        "the batch's mean is a constant to your gradient; every row has a part in it",
    ),
    (
        "(var + self.eps) ** -0.5",
        "(getattr(var, 'data', var) + self.eps) ** -0.5",
        "the batch's variance is a constant to your gradient; every row has a part in it",
    ),
    (
        "(var + self.eps) ** -0.5",
        "(var**0.5 + self.eps) ** -1.0",
        "eps is added to the standard deviation; it stands under the root",
    ),
    (
        "var = (centered * centered).mean(axis=0)",
        "var = (x * x).mean(axis=0) - mean * mean",
        "the mean of squares minus the square of the mean cancels where the mean is large",
    ),
    (
        "        if self.training:\n",
        "        if True:\n",
        "in evaluation the running statistics are to be used, and left alone",
    ),
    (
        "        return centered *",
        "        if self.training:\n            centered, var = x - self.running_mean, self.running_var\n        return centered *",
        "in training the batch is standardized by its own statistics, not by the running ones",
    ),
    (
        "            if rows < 2:\n",
        "            if rows < 1:\n",
        "a single row has no variance: in training it is to be refused",
    ),
    (
        "self.running_mean += self.momentum * (mean.data - self.running_mean)",
        "self.running_mean = self.running_mean + self.momentum * (mean.data - self.running_mean)",
        "a new array is bound; who holds the running mean sees the old one: write in place",
    ),
    (
        "                raise ValueError(f\"training needs two rows or more, got {rows}\")\n",
        "                self.running_mean += self.momentum * (x.data.mean(axis=0) - self.running_mean)\n                raise ValueError(f\"training needs two rows or more, got {rows}\")\n",
        "a refused batch has gone into the running mean: check first",
    ),
)


class LayerNorm:
    """Standardize the last axis of each example, then scale and shift it.

    ``weight`` and ``bias``, shape ``(features,)``, are leaves that require a gradient.
    There is no state, and training and evaluation are the same.

    Source: Ba et al. 2016, "Layer Normalization", sec. 3; torch.nn.LayerNorm.
    """

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        """The weight begins at ones, the bias at zeros."""
        self.weight = Tensor(np.ones(features), requires_grad=True)
        self.bias = Tensor(np.zeros(features), requires_grad=True)
        self.eps = eps

    def parameters(self) -> list[Tensor]:
        """The tensors to train: weight, then bias."""
        return [self.weight, self.bias]

    def __call__(self, x: Tensor) -> Tensor:
        """``(..., features)`` to the same shape, as one node; an array is a constant.

        The edges of the result lead to ``x``, ``weight`` and ``bias``, directly.

        Raises ValueError, with the shape of ``x`` in its message, if the last axis
        has another length than features.
        """
        x, w, b = Tensor.lift(x), self.weight, self.bias
        if x.shape[-1:] != w.shape:
            raise ValueError(f"an input of shape {x.shape} for {w.shape}")
        centered = x.data - x.data.mean(axis=-1, keepdims=True)
        var = (centered**2).mean(axis=-1, keepdims=True)
        sigma = np.sqrt(var + self.eps)
        hat = centered / sigma

        def back(dy: np.ndarray) -> np.ndarray:
            g = dy * w.data
            along = (g * hat).mean(axis=-1, keepdims=True)
            return (g - g.mean(axis=-1, keepdims=True) - hat * along) / sigma

        return Tensor.result(
            hat * w.data + b.data,
            (x, back),
            (w, lambda dy: unbroadcast(dy * hat, w.shape)),
            (b, lambda dy: unbroadcast(dy, b.shape)),
        )


known_mistakes(
    LayerNorm,
    (
        "(g - g.mean(axis=-1, keepdims=True) - hat * along) / sigma",
        "(g - hat * along) / sigma",
        "the gradient's own mean is not subtracted: every entry has a part in the mean of x",
    ),
    (
        "(g - g.mean(axis=-1, keepdims=True) - hat * along) / sigma",
        "(g - g.mean(axis=-1, keepdims=True)) / sigma",
        "the part along the standardized x is not subtracted: every entry has a part in sigma",
    ),
    (
        "(g - g.mean(axis=-1, keepdims=True) - hat * along) / sigma",
        "g / sigma",
        "mean and sigma are constants to your gradient; both depend on x",
    ),
    (
        "            g = dy * w.data\n",
        "            g = dy\n",
        "the gradient did not pass the weight: it reaches the standardized x as dy * weight",
    ),
    (
        "along = (g * hat).mean(axis=-1, keepdims=True)",
        "along = (g * hat).sum(axis=-1, keepdims=True)",
        "the part along the standardized x is a mean, not a sum",
    ),
    (
        "along = (g * hat).mean(axis=-1, keepdims=True)",
        "along = (g * centered).mean(axis=-1, keepdims=True)",
        "the centered x in place of the standardized one in the product with the gradient",
    ),
    (
        "var = (centered**2).mean(axis=-1, keepdims=True)",
        "var = x.data.var(axis=-1, ddof=1, keepdims=True)",
        "the variance is the biased one, the mean of the squares",
    ),
    (
        "sigma = np.sqrt(var + self.eps)",
        "sigma = np.sqrt(var) + self.eps",
        "eps is added to the standard deviation; it stands under the root",
    ),
    (
        "var = (centered**2).mean(axis=-1, keepdims=True)",
        "var = (x.data**2).mean(axis=-1, keepdims=True) - x.data.mean(axis=-1, keepdims=True) ** 2",
        "the mean of squares minus the square of the mean cancels where the mean is large",
    ),
    (
        "unbroadcast(dy * hat, w.shape)",
        "(dy * hat).sum(axis=0)",
        "with three axes, the weight's gradient must be summed over two",
    ),
    (
        "unbroadcast(dy * hat, w.shape)",
        "unbroadcast(dy * x.data, w.shape)",
        "the weight multiplies the standardized x, not x",
    ),
    (
        """        centered = x.data - x.data.mean(axis=-1, keepdims=True)
        var = (centered**2).mean(axis=-1, keepdims=True)
""",
        """        centered = x.data - x.data.mean(axis=0, keepdims=True)
        var = (centered**2).mean(axis=0, keepdims=True)
""",
        "statistics over the batch: that is the other layer; here each example has its own",
    ),
)


class RMSNorm:
    """Divide the last axis of each example by its root mean square, then scale it.

    ``weight``, shape ``(features,)``, is a leaf that requires a gradient. No mean is
    subtracted, and there is no bias.

    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization"; eps
    stands under the root, as in torch.nn.RMSNorm.
    """

    def __init__(self, features: int, eps: float = 1e-6) -> None:
        """The weight begins at ones."""
        self.weight = Tensor(np.ones(features), requires_grad=True)
        self.eps = eps

    def parameters(self) -> list[Tensor]:
        """The tensors to train: the weight."""
        return [self.weight]

    def __call__(self, x: Tensor) -> Tensor:
        """``(..., features)`` to the same shape, as one node; an array is a constant.

        The edges of the result lead to ``x`` and ``weight``, directly.

        Raises ValueError, with the shape of ``x`` in its message, if the last axis
        has another length than features.
        """
        x, w = Tensor.lift(x), self.weight
        if x.shape[-1:] != w.shape:
            raise ValueError(f"an input of shape {x.shape} for {w.shape}")
        rms = np.sqrt((x.data**2).mean(axis=-1, keepdims=True) + self.eps)
        hat = x.data / rms

        def back(dy: np.ndarray) -> np.ndarray:
            g = dy * w.data
            return (g - hat * (g * hat).mean(axis=-1, keepdims=True)) / rms

        return Tensor.result(
            hat * w.data,
            (x, back),
            (w, lambda dy: unbroadcast(dy * hat, w.shape)),
        )


known_mistakes(
    RMSNorm,
    (
        "rms = np.sqrt((x.data**2).mean(axis=-1, keepdims=True) + self.eps)",
        "rms = np.sqrt(x.data.var(axis=-1, keepdims=True) + self.eps)",
        "a variance subtracts the mean; the mean square does not",
    ),
    (
        "rms = np.sqrt((x.data**2).mean(axis=-1, keepdims=True) + self.eps)",
        "rms = np.sqrt((x.data**2).sum(axis=-1, keepdims=True) + self.eps)",
        "that is the length of x; the root of the mean square is shorter by √features",
    ),
    (
        "rms = np.sqrt((x.data**2).mean(axis=-1, keepdims=True) + self.eps)",
        "rms = np.sqrt((x.data**2).mean(axis=-1, keepdims=True)) + self.eps",
        "eps is added after the root; it stands under it",
    ),
    (
        "return (g - hat * (g * hat).mean(axis=-1, keepdims=True)) / rms",
        "return (g - g.mean(axis=-1, keepdims=True) - hat * (g * hat).mean(axis=-1, keepdims=True)) / rms",
        "no mean of x was subtracted, so no mean of the gradient is",
    ),
    (
        "return (g - hat * (g * hat).mean(axis=-1, keepdims=True)) / rms",
        "return (g - x.data * (g * x.data).mean(axis=-1, keepdims=True)) / rms",
        "the derivation has x / rms in both places, not x",
    ),
    (
        "return (g - hat * (g * hat).mean(axis=-1, keepdims=True)) / rms",
        "return g / rms",
        "the root mean square is a constant to your gradient; every entry has a part in it",
    ),
    (
        "            g = dy * w.data\n",
        "            g = dy\n",
        "the gradient did not pass the weight: it reaches x / rms as dy * weight",
    ),
    (
        "unbroadcast(dy * hat, w.shape)",
        "unbroadcast(dy * x.data, w.shape)",
        "the weight multiplies x / rms, not x",
    ),
)
