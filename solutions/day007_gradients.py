"""Day 7: derivatives by differences, and the two gradients of every language model by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llm180 import known_mistakes


def numerical_grad(
    f: Callable[[np.ndarray], float], x: np.ndarray, h: float | None = None
) -> np.ndarray:
    """The gradient of ``f`` at ``x`` by central differences, one entry at a time.

    Parameters
    ----------
    f:
        Takes a float64 array of the shape of ``x``, returns one real number. Each
        call gets an array of its own, which ``f`` may overwrite.
    x:
        Real, of any shape, ``()`` included, and any strides. It is left unchanged.
    h:
        Relative step, positive: entry ``x[i]`` moves by ``h * max(1, |x[i]|)`` to
        either side. The default is the cube root of ``np.finfo(np.float64).eps``.

    Returns
    -------
    float64, of the shape of ``x``: entry ``i`` is the difference of the two values
    of ``f`` over the distance between the two points *as they were rounded*. ``f``
    is called twice per entry.

    Raises ValueError if ``f`` returns anything but one number, or ``h`` is not
    positive; the message says "one number" or "positive". An array of shape ``(1,)``
    has an axis, and is refused too.

    Source: Nocedal and Wright 2006, "Numerical Optimization", sec. 8.1.
    """
    if h is None:
        h = np.finfo(np.float64).eps ** (1 / 3)
    if h <= 0:
        raise ValueError(f"the step h must be positive, got {h}")
    x = np.array(x, dtype=np.float64)
    grad = np.empty(x.shape)
    for i in np.ndindex(x.shape):
        right, left = x.copy(), x.copy()
        right[i] += h * max(1.0, abs(x[i]))
        left[i] -= h * max(1.0, abs(x[i]))
        distance = right[i] - left[i]  # read now: f may overwrite its argument
        rise = np.asarray(f(right)) - np.asarray(f(left))
        if rise.ndim:
            raise ValueError(f"f must return one number, got shape {rise.shape}")
        grad[i] = rise / distance
    return grad


known_mistakes(
    numerical_grad,
    (
        "left[i] -= h * max(1.0, abs(x[i]))",
        "left[i] -= 0",
        "a forward difference: its error is of order h, that of a central one of order h squared",
    ),
    (
        "        distance = right[i] - left[i]  # read now: f may overwrite its argument\n",
        "        distance = h\n",
        "the two points are 2 steps apart, and the step grows with x: divide by the distance between them",
    ),
    (
        "x = np.array(x, dtype=np.float64)",
        "x = np.array(x)",
        "the step is added in the dtype of x: an integer swallows it, float32 rounds it",
    ),
    (
        "x = np.array(x, dtype=np.float64)",
        "x = np.array(x, dtype=np.float64).ravel()",
        "f is given a flattened array; it expects the shape of x",
    ),
    (
        "        right[i] += h * max(1.0, abs(x[i]))\n        left[i] -= h * max(1.0, abs(x[i]))\n",
        "        right[i] += h\n        left[i] -= h\n",
        "the step does not grow with x: next to a large entry it drowns in rounding",
    ),
    (
        "        right[i] += h * max(1.0, abs(x[i]))\n        left[i] -= h * max(1.0, abs(x[i]))\n",
        "        right[i] += h * abs(x[i])\n        left[i] -= h * abs(x[i])\n",
        "an entry of zero does not move, and zero is divided by zero",
    ),
    (
        "eps ** (1 / 3)",
        "eps ** (1 / 2)",
        "the square root of eps is the best step of a forward difference; a central one wants the cube root",
    ),
    (
        "        right[i] += h * max(1.0, abs(x[i]))\n        left[i] -= h * max(1.0, abs(x[i]))\n",
        "        right[i] += h * (1.0 + abs(x[i]))\n        left[i] -= h * (1.0 + abs(x[i]))\n",
        "the step is h times the larger of 1 and |x|, not h times their sum",
    ),
    (
        "        right, left = x.copy(), x.copy()\n",
        "        right, left = x, x.copy()\n",
        "x itself is moved and not put back: the next entry is taken at another point",
    ),
    (
        "        if rise.ndim:\n",
        "        if rise.size != 1:\n",
        "an array with one entry is not one number: f forgot to reduce an axis",
    ),
)


def jacobian_fd(
    f: Callable[[np.ndarray], np.ndarray], x: np.ndarray, h: float | None = None
) -> np.ndarray:
    """The Jacobian of ``f`` at ``x`` by central differences, one input at a time.

    Parameters
    ----------
    f:
        Takes a float64 array of the shape of ``x``, returns a real array of any
        shape ``out``, always the same.
    x:
        Real, of any shape. It is left unchanged.
    h:
        Relative step, positive, as in ``numerical_grad``.

    Returns
    -------
    float64, of shape ``out + x.shape``: entry ``[o..., i...]`` is the derivative of
    output ``o`` with respect to input ``i``. For ``x`` of shape ``(n,)`` and ``out``
    of shape ``(m,)`` that is ``(m, n)``. An ``x`` without entries gives shape
    ``out + x.shape`` too. ``f`` is called at most ``2 * x.size + 1`` times.

    Raises ValueError if ``h`` is not positive; the message has that word.

    Source: Nocedal and Wright 2006, "Numerical Optimization", sec. 8.1.
    """
    if h is None:
        h = np.finfo(np.float64).eps ** (1 / 3)
    if h <= 0:
        raise ValueError(f"the step h must be positive, got {h}")
    x = np.array(x, dtype=np.float64)
    jacobian = np.empty((*np.shape(f(x.copy())), *x.shape))
    for i in np.ndindex(x.shape):
        right, left = x.copy(), x.copy()
        right[i] += h * max(1.0, abs(x[i]))
        left[i] -= h * max(1.0, abs(x[i]))
        distance = right[i] - left[i]
        jacobian[(..., *i)] = (np.array(f(right)) - np.array(f(left))) / distance
    return jacobian


known_mistakes(
    jacobian_fd,
    (
        "np.empty((*np.shape(f(x.copy())), *x.shape))",
        "np.empty((*x.shape, *np.shape(f(x.copy()))))",
        "the axes of the input come first: outputs index the rows, inputs the columns",
    ),
    (
        "jacobian[(..., *i)] =",
        "jacobian[i] =",
        "one input moves, so a column is found; it is written into a row",
    ),
    (
        "        left[i] -= h * max(1.0, abs(x[i]))\n",
        "",
        "a forward difference: its error is of order h, that of a central one of order h squared",
    ),
    (
        "(np.array(f(right)) - np.array(f(left))) / distance",
        "(np.array(f(right)) - np.array(f(left))).sum() / distance",
        "the outputs are summed: each output has a derivative of its own",
    ),
    (
        "x = np.array(x, dtype=np.float64)",
        "x = np.array(x)",
        "the step is added in the dtype of x: an integer swallows it, float32 rounds it",
    ),
    (
        "np.array(f(right)) - np.array(f(left))",
        "np.asarray(f(right), np.float32) - np.asarray(f(left), np.float32)",
        "the values of f are rounded to float32 before they are subtracted",
    ),
    (
        "eps ** (1 / 3)",
        "eps ** (1 / 2)",
        "the square root of eps is the best step of a forward difference; a central one wants the cube root",
    ),
)


def chain_of_jacobians(
    z: np.ndarray, target: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three Jacobians between logits and loss, each derived by hand.

    The steps are ``e = exp(z)``, then ``p = e / e.sum()``, then
    ``loss = -log(p[target])``.

    Parameters
    ----------
    z:
        ``(k,)``, float64, of moderate size: no logit overflows ``exp``. It is left
        unchanged.
    target:
        The index of the right class, from 0 to ``k - 1``.

    Returns
    -------
    ``de_dz`` of shape ``(k, k)``, ``dp_de`` of shape ``(k, k)`` and ``dloss_dp`` of
    shape ``(1, k)``. Rows are outputs, columns are inputs, so that
    ``dloss_dp @ dp_de @ de_dz`` is the Jacobian of the loss, ``(1, k)``.

    Source: Goodfellow et al. 2016, "Deep Learning", sec. 6.5.2 and 6.2.2.3.
    """
    e = np.exp(z)
    p = e / e.sum()
    de_dz = np.diag(e)
    dp_de = (np.eye(len(z)) - p[:, None]) / e.sum()
    dloss_dp = np.zeros((1, len(z)))
    dloss_dp[0, target] = -1 / p[target]  # equivalent `[-1, target]`: it has one row
    return de_dz, dp_de, dloss_dp


