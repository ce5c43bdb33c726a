"""Day 3: power iteration, PageRank, the QR algorithm for symmetric matrices, and PCA."""

from __future__ import annotations

import numpy as np

from llm180 import known_mistakes
from solutions.day002_linear_systems import qr_householder


def fix_signs(V: np.ndarray) -> np.ndarray:
    """Flip vectors so that the entry of largest absolute value is positive.

    Parameters
    ----------
    V:
        ``(n,)``, one vector, or ``(n, k)``, one vector per column; none is zero. Of
        several entries that are largest, the first one decides.

    Returns
    -------
    A new array of the shape of ``V``.
    """
    largest = np.abs(V).argmax(axis=0)
    # equivalent `V / np.sign`: a sign is its own inverse
    # equivalent `[-1]`: there is one row only
    return V * np.sign(np.take_along_axis(V, largest[None], axis=0))[0]


def power_iteration(
    A: np.ndarray, start: np.ndarray, tol: float = 1e-10, max_steps: int = 1000
) -> tuple[float, np.ndarray, np.ndarray]:
    """The eigenvalue of largest absolute value, by repeated multiplication.

    Parameters
    ----------
    A:
        ``(n, n)``, real, symmetric or not.
    start:
        ``(n,)``, real, of any length but zero. Both are left unchanged.
    tol:
        Stop as soon as ``‖A @ v - value * v‖ <= tol * ‖A @ v‖``, where ``v`` is the
        unit vector so far and ``value = v @ A @ v``. This may hold before the first
        step, and it holds if ``A @ v`` is zero.
    max_steps:
        How many times ``v`` may be replaced by ``A @ v``, normalized.

    Returns
    -------
    value:
        The Rayleigh quotient of the last ``v``, with its sign.
    vector:
        ``(n,)``, float64: the last ``v``, of length 1. Its entry of largest
        absolute value is positive.
    residuals:
        ``(steps + 1,)``, float64: ``‖A @ v - value * v‖`` before the first step and
        after each.

    All is computed in float64. Raises ValueError that says ``square`` if ``A`` is
    not square, ``fit`` if ``start`` does not fit it, and ``zero`` if ``start`` is
    zero. Raises ``numpy.linalg.LinAlgError`` that says ``converge`` or
    ``convergence`` if ``max_steps`` steps do not suffice.

    Source: Trefethen and Bau 1997, "Numerical Linear Algebra", algorithm 27.1.
    """
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(f"expected a square matrix, got shape {A.shape}")
    if start.shape != (len(A),):
        raise ValueError(f"start of shape {start.shape} does not fit {A.shape}")
    if not start.any():
        raise ValueError("start is zero: it has no direction")
    A, v = A.astype(np.float64), start.astype(np.float64)
    v /= np.linalg.norm(v)
    residuals = []
    for _ in range(max_steps + 1):
        w = A @ v
        value = v @ w  # equivalent `w @ v`: an inner product is symmetric
        residuals.append(np.linalg.norm(w - value * v))
        if residuals[-1] <= tol * np.linalg.norm(w):
            return float(value), fix_signs(v), np.array(residuals)
        v = w / np.linalg.norm(w)
    raise np.linalg.LinAlgError(
        f"no convergence in {max_steps} steps: is one eigenvalue the largest?"
    )


known_mistakes(
    power_iteration,
    (
        "        v = w / np.linalg.norm(w)\n",
        "        v = w\n",
        "the vector is not normalized after each step: it grows or shrinks like the eigenvalue's powers",
    ),
    (
        "value = v @ w",
        "value = np.linalg.norm(w)",
        "the length of A v is not the Rayleigh quotient: it loses the sign of the eigenvalue",
    ),
    (
        "        if residuals[-1] <= tol * np.linalg.norm(w):\n",
        "        if np.linalg.norm(w / np.linalg.norm(w) - v) <= tol:\n",
        "successive vectors are compared: with a negative eigenvalue they flip each time and never agree",
    ),
    (
        "tol * np.linalg.norm(w)",
        "tol * abs(value)",
        "the residual is compared with tol times the value; the docstring compares it with tol times the length of A v",
    ),
    (
        "tol * np.linalg.norm(w)",
        "tol",
        "the tolerance is absolute: the same matrix in other units is answered with another accuracy",
    ),
    (
        "fix_signs(v), np.array",
        "v, np.array",
        "an eigenvector has two signs; the promised one has its largest entry positive",
    ),
    (
        "    raise np.linalg.LinAlgError(\n"
        '        f"no convergence in {max_steps} steps: is one eigenvalue the largest?"\n'
        "    )\n",
        "    return float(value), fix_signs(v), np.array(residuals)\n",
        "without convergence the last vector is returned as if it were an eigenvector",
    ),
    (
        "    if not start.any():\n",
        "    if False:\n",
        "a zero start is divided by its length of zero",
    ),
    (
        "value = v @ w",
        "value = w @ w / (v @ w)",
        "‖Av‖² / (vᵀAv) is not the Rayleigh quotient vᵀAv of a unit vector, and fails where vᵀAv is zero",
    ),
)


