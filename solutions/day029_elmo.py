"""Day 29: two language models that read in opposite directions, and probes of what their states know."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm180 import known_mistakes


class BiLM(nn.Module):
    """Two language models, one reading ahead and one reading back, which never meet.

    ``embed`` (nn.Embedding, vocab by width) and ``bias`` (vocab,) are shared by both.
    ``ahead`` and ``back`` are lists of LSTM layers, one list for each direction. The
    word vectors are used twice: the score of word ``w`` for a state ``h`` is
    ``embed.weight[w] @ h + bias[w]``.

    Source: Peters et al. 2018, "Deep contextualized word representations", sec. 3.1;
    there a convolution over characters makes the word vectors.
    """

    def __init__(self, vocab: int, width: int, layers: int = 2) -> None:
        """Make the parameters; every state has the length ``width``.

        Raises ValueError if a size is below 1.
        """
        super().__init__()
        if min(vocab, width, layers) < 1:
            raise ValueError(f"sizes are at least 1, got {vocab}, {width}, {layers}")
        self.embed = nn.Embedding(vocab, width)
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        self.bias = nn.Parameter(torch.zeros(vocab))
        lstm = lambda: nn.LSTM(width, width, batch_first=True)
        self.ahead = nn.ModuleList(lstm() for _ in range(layers))
        self.back = nn.ModuleList(lstm() for _ in range(layers))

    def climb(self, x: Tensor, stack: nn.ModuleList) -> Tensor:
        """The states of one direction, all layers of them.

        ``x`` holds word vectors, ``(B, T, width)``, in the order in which they are
        read; ``stack`` is ``ahead`` or ``back``. Layer 0 is ``x``. Layer 1 is what
        the first LSTM makes of it. Each layer above adds its input to its output.

        Returns ``(layers + 1, B, T, width)``, position by position as in ``x``.
        """
        states = [x]
        for j, lstm in enumerate(stack):
            out, _ = lstm(x)
            x = x + out if j else out
            states.append(x)
        return torch.stack(states)

    def forward(self, tokens: Tensor) -> Tensor:
        """The states of both directions, aligned by token.

        ``tokens`` are numbers of words, int64 ``(B, T)``, T at least 1.

        Returns ``(layers + 1, B, T, 2 width)``. At position t stand first the state
        that has read ``tokens[:, :t + 1]`` from the left, then the one that has read
        ``tokens[:, t:]`` from the right. Layer 0 is the word's vector, twice.
        """
        x = self.embed(tokens)
        ahead = self.climb(x, self.ahead)
        back = self.climb(x.flip(1), self.back).flip(2)
        return torch.cat([ahead, back], dim=-1)

    def loss(self, tokens: Tensor) -> Tensor:
        """The mean cross-entropy in nats ahead plus the one back, a number.

        The top layer's state at t predicts word t + 1 ahead, and word t - 1 back; each
        mean is over the ``B * (T - 1)`` words that are predicted.

        Raises ValueError, naming T, if T is below 2: nothing is predicted then.
        """
        if tokens.shape[1] < 2:
            raise ValueError("one word has no neighbor to predict: T is at least 2")
        ahead, back = self.forward(tokens)[-1].chunk(2, dim=-1)
        total = 0.0
        for h, y in (
            (ahead[:, :-1], tokens[:, 1:]),
            (back[:, 1:], tokens[:, :-1]),
        ):
            scores = F.linear(h, self.embed.weight, self.bias)
            total = total + F.cross_entropy(scores.flatten(0, 1), y.flatten())
        return total


known_mistakes(
    BiLM,
    (
        "self.climb(x.flip(1), self.back).flip(2)",
        "self.climb(x.flip(1), self.back)",
        "the states back stand in the order of reading, last word first: turn them round again",
    ),
    (
        "self.climb(x.flip(1), self.back).flip(2)",
        "self.climb(x, self.back)",
        "the model back reads from the left as well: it predicts a word that it has read",
    ),
    (
        "self.climb(x.flip(1), self.back).flip(2)",
        "self.climb(x.flip(0), self.back).flip(1)",
        "the batch is turned round, not the text: axis 0 counts the rows",
    ),
    (
        "self.climb(x.flip(1), self.back).flip(2)",
        "self.climb(x.flip(1), self.ahead).flip(2)",
        "both directions use the same LSTMs; they share the word vectors and the bias only",
    ),
    (
        "            (ahead[:, :-1], tokens[:, 1:]),",
        "            (ahead, tokens),",
        "the state at t has read word t: predict the next one, not this one",
    ),
    (
        "            (back[:, 1:], tokens[:, :-1]),",
        "            (back[:, :-1], tokens[:, 1:]),",
        "reading back, the next word is the one before: t predicts t - 1",
    ),
    (
        "            x = x + out if j else out",
        "            x = out",
        "a layer above the first adds its input to its output",
    ),
    (
        "            x = x + out if j else out",
        "            x = x + out",
        "layer 1 is the LSTM's output alone; with the word's vector added, it starts with a static part",
    ),
    (
        "self.forward(tokens)[-1].chunk(2, dim=-1)",
        "self.forward(tokens)[0].chunk(2, dim=-1)",
        "layer 0 predicts here: it has no context. The top layer does the predicting",
    ),
    (
        "            total = total + F.cross_entropy(scores.flatten(0, 1), y.flatten())\n        return total",
        "            total = total + F.cross_entropy(scores.flatten(0, 1), y.flatten())\n        return total / 2",
        "the two directions are added up, not averaged",
    ),
    (
        "        if tokens.shape[1] < 2:\n            raise ValueError(\"one word has no neighbor to predict: T is at least 2\")\n",
        "",
        "the mean over no predictions is nan, and nobody notices",
    ),
)


class ScalarMix(nn.Module):
    """One vector from all layers: ``gamma * sum_j s_j states[j]``, ``s = softmax(w)``.

    ``w`` (layers,) starts at 0 and ``gamma`` (a number, shape ()) at 1; both are
    parameters.

    Source: Peters et al. 2018, "Deep contextualized word representations", eq. 1.
    """

    def __init__(self, layers: int) -> None:
        """Make ``w`` and ``gamma`` for so many layers, layer 0 counted.

        Raises ValueError, naming ``layers``, if that is below 1.
        """
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers must be at least 1, got {layers}")
        self.w = nn.Parameter(torch.zeros(layers))
        self.gamma = nn.Parameter(torch.ones(()))

    def forward(self, states: Tensor) -> Tensor:
        """``(layers, ..., d)`` to ``(..., d)``.

        Raises ValueError, naming both numbers, if ``states`` has not as many layers
        as ``w``.
        """
        if len(states) != len(self.w):
            raise ValueError(f"weights for {len(self.w)} layers, got {len(states)}")
        # equivalent `softmax(dim=-1)`: w has one axis
        return self.gamma * torch.tensordot(self.w.softmax(dim=0), states, dims=1)


known_mistakes(
    ScalarMix,
    (
        "self.w.softmax(dim=0)",
        "self.w",
        "the weights go through the softmax first: positive, with sum 1",
    ),
    (
        "self.w.softmax(dim=0)",
        "self.w.detach().softmax(dim=0)",
        "a detached weight gets no gradient: the mix cannot be learned",
    ),
    (
        "self.gamma * torch.tensordot",
        "torch.tensordot",
        "gamma scales the result",
    ),
    (
        "self.gamma * torch.tensordot(self.w.softmax(dim=0), states, dims=1)",
        "torch.tensordot((self.gamma * self.w).softmax(dim=0), states, dims=1)",
        "gamma stands outside of the softmax; inside it would be a temperature",
    ),
    (
        "self.gamma = nn.Parameter(torch.ones(()))",
        "self.gamma = torch.ones(())",
        "gamma is a parameter: an optimizer must find it",
    ),
    (
        "self.w = nn.Parameter(torch.zeros(layers))",
        "self.w = nn.Parameter(torch.randn(layers))",
        "w starts at 0, so that all layers have the same weight at first",
    ),
    (
        "        if len(states) != len(self.w):\n            raise ValueError(f\"weights for {len(self.w)} layers, got {len(states)}\")\n",
        "",
        "another number of layers must be refused in words that say so",
    ),
)


class Probe(NamedTuple):
    """A probe's accuracy, and that of always giving training's most frequent label."""

    accuracy: float
    majority: float


def probe_accuracy(
    vectors: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    held_out: Collection[int],
    penalty: float = 0.1,
) -> Probe:
    """Fit a linear probe on some groups of occurrences, and test it on the others.

    With n training rows, let ``X`` be the vectors minus the training mean, divided by
    the training standard deviation, over n (by 1 where that is 0), and ``Y`` (n, k)
    the one-hot labels minus their training mean. The probe is

        ``W = (X.T @ X / n + penalty * I)^-1 @ X.T @ Y / n``

    and gives the label whose column of ``x @ W + mean`` is largest, the smaller label
    if two are equal. A label that training never saw is always missed.

    Parameters
    ----------
    vectors:
        Frozen vectors, (n, d), of any float dtype; left unchanged.
    labels:
        What to find in them, any integers, (n,).
    groups:
        The source of each row, such as its chapter, (n,).
    held_out:
        The groups to test on; all others train. One that does not occur is no error.
    penalty:
        Positive.

    Returns
    -------
    Both shares of correct labels on the test rows. If two labels are the most frequent
    in training, the majority is the smaller.

    Raises ValueError, naming the lengths if they differ, ``held_out`` if it leaves no
    training row or no test row, and the penalty if it is not positive.

    Source: derived on the page; for baselines and controls of probes, Hewitt and Liang
    2019, "Designing and Interpreting Probes with Control Tasks".
    """
    vectors = np.asarray(vectors, dtype=float)
    if not len(vectors) == len(labels) == len(groups):
        raise ValueError("vectors, labels and groups have different lengths")
    if not penalty > 0:
        raise ValueError(f"the penalty must be positive, got {penalty}")
    test = np.isin(groups, list(held_out))
    if test.all() or not test.any():
        raise ValueError("need a training row and a test row: check held_out")

    train = vectors[~test]
    mean, scale = train.mean(axis=0), train.std(axis=0)
    # equivalent `scale <= 0`: a deviation is not negative
    # equivalent `= 2.0`: these columns of X are 0, so are their rows of W
    scale[scale == 0] = 1.0
    X = (train - mean) / scale
    names, number = np.unique(labels[~test], return_inverse=True)
    Y = np.eye(len(names))[number]
    share = Y.mean(axis=0)
    n, d = X.shape
    # X.T @ Y is X.T @ (Y - share), as the columns of X sum to 0
    W = np.linalg.solve(X.T @ X / n + penalty * np.eye(d), X.T @ Y / n)

    scores = (vectors[test] - mean) / scale @ W + share
    hits = names[scores.argmax(axis=1)] == labels[test]
    majority = names[share.argmax()] == labels[test]
    return Probe(float(hits.mean()), float(majority.mean()))


known_mistakes(
    probe_accuracy,
    (
        "    train = vectors[~test]\n",
        "    train = vectors\n",
        "mean and scale come from all rows: the test set has been looked at",
    ),
    (
        "test = np.isin(groups, list(held_out))",
        "test = np.arange(len(groups)) % 4 == 0",
        "rows are split one by one: a group's rows stand on both sides",
    ),
    (
        "train.std(axis=0)",
        "train.std(axis=0, ddof=1)",
        "the deviation is over n here, as the mean of squares in the probe is; over n - 1 the penalty weighs more",
    ),
    (
        "X.T @ X / n + penalty * np.eye(d)",
        "X.T @ X + penalty * np.eye(d)",
        "the penalty is per row: divide the sum by n before adding it",
    ),
    (
        "    scale[scale == 0] = 1.0\n",
        "",
        "a constant column is divided by zero: static vectors of one word are constant",
    ),
    (
        "(vectors[test] - mean) / scale @ W + share",
        "(vectors[test] - vectors[test].mean(axis=0)) / vectors[test].std(axis=0) @ W + share",
        "the test rows are scaled by themselves: their place relative to the training rows is lost",
    ),
    (
        "(vectors[test] - mean) / scale @ W + share",
        "(vectors[test] - mean) / scale @ W",
        "without the mean of the labels, rare labels are given as often as frequent ones",
    ),
    (
        "majority = names[share.argmax()] == labels[test]",
        "majority = np.full(test.sum(), np.mean(labels[test] == np.bincount(labels[test] - labels.min()).argmax() + labels.min()))",
        "the most frequent label is the training set's; the test set's own is not known to a predictor",
    ),
    (
        "scores.argmax(axis=1)] == labels[test]",
        "scores.argmax(axis=1)] == labels[~test][: test.sum()]",
        "the answers are compared with the training labels",
    ),
    (
        "    if test.all() or not test.any():\n        raise ValueError(\"need a training row and a test row: check held_out\")\n",
        "",
        "an empty part gives nan or a NumPy error in place of a sentence",
    ),
)