known_mistakes(
    chain_of_jacobians,
    (
        "np.eye(len(z)) - p[:, None]",
        "np.eye(len(z)) - p[None, :]",
        "the Jacobian of the division is transposed: entry (i, j) holds p_i, the output",
    ),
    (
        "dp_de = (np.eye(len(z)) - p[:, None]) / e.sum()",
        "dp_de = np.eye(len(z)) / e.sum()",
        "the sum in the denominator depends on every exponential too: the quotient rule has two terms",
    ),
    (
        "(np.eye(len(z)) - p[:, None]) / e.sum()",
        "np.diag(p) - np.outer(p, p)",
        "that is the softmax in its logits; this step is the division alone, from e to p",
    ),
    (
        "(np.eye(len(z)) - p[:, None]) / e.sum()",
        "np.eye(len(z)) / e.sum() - p[:, None]",
        "the second term of the quotient rule is divided by the square of the sum, not by the sum",
    ),
    (
        "(np.eye(len(z)) - p[:, None]) / e.sum()",
        "np.eye(len(z)) / e.sum() - np.outer(p, p)",
        "the sum has the slope 1 in each exponential: no factor of input j belongs into its column",
    ),
    (
        "    dloss_dp[0, target] = -1 / p[target]\n",
        "    dloss_dp[0, target] = -1\n    dloss_dp += p\n",
        "that is the slope in the logits; this step is the logarithm alone, from p to the loss",
    ),
    (
        "-1 / p[target]",
        "1 / p[target]",
        "the loss is minus the logarithm: the sign is flipped",
    ),
    (
        "-1 / p[target]",
        "-np.log(p[target])",
        "the loss itself stands where its derivative belongs",
    ),
    (
        "de_dz = np.diag(e)",
        "de_dz = np.diag(z)",
        "the derivative of exp is exp, not its argument",
    ),
    (
        "    dloss_dp = np.zeros((1, len(z)))\n    dloss_dp[0, target] = -1 / p[target]\n",
        "    dloss_dp = -1 / p[None, :]\n",
        "only the probability of the target enters the loss: the other entries are zero",
    ),
)