def pagerank(weights: np.ndarray, damping: float = 0.85) -> np.ndarray:
    """How often a random walk with restarts visits each node.

    Parameters
    ----------
    weights:
        ``(n, n)``, at least 0: ``weights[i, j]`` is the strength of the link from
        ``i`` to ``j``, 0 where there is none. It is left unchanged.
    damping:
        Probability of following a link, at least 0 and less than 1. Otherwise, and
        always at a node without outgoing links, the walk jumps to one of all ``n``
        nodes, with equal probabilities.

    Returns
    -------
    ``(n,)``, float64, positive, with sum 1. The tolerance of ``power_iteration`` is
    1e-12, and it may take 10,000 steps.

    Raises ValueError if ``weights`` is not square, one that says ``weight`` if a
    weight is negative or not a number, and one that says ``damping`` if that is out
    of range. Raises ``numpy.linalg.LinAlgError`` if the steps do not suffice, which
    needs a ``damping`` above 0.997.

    Source: Page, Brin, Motwani and Winograd 1999, "The PageRank citation ranking".
    """
    if not (weights >= 0).all():
        raise ValueError("a weight is negative or not a number")
    if not 0 <= damping < 1:
        raise ValueError(f"damping must be at least 0 and below 1, got {damping}")
    n, weights = len(weights), weights.astype(np.float64)
    links = weights.sum(axis=1, keepdims=True)
    # equivalent `links != 0`: no sum of weights is negative
    # equivalent `2.0`: each row is divided by its sum
    moves = np.where(links > 0, weights, 1.0)
    moves /= moves.sum(axis=1, keepdims=True)
    walk = damping * moves.T + (1 - damping) / n
    _, rank, _ = power_iteration(walk, np.ones(n), 1e-12, 10_000)
    return rank / rank.sum()


known_mistakes(
    pagerank,
    (
        "damping * moves.T",
        "damping * moves",
        "the matrix is not transposed: rank flows against the direction of the links",
    ),
    (
        "np.where(links > 0, weights, 1.0)",
        "np.where(links > 0, weights, np.eye(n))",
        "a node without outgoing links keeps the walk; it must send it anywhere",
    ),
    (
        "    moves /= moves.sum(axis=1, keepdims=True)\n",
        "    moves = np.where(links > 0, moves / moves.sum(axis=1, keepdims=True), 0.0)\n",
        "a node without outgoing links sends the walk nowhere, so a part of it is lost at every step; it must go anywhere",
    ),
    (
        "    moves = np.where(links > 0, weights, 1.0)\n",
        "    moves = np.where(links > 0, (weights > 0) * 1.0, 1.0)\n",
        "all links of a node count alike: the weights are not used",
    ),
    (
        "links = weights.sum(axis=1, keepdims=True)",
        "links = weights.sum(axis=0, keepdims=True).T",
        "nodes without incoming links are taken for nodes without outgoing ones",
    ),
    (
        "(1 - damping) / n",
        "(1 - damping)",
        "the restart adds 1 - damping to every node; it must be shared among n of them",
    ),
    (
        "return rank / rank.sum()",
        "return rank",
        "the eigenvector has length 1; probabilities have sum 1",
    ),
)


