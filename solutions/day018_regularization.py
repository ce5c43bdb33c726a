"""Day 18: dropout, early stopping with the best weights kept, and mixup."""

from __future__ import annotations

import numpy as np

from llm180 import known_mistakes
from solutions.day013_backprop import Tensor


class Dropout:
    """Inverted dropout: zero random entries in training, change nothing afterwards.

    While ``training`` is True, each call draws a fresh mask from ``rng``: every entry
    is zeroed with probability ``p``, independently of all others, and the entries
    that stay are multiplied by ``1 / (1 - p)``, so that no mean changes. The gradient
    passes through the same mask. While ``training`` is False, a call returns the very
    tensor it was given.

    Source: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks
    from Overfitting", sec. 4 and 10; the convention is torch.nn.Dropout's.
    """

    def __init__(self, p: float, rng: np.random.Generator) -> None:
        """Keep ``p`` and ``rng``, in attributes of these names; start in training.

        Raises ValueError that names ``p`` if it is not between 0 and 1, both allowed.
        """
        if not 0 <= p <= 1:
            raise ValueError(f"p is the probability of a zero, got {p}")
        self.p = p
        self.rng = rng
        self.training = True

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` of any shape, to a tensor of that shape; ``x`` is left unchanged.

        With ``p = 0`` the values are those of ``x``; with ``p = 1`` all are 0.
        """
        if not self.training:
            return x
        # equivalent `> self.p`: a draw is equal to p once in 2**53
        keep = self.rng.random(x.shape) >= self.p
        # equivalent `self.p != 1`: it is at most 1
        # equivalent `-1.0` `1.0`: with p = 1 nothing is kept that it could scale
        scale = 1 / (1 - self.p) if self.p < 1 else 0.0
        return x * (keep * scale)


known_mistakes(
    Dropout,
    (
        "return x * (keep * scale)",
        "return x * keep",
        "what stays is not scaled by 1 / (1 - p): the mean shrinks in training, and the next layer meets another scale in evaluation",
    ),
    (
        "scale = 1 / (1 - self.p) if self.p < 1 else 0.0",
        "scale = 1 / self.p if self.p > 0 else 1.0",
        "p is the probability of a zero; the scale is one over the probability to stay",
    ),
    (
        "self.rng.random(x.shape) >= self.p",
        "self.rng.random(x.shape) < self.p",
        "the share that stays is p; it is to be 1 - p",
    ),
    (
        "self.rng.random(x.shape) >= self.p",
        "self.rng.random(x.shape[-1:]) >= self.p",
        "one mask for all rows of the batch: each entry needs a draw of its own",
    ),
    (
        "self.rng.random(x.shape) >= self.p",
        "self.rng.permutation(x.data.size).reshape(x.shape) >= self.p * x.data.size",
        "every call zeroes the same number of entries: each entry needs a draw of its own",
    ),
    (
        "        if not self.training:\n            return x\n",
        "",
        "the mask is drawn in evaluation too",
    ),
    (
        "            return x\n",
        "            return x * (1 - self.p)\n",
        "inverted dropout has scaled in training already: evaluation changes nothing",
    ),
    (
        "return x * (keep * scale)",
        "return Tensor(x.data * keep * scale)",
        "the result is a new leaf: no gradient flows back to x",
    ),
    (
        "return x * (keep * scale)",
        "return Tensor.result(x.data * (keep * scale), (x, lambda g: g * (self.rng.random(x.shape) >= self.p) * scale))",
        "the gradient passes through another mask than the values did",
    ),
    (
        "return x * (keep * scale)",
        "return Tensor.result(x.data * (keep * scale), (x, lambda g: g * keep))",
        "the gradient passes the mask, but not the scale: the slope of scale * x is scale",
    ),
    (
        "        scale = 1 / (1 - self.p) if self.p < 1 else 0.0\n",
        "        scale = keep.size / max(keep.sum(), 1)\n",
        "the scale depends on how many entries happened to stay; it is the constant 1 / (1 - p)",
    ),
    (
        "        self.rng = rng\n",
        "        self.rng = np.random.default_rng(0)\n",
        "a generator of its own: all dropout layers draw the same masks",
    ),
)


class EarlyStopping:
    """Watch a validation loss, keep the best weights, and say when to stop.

    A value is an *improvement* if it is smaller than ``best - min_delta``: a tie is
    none, and NaN is none. ``best`` is the value of the last improvement; it is
    infinity, and ``weights`` is None, until there is one.

    Source: Prechelt 1998, "Early Stopping -- But When?"; Goodfellow et al. 2016,
    "Deep Learning", sec. 7.8, algorithm 7.1.
    """

    def __init__(self, patience: int, min_delta: float = 0.0) -> None:
        """``patience``: so many evaluations in a row without improvement end training.

        Raises ValueError that names ``patience`` if that is below 1, and one that names
        ``min_delta`` if that is not a finite number of at least 0.
        """
        # equivalent `min_delta != np.inf`: NaN fails the first comparison
        if patience < 1 or not 0 <= min_delta < np.inf:
            raise ValueError(
                "need patience >= 1 and a finite min_delta >= 0, "
                f"got {patience} and {min_delta}"
            )
        self.patience = patience
        self.min_delta = min_delta
        self.best = float("inf")
        self.weights: list[np.ndarray] | None = None
        self.waited = 0

    def update(self, value: float, weights: list[np.ndarray]) -> bool:
        """Take one evaluation; True if the last ``patience`` were no improvements.

        ``value`` is the validation loss, smaller is better. ``weights`` are the
        arrays that training goes on to change in place: after an improvement the
        attribute ``weights`` holds a list of copies of them. Else it stays as it was.
        """
        if value < self.best - self.min_delta:
            self.best = value
            self.weights = [w.copy() for w in weights]
            self.waited = 0
        else:
            self.waited += 1
        return self.waited >= self.patience

    def restore(self, weights: list[np.ndarray]) -> None:
        """Write the kept weights into these arrays, in place; may be called again.

        Raises ValueError that says ``improvement`` if there was none yet, and one that
        says ``shape`` if ``weights`` do not have the number and the shapes of the kept
        ones; then nothing has changed.
        """
        if self.weights is None:
            raise ValueError("there was no improvement yet, so no weights are kept")
        if [w.shape for w in weights] != [kept.shape for kept in self.weights]:
            raise ValueError("need as many arrays as were kept, of the same shapes")
        for w, kept in zip(weights, self.weights):
            w[...] = kept


known_mistakes(
    EarlyStopping,
    (
        "[w.copy() for w in weights]",
        "list(weights)",
        "the list is new, the arrays are not: training goes on to change what you kept",
    ),
    (
        "            w[...] = kept\n",
        "            w = kept.copy()\n",
        "`w = ...` binds a name; the network's array stays as it was",
    ),
    (
        "value < self.best - self.min_delta",
        "value <= self.best - self.min_delta",
        "a tie counts as an improvement: a flat loss never stops",
    ),
    (
        "value < self.best - self.min_delta",
        "not value >= self.best - self.min_delta",
        "every comparison with NaN is false, and its negation true: NaN became the best",
    ),
    (
        "value < self.best - self.min_delta",
        "value < self.best",
        "min_delta is not used: a gain too small to count renews the patience",
    ),
    (
        "value < self.best - self.min_delta",
        "value < self.best + self.min_delta",
        "the sign of min_delta: a value that is slightly worse counts as better",
    ),
    (
        "            self.waited = 0\n        else",
        "        else",
        "the count is of bad evaluations in a row: an improvement sets it to zero",
    ),
    (
        "self.waited >= self.patience",
        "self.waited > self.patience",
        "it waits for one evaluation more than patience",
    ),
    (
        "        else:\n            self.waited += 1\n",
        "        else:\n            self.waited += 1\n            self.best = value\n",
        "it compares with the last value, not with the best",
    ),
    (
        "        else:\n            self.waited += 1\n",
        "        else:\n            self.waited += 1\n            self.best = min(self.best, value)\n",
        "best moves without an improvement: then a loss that falls slowly but steadily never counts",
    ),
    (
        """        if [w.shape for w in weights] != [kept.shape for kept in self.weights]:
            raise ValueError("need as many arrays as were kept, of the same shapes")
""",
        "",
        "arrays that do not fit are broadcast into, or cut off by zip, and nobody notices",
    ),
    (
        "            w[...] = kept\n",
        "            w[...] = kept\n        self.weights = None\n",
        "the kept weights are gone after the first restore",
    ),
)


def mixup(
    x: np.ndarray, y: np.ndarray, alpha: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mix every example of a batch with a random other one, targets included.

    One ``lam`` is drawn for the batch from Beta(``alpha``, ``alpha``), and one random
    permutation of its rows. Row ``i`` becomes ``lam`` times row ``i`` plus ``1 - lam``
    times row ``permutation[i]``, in ``x`` and in ``y`` alike. With ``alpha = 0`` it
    is ``lam = 1``.

    Parameters
    ----------
    x:
        ``(B, ...)``: the inputs, one example per entry of the first axis. B may be 0.
    y:
        ``(B, k)``: the targets as probabilities, one-hot or soft.
    alpha:
        At least 0 and finite.
    rng:
        What the draws are made with.

    Returns
    -------
    mixed_x, mixed_y:
        New arrays of the shapes of ``x`` and ``y``; float32 if the argument is, else
        float64. The arguments are left unchanged.

    Raises ValueError that names ``alpha`` if it is out of range, and one that says
    ``shape`` if ``x`` has no axis, if ``y`` has not two, or if they differ in the
    length of the first.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", sec. 2.
    """
    # equivalent `alpha != np.inf`: NaN fails the first comparison
    if not 0 <= alpha < np.inf:
        raise ValueError(f"alpha must be at least 0 and finite, got {alpha}")
    if y.ndim != 2 or x.shape[:1] != y.shape[:1]:
        raise ValueError(
            f"need x (B, ...) and targets y (B, k), got shapes {x.shape} and {y.shape}"
        )
    # equivalent `alpha != 0`: it is not negative here
    lam = rng.beta(alpha, alpha) if alpha > 0 else 1.0
    partner = rng.permutation(len(x))

    def mix(a: np.ndarray) -> np.ndarray:
        a = a.astype(np.float32 if a.dtype == np.float32 else np.float64)
        return lam * a + (1 - lam) * a[partner]

    return mix(x), mix(y)


known_mistakes(
    mixup,
    (
        "return mix(x), mix(y)",
        "return mix(x), y.copy()",
        "the inputs are mixed, the targets are not",
    ),
    (
        "a[partner]",
        "a[rng.permutation(len(a))]",
        "x and y are mixed with different partners: one permutation for both",
    ),
    (
        "lam * a + (1 - lam) * a[partner]",
        "lam * a + (1 - lam) * a[::-1]",
        "the partner of a row is always the same; draw a permutation",
    ),
    (
        "lam * a + (1 - lam) * a[partner]",
        "lam * a + (1 - lam) * a[rng.permutation(len(a))[0]]",
        "all rows are mixed with one and the same row",
    ),
    (
        "rng.beta(alpha, alpha)",
        "rng.uniform()",
        "lam comes from Beta(alpha, alpha); uniform is the case alpha = 1 alone",
    ),
    (
        "rng.beta(alpha, alpha)",
        "rng.beta(alpha, 1)",
        "both parameters of the Beta are alpha: lam and 1 - lam have the same distribution",
    ),
    (
        "    lam = rng.beta(alpha, alpha) if alpha > 0 else 1.0\n",
        "    lam = rng.beta(alpha, alpha) if alpha > 0 else 1.0\n    lam = max(lam, 1 - lam)\n",
        "lam lies between 0 and 1, also below one half: take the draw as it is",
    ),
    (
        """    lam = rng.beta(alpha, alpha) if alpha > 0 else 1.0
    partner = rng.permutation(len(x))

    def mix(a: np.ndarray) -> np.ndarray:
        a = a.astype(np.float32 if a.dtype == np.float32 else np.float64)
""",
        """    lams = rng.beta(alpha, alpha, len(x)) if alpha > 0 else np.ones(len(x))
    partner = rng.permutation(len(x))

    def mix(a: np.ndarray) -> np.ndarray:
        a = a.astype(np.float32 if a.dtype == np.float32 else np.float64)
        lam = lams.reshape(-1, *[1] * (a.ndim - 1)).astype(a.dtype)
""",
        "each row has a lam of its own; one lam is drawn for the whole batch",
    ),
    (
        "rng.beta(alpha, alpha) if",
        "np.array(rng.beta(alpha, alpha)) if",
        "a NumPy float64, an array or a scalar, turns a float32 batch into float64, at twice the memory",
    ),
    (
        "rng.permutation(len(x))",
        "rng.integers(0, len(x), len(x))",
        "partners are drawn with replacement: some rows come twice, others never",
    ),
    (
        "a = a.astype(np.float32 if a.dtype == np.float32 else np.float64)\n        return lam * a + (1 - lam) * a[partner]",
        "a = np.asarray(a, dtype=np.float64 if a.dtype.kind != 'f' else a.dtype)\n        a *= lam\n        a += (1 - lam) / (lam or 1) * a[partner]\n        return a",
        "it writes into the caller's arrays",
    ),
)