def softmax_jacobian(z: np.ndarray) -> np.ndarray:
    """The Jacobian of the softmax along the last axis: ``diag(p) - p pᵀ``.

    Parameters
    ----------
    z:
        ``(..., k)``, logits of any size, ``k`` at least 1; any number of batch axes,
        also none. It is left unchanged.

    Returns
    -------
    ``(..., k, k)``: entry ``[..., i, j]`` is the derivative of probability ``i``
    with respect to logit ``j`` of the same row. float32 if ``z`` is, else float64.

    Raises ValueError if ``z`` has no axis, or no logit along its last one; the
    message has the word "logit".

    Source: Parr and Howard 2018, "The Matrix Calculus You Need For Deep Learning",
    for the method; derived on the page.
    """
    if not z.shape or not z.shape[-1]:
        raise ValueError(f"expected logits along the last axis, got shape {z.shape}")
    z = z.astype(np.float32 if z.dtype == np.float32 else np.float64)
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    eye = np.eye(z.shape[-1], dtype=z.dtype)
    return p[..., :, None] * (eye - p[..., None, :])


known_mistakes(
    softmax_jacobian,
    (
        "return p[..., :, None] * (eye - p[..., None, :])",
        "return eye * (p * (1 - p))[..., None]",
        "only the diagonal is there: raising one logit lowers every other probability",
    ),
    (
        "eye - p[..., None, :]",
        "eye + p[..., None, :]",
        "the sign of the product p_i p_j is wrong: the probabilities of a row sum to 1, so its derivatives sum to 0",
    ),
    (
        "np.exp(z - z.max(axis=-1, keepdims=True))",
        "np.exp(z)",
        "the exponential of a large logit overflows: subtract the largest first",
    ),
    (
        "z.max(axis=-1, keepdims=True)",
        "z.max()",
        "the largest of the whole batch is subtracted: the exponentials of a row far below it are all zero",
    ),
    (
        "e.sum(axis=-1, keepdims=True)",
        "e.sum()",
        "the softmax is taken over the whole batch; each row sums to 1 on its own",
    ),
    (
        "np.float32 if z.dtype == np.float32 else np.float64",
        "np.float64",
        "float32 does not stay float32",
    ),
    (
        "not z.shape or not z.shape[-1]",
        "False",
        "a number without an axis, or a row without logits, is not refused",
    ),
)