def tridiagonalize(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirrors on both sides: ``V.T @ A @ V == T``, zero but for three diagonals.

    Parameters
    ----------
    A:
        ``(n, n)``, float64, symmetric. It is left unchanged.

    Returns
    -------
    T:
        ``(n, n)``: zero, up to rounding, beside the diagonal and its neighbors.
    V:
        ``(n, n)``, orthogonal: the product of the mirrors.

    Source: Trefethen and Bau 1997, "Numerical Linear Algebra", algorithm 26.1.
    """
    T, V = A.copy(), np.eye(len(A))  # equivalent `T, V = A,`: qr_algorithm has made a copy
    # equivalent `len(A) - 1`: one mirror more, of a single entry, flips a sign that is fixed at the end
    # equivalent `range(len(A))`: likewise, and the mirror after that has no entry
    for k in range(len(A) - 2):
        v = T[k + 1 :, k].copy()
        length = np.linalg.norm(v)
        if length:
            v[0] += np.copysign(length, v[0])
            v /= np.linalg.norm(v)
        T[k + 1 :] -= 2 * np.outer(v, v @ T[k + 1 :])
        T[:, k + 1 :] -= 2 * np.outer(T[:, k + 1 :] @ v, v)
        V[:, k + 1 :] -= 2 * np.outer(V[:, k + 1 :] @ v, v)
    return T, V


def wilkinson_shift(block: np.ndarray) -> float:
    """Of the eigenvalues of a symmetric ``(2, 2)`` block, the one closer to its last entry.

    Source: Trefethen and Bau 1997, "Numerical Linear Algebra", lecture 29.
    """
    (a, b), (_, c) = block
    half = (a - c) / 2
    return c - np.copysign(b**2 / (abs(half) + np.hypot(half, b)), half)


def qr_algorithm(
    A: np.ndarray, max_steps: int = 30
) -> tuple[np.ndarray, np.ndarray]:
    """All eigenvalues and eigenvectors of a symmetric matrix, by shifted QR steps.

    Parameters
    ----------
    A:
        ``(n, n)`` with ``n >= 1``, real and symmetric. It is left unchanged.
    max_steps:
        How many QR steps one block may take. Two or three are usual.

    Returns
    -------
    values:
        ``(n,)``, float64, from the largest to the smallest (so -3 is last).
    vectors:
        ``(n, n)``, float64, with orthonormal columns: column ``j`` belongs to
        ``values[j]``. In each, the entry of largest absolute value is positive.

    The matrix is made tridiagonal first. Then, for each leading block of order
    ``m`` from ``n`` down to 2: QR steps with Wilkinson's shift, until the entry
    left of the block's last one is at most ``eps * ‖A‖`` in absolute value, where
    ``‖A‖`` is the square root of the sum of squares. All is computed in float64.

    Raises ValueError that says ``square`` if ``A`` is not square, and ``symmetric``
    if ``‖A - A.T‖`` is not at most ``1e-10 * ‖A‖``: then ``A`` is not symmetric, or
    not finite. Raises ``numpy.linalg.LinAlgError`` that says ``converge`` or
    ``convergence`` if a block would need more than ``max_steps`` steps.

    Source: Trefethen and Bau 1997, "Numerical Linear Algebra", algorithm 28.2.
    """
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(f"expected a square matrix, got shape {A.shape}")
    A = A.astype(np.float64)
    size = np.linalg.norm(A)
    if not np.linalg.norm(A - A.T) <= 1e-10 * size:
        raise ValueError("expected a symmetric matrix of finite numbers")
    small = np.finfo(np.float64).eps * size
    T, V = tridiagonalize(A)
    for m in range(len(A), 1, -1):
        steps = 0
        while abs(T[m - 1, m - 2]) > small:
            if steps == max_steps:  # equivalent `steps >= max_steps`: they count up by one
                raise np.linalg.LinAlgError(f"no convergence in {max_steps} QR steps")
            steps += 1
            shift = wilkinson_shift(T[m - 2 : m, m - 2 : m]) * np.eye(m)
            Q, R = qr_householder(T[:m, :m] - shift)
            T[:m, :m] = R @ Q + shift
            V[:, :m] = V[:, :m] @ Q
    values = np.diagonal(T)
    order = np.argsort(-values)
    return values[order], fix_signs(V[:, order])


known_mistakes(
    qr_algorithm,
    (
        "T[:m, :m] = R @ Q + shift",
        "T[:m, :m] = Q @ R + shift",
        "Q R is the matrix that was factored; the next one is R Q",
    ),
    (
        "T[:m, :m] = R @ Q + shift",
        "T[:m, :m] = R @ Q",
        "the shift that was subtracted is not added back, so the eigenvalues move",
    ),
    (
        "wilkinson_shift(T[m - 2 : m, m - 2 : m])",
        "T[m - 1, m - 1]",
        "the last entry is the shift: on matrices such as (0 1; 1 0) nothing moves, because both eigenvalues are equally far",
    ),
    (
        "wilkinson_shift(T[m - 2 : m, m - 2 : m]) * np.eye(m)",
        "0.0 * np.eye(m)",
        "without a shift convergence is slow, and there is none for eigenvalues such as 1 and -1",
    ),
    (
        "V[:, :m] = V[:, :m] @ Q",
        "V[:m, :m] = V[:m, :m] @ Q",
        "only m rows of V are turned: a column of V has n entries, whatever the size of the block",
    ),
    (
        "V[:, :m] = V[:, :m] @ Q",
        "V[:, :m] = V[:, :m] @ Q.T",
        "V collects the factors Q from the right as they are, not transposed",
    ),
    (
        "    T, V = tridiagonalize(A)\n",
        "    T, V = A.copy(), np.eye(len(A))\n",
        "the matrix is not made tridiagonal first, so one small entry does not split the block",
    ),
    (
        "fix_signs(V[:, order])",
        "fix_signs(V)",
        "the eigenvalues are sorted and their vectors stay in the old order",
    ),
    (
        "order = np.argsort(-values)",
        "order = np.argsort(-np.abs(values))",
        "the order is by absolute value; the largest eigenvalue with its sign comes first",
    ),
    (
        "fix_signs(V[:, order])",
        "V[:, order]",
        "the signs of the vectors are left as they came; the largest entry must be positive",
    ),
    (
        "abs(T[m - 1, m - 2]) > small:",
        "abs(T[m - 1, m - 2]) > small / size * (abs(T[m - 1, m - 1]) + abs(T[m - 2, m - 2])):",
        "the entry is compared with its neighbors on the diagonal; the threshold is eps times the size of the whole matrix",
    ),
    (
        "small = np.finfo(np.float64).eps * size",
        "small = 1e-8",
        "the threshold is absolute and coarse: the vectors keep only half of their digits",
    ),
)


def pca(X: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ``k`` orthogonal directions along which the rows of ``X`` vary most.

    Parameters
    ----------
    X:
        ``(n, d)`` with ``n >= 2``, real: one row per sample. There may be more
        features than samples. It is left unchanged.
    k:
        How many directions, from 1 to ``d``.

    Returns
    -------
    components:
        ``(k, d)``, float64, with orthonormal rows, the one of greatest variance
        first. In each, the entry of largest absolute value is positive.
    variances:
        ``(k,)``, float64, never negative: the variance of the data along each
        component, with the divisor ``n - 1``, in the units of ``X`` squared.
    mean:
        ``(d,)``, float64: the mean row. The coordinates of the data are
        ``(X - mean) @ components.T``, of shape ``(n, k)``.

    All is computed in float64. Raises ValueError that says ``rows`` if ``X`` is not
    a matrix with at least two rows, and ``k`` if that is out of range.

    Source: Jolliffe and Cadima 2016, "Principal component analysis", section 2.
    """
    if X.ndim != 2 or len(X) < 2:
        raise ValueError(f"expected a matrix with at least 2 rows, got {X.shape}")
    if not 1 <= k <= X.shape[1]:
        raise ValueError(f"k must be from 1 to {X.shape[1]}, got {k}")
    mean = X.mean(axis=0, dtype=np.float64)
    centered = X - mean
    values, vectors = qr_algorithm(centered.T @ centered / (len(X) - 1))
    return vectors[:, :k].T, np.maximum(values[:k], 0), mean


known_mistakes(
    pca,
    (
        "centered = X - mean",
        "centered = X.astype(float)",
        "the mean is not subtracted: the first direction points at the mean and not along the variance",
    ),
    (
        "/ (len(X) - 1)",
        "/ len(X)",
        "the divisor is n; around the data's own mean the variance has n - 1",
    ),
    (
        "mean = X.mean(axis=0, dtype=np.float64)",
        "mean = X.mean(axis=1, dtype=np.float64, keepdims=True)",
        "the mean is taken over the features of a row and not over the rows",
    ),
    (
        "vectors[:, :k].T",
        "vectors[:k]",
        "eigenvectors are the columns of the matrix, and these are its rows",
    ),
    (
        "    centered = X - mean\n",
        "    centered = (X - mean) / np.where(X.std(axis=0) > 0, X.std(axis=0), 1)\n",
        "every feature is divided by its standard deviation: that is the PCA of other data",
    ),
    (
        "np.maximum(values[:k], 0)",
        "values[:k]",
        "rounding leaves variances slightly below zero where the data have none; a variance is never negative",
    ),
    (
        "values, vectors = qr_algorithm(centered.T @ centered / (len(X) - 1))",
        "values, vectors = qr_algorithm((X.astype(float).T @ X - len(X) * np.outer(mean, mean)) / (len(X) - 1))",
        "the mean is subtracted from the squares at the end: with a large mean the digits cancel",
    ),
)