def cross_entropy_grad(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The gradient of the mean cross-entropy of a batch with respect to its logits.

    Parameters
    ----------
    logits:
        ``(..., k)``, of any size; any number of batch axes, also none. They are left
        unchanged.
    targets:
        ``(...)``, integers from 0 to ``k - 1``: the right class of each row.

    Returns
    -------
    ``(..., k)``: the derivative of the *mean* of ``-log softmax(logits)[target]``
    over all rows. float32 if ``logits`` is, else float64.

    Raises ValueError if the shapes do not fit, if there is no row, or if a target is
    not an integer from 0 to ``k - 1``. The message says so: "fit", "no row", or the
    range, as "from 0 to 3".

    Source: Goodfellow et al. 2016, "Deep Learning", sec. 6.2.2.3; derived on the
    page.
    """
    if logits.shape[:-1] != targets.shape or not logits.shape or not targets.size:
        raise ValueError(
            f"targets of shape {targets.shape} do not fit logits of shape "
            f"{logits.shape}, or there is no row"
        )
    classes = np.arange(logits.shape[-1])
    outside = (targets < 0) | (targets >= len(classes))
    if targets.dtype.kind not in "iu" or outside.any():
        raise ValueError(f"a target is not an integer from 0 to {len(classes) - 1}")
    z = logits.astype(np.float32 if logits.dtype == np.float32 else np.float64)
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return (p - (targets[..., None] == classes)) / targets.size


known_mistakes(
    cross_entropy_grad,
    (
        "(p - (targets[..., None] == classes)) / targets.size",
        "p - (targets[..., None] == classes)",
        "this is the gradient of the sum; the mean divides by the number of rows",
    ),
    (
        "(p - (targets[..., None] == classes))",
        "(p - np.eye(len(classes))[targets.ravel()].any(axis=0))",
        "the targets of all rows are taken from every row: with NumPy, `p[:, targets]` picks whole columns",
    ),
    (
        "/ targets.size",
        "/ logits.size",
        "the mean runs over rows, not over rows and classes",
    ),
    (
        "/ targets.size",
        "/ len(logits)",
        "with several batch axes, the number of rows is the product of all of them",
    ),
    (
        "(p - (targets[..., None] == classes))",
        "((targets[..., None] == classes) - p)",
        "y - p points downhill: the gradient is p - y",
    ),
    (
        "(p - (targets[..., None] == classes))",
        "p * (p - (targets[..., None] == classes))",
        "the softmax's derivative is multiplied in once more; in p - y it is contained already",
    ),
    (
        "np.exp(z - z.max(axis=-1, keepdims=True))",
        "np.exp(z)",
        "the exponential of a large logit overflows: subtract the largest of the row first",
    ),
    (
        "e.sum(axis=-1, keepdims=True)",
        "e.sum()",
        "the softmax is taken over the whole batch; each row sums to 1 on its own",
    ),
    (
        "(targets < 0) | (targets >= len(classes))",
        "targets >= len(classes)",
        "a negative target is not refused: it matches no class, and the row pulls all logits down",
    ),
)


def vjp_matmul(
    X: np.ndarray, W: np.ndarray, dY: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pull a gradient back through ``Y = X @ W``.

    Parameters
    ----------
    X:
        ``(..., n)``: rows of inputs, any number of batch axes, also none.
    W:
        ``(n, k)``, shared by all rows.
    dY:
        ``(..., k)``: the gradient of a loss with respect to ``Y``. All three are
        real and are left unchanged.

    Returns
    -------
    dX:
        ``(..., n)``: the gradient of the loss with respect to ``X``.
    dW:
        ``(n, k)``: the gradient with respect to ``W``, summed over all rows. No
        Jacobian is ever formed.

    Both float32 if all three inputs are, else float64.

    Raises ValueError, with the word "fit", if ``X``, ``W`` and ``dY`` do not fit
    together.

    Source: derived on the page; Goodfellow et al. 2016, "Deep Learning", sec. 6.5.6.
    """
    fits = W.ndim == 2 and X.shape[-1:] == W.shape[:1]
    if not fits or dY.shape != (*X.shape[:-1], W.shape[1]):
        raise ValueError(
            f"X {X.shape}, W {W.shape} and dY {dY.shape} do not fit Y = X @ W"
        )
    single = X.dtype == W.dtype == dY.dtype == np.float32
    X, W, dY = (a.astype(np.float32 if single else np.float64) for a in (X, W, dY))
    rows = range(X.ndim - 1)
    return dY @ W.T, np.tensordot(X, dY, axes=(rows, rows))


known_mistakes(
    vjp_matmul,
    (
        "return dY @ W.T, np.tensordot(X, dY, axes=(rows, rows))",
        "return dY @ W.T, np.tensordot(dY, X, axes=(rows, rows))",
        "dW is transposed: a gradient has the shape of what it belongs to, (n, k)",
    ),
    (
        "np.tensordot(X, dY, axes=(rows, rows))",
        "X[..., :, None] * dY[..., None, :]",
        "one dW per row: W is shared, so the contributions of all rows add up",
    ),
    (
        "np.tensordot(X, dY, axes=(rows, rows))",
        "np.tensordot(X, dY, axes=(rows, rows)) / max(1, X[..., 0].size)",
        "the rows are averaged; the mean belongs to the loss, and dY contains it already",
    ),
    (
        "return dY @ W.T, np.tensordot(X, dY, axes=(rows, rows))",
        "return np.tensordot(X, dY, axes=(rows, rows)), dY @ W.T",
        "the two gradients come in the order of the inputs: dX, then dW",
    ),
    (
        "dY @ W.T",
        "(X @ W) @ W.T",
        "the output Y stands in place of the gradient dY",
    ),
    (
        "np.float32 if single else np.float64",
        "X.dtype",
        "the dtype comes from X alone: integers cut the gradient off, float32 rounds it",
    ),
    (
        "if not fits or dY.shape != (*X.shape[:-1], W.shape[1]):",
        "if not fits:",
        "a dY that has not the shape of Y is not refused; broadcasting may hide it",
    ),
)
