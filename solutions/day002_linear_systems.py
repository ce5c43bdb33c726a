"""Day 2: LU with partial pivoting, Householder QR, and least squares on top of them."""

from __future__ import annotations

import numpy as np

from llm180 import known_mistakes


def back_substitute(U: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Solve ``U @ x == y`` from the last unknown to the first.

    Parameters
    ----------
    U:
        ``(n, n)``, float. Only its upper triangle is read; no diagonal entry is
        zero.
    y:
        ``(n,)`` or ``(n, k)``, of the dtype of ``U``.

    Returns
    -------
    A new array of the shape of ``y``.
    """
    x = np.empty_like(y)
    for i in reversed(range(len(U))):
        x[i] = (y[i] - U[i, i + 1 :] @ x[i + 1 :]) / U[i, i]
    return x


def lu_factor(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factor by elimination with partial pivoting: ``L @ U == A[order]``.

    Parameters
    ----------
    A:
        ``(n, n)``, real, any strides. It is left unchanged.

    Returns
    -------
    lu:
        ``(n, n)``: ``U`` on and above the diagonal, the multipliers of ``L`` below
        it. The ones on the diagonal of ``L`` are not stored. No multiplier exceeds
        1 in absolute value. float32 if ``A`` is float32, else float64.
    order:
        ``(n,)``, int64: row ``i`` of ``L @ U`` is row ``order[i]`` of ``A``.

    Raises ValueError that says ``square`` if ``A`` is not a square matrix, and
    ``numpy.linalg.LinAlgError`` that says ``singular`` if a column has no pivot
    other than exactly zero.

    Source: Trefethen and Bau 1997, "Numerical Linear Algebra", algorithm 21.1.
    """
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(f"expected a square matrix, got shape {A.shape}")
    lu = A.astype(np.float32 if A.dtype == np.float32 else np.float64)
    order = np.arange(len(lu))
    for k in range(len(lu)):
        p = k + np.argmax(np.abs(lu[k:, k]))
        if lu[p, k] == 0:
            raise np.linalg.LinAlgError(
                f"the matrix is singular: column {k} has no pivot"
            )
        lu[[k, p]] = lu[[p, k]]
        order[[k, p]] = order[[p, k]]
        lu[k + 1 :, k] /= lu[k, k]
        lu[k + 1 :, k + 1 :] -= np.outer(lu[k + 1 :, k], lu[k, k + 1 :])
    return lu, order


known_mistakes(
    lu_factor,
    (
        "p = k + np.argmax(np.abs(lu[k:, k]))",
        "p = k",
        "rows are never exchanged: a small or zero pivot is divided by",
    ),
    (
        "np.argmax(np.abs(lu[k:, k]))",
        "np.argmax(lu[k:, k])",
        "the pivot is the largest entry with its sign; it must be the largest in absolute value",
    ),
    (
        "p = k + np.argmax",
        "p = np.argmax",
        "argmax counts from the top of the slice lu[k:, k], so k must be added to make it a row of the matrix",
    ),
    (
        "np.abs(lu[k:, k])",
        "np.abs(A[k:, k])",
        "the pivot is looked for in the original matrix, not in what elimination has left of it",
    ),
    (
        "        lu[[k, p]] = lu[[p, k]]\n",
        "        lu[[k, p], k:] = lu[[p, k], k:]\n",
        "an exchange moves only the part of the rows that is still at work; the multipliers stored to the left move along",
    ),
    (
        "        lu[[k, p]] = lu[[p, k]]\n",
        "        lu[k], lu[p] = lu[p], lu[k]\n",
        "`lu[k], lu[p] = lu[p], lu[k]` does not exchange rows: both sides are views, so one row overwrites the other",
    ),
    (
        "        order[[k, p]] = order[[p, k]]\n",
        "        order[k] = p\n",
        "`order` records the row that each step exchanged with, not where each row of the result came from",
    ),
    (
        "if lu[p, k] == 0:",
        "if abs(lu[p, k]) < 1e-12:",
        "the pivot is compared with a fixed tolerance, so a matrix in small units is refused; only an exact zero is no pivot",
    ),
    (
        "if lu[p, k] == 0:",
        "if False:",
        "a column without a pivot is divided by zero and not refused",
    ),
    (
        "np.float32 if A.dtype == np.float32 else np.float64",
        "A.dtype",
        "elimination is carried out in the dtype of the input: integers cannot hold its quotients",
    ),
)


def lu_solve(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Solve ``A @ x == b`` by LU with partial pivoting.

    Parameters
    ----------
    A:
        ``(n, n)``, real.
    b:
        ``(n,)``, or ``(n, k)`` for ``k`` right-hand sides, which share one
        factorization. Both are left unchanged.

    Returns
    -------
    ``x`` of the shape of ``b``; float32 if ``A`` and ``b`` both are, else computed
    and returned in float64.

    Raises ValueError that says ``square`` if ``A`` is not square, or ``fit`` if
    ``b`` is not of such a shape, and ``numpy.linalg.LinAlgError`` that says
    ``singular`` if ``A`` is singular.

    Source: Trefethen and Bau 1997, "Numerical Linear Algebra", lectures 17 and 21.
    """
    if b.ndim not in (1, 2) or len(b) != len(A):
        raise ValueError(
            f"b of shape {b.shape} does not fit a matrix of shape {A.shape}"
        )
    dtype = np.float32 if A.dtype == b.dtype == np.float32 else np.float64
    lu, order = lu_factor(A.astype(dtype))
    y = b[order].astype(dtype)
    for i in range(len(lu)):
        y[i] -= lu[i, :i] @ y[:i]
    return back_substitute(lu, y)


known_mistakes(
    lu_solve,
    (
        "y = b[order]",
        "y = b",
        "the rows of b stay in their old order, while elimination has reordered those of A",
    ),
    (
        "y = b[order]",
        "y = b[np.argsort(order)]",
        "b is reordered by the inverse of the permutation; row i of L @ U is row order[i] of A",
    ),
    (
        "        y[i] -= lu[i, :i] @ y[:i]\n",
        "        y[i] = (y[i] - lu[i, :i] @ y[:i]) / lu[i, i]\n",
        "forward substitution divides by the diagonal of U; the diagonal of L is one and is not stored",
    ),
    (
        "    for i in range(len(lu)):\n        y[i] -= lu[i, :i] @ y[:i]\n",
        "    y -= np.tril(lu, -1) @ y\n",
        "each row of forward substitution needs the unknowns that the rows above have found, not the entries of b",
    ),
    (
        "return back_substitute(lu, y)",
        "return np.linalg.inv(A.astype(dtype)) @ b.astype(dtype)",
        "the inverse is formed and multiplied; its residual does not stay at rounding level",
    ),
    (
        "dtype = np.float32 if A.dtype == b.dtype == np.float32 else np.float64",
        "dtype = A.dtype",
        "the dtype comes from A alone, so integers are cut off or float64 data are rounded to float32",
    ),
    (
        "if b.ndim not in (1, 2) or len(b) != len(A):",
        "if False:",
        "a b whose length is not that of A is not refused: it is cut short, or fails somewhere later",
    ),
)


def qr_householder(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factor a tall matrix by Householder reflections: ``A == Q @ R``.

    Parameters
    ----------
    A:
        ``(m, n)`` with ``m >= n``, real, of any rank, any strides. It is left
        unchanged.

    Returns
    -------
    Q:
        ``(m, n)``, with orthonormal columns: ``Q.T @ Q`` is the identity up to
        rounding, whatever the condition number of ``A``.
    R:
        ``(n, n)``, exactly zero below the diagonal. Its diagonal entries have any
        sign.

    Both float32 if ``A`` is float32, else float64. Raises ValueError that says
    ``rows`` if ``A`` is not a matrix or has more columns than rows.

    Source: Trefethen and Bau 1997, "Numerical Linear Algebra", algorithms 10.1 and
    10.3.
    """
    if A.ndim != 2 or A.shape[0] < A.shape[1]:
        raise ValueError(
            f"expected at least as many rows as columns, got shape {A.shape}"
        )
    m, n = A.shape
    R = A.astype(np.float32 if A.dtype == np.float32 else np.float64)
    Q = np.eye(m, n, dtype=R.dtype)
    mirrors = []
    for k in range(n):
        v = R[k:, k].copy()
        length = np.linalg.norm(v)
        if length:
            v[0] += np.copysign(length, v[0])
            v /= np.linalg.norm(v)
        R[k:, k:] -= 2 * np.outer(v, v @ R[k:, k:])
        mirrors.append(v)
    for k in reversed(range(n)):
        v = mirrors[k]
        Q[k:, k:] -= 2 * np.outer(v, v @ Q[k:, k:])
    return Q, np.triu(R[:n])


known_mistakes(
    qr_householder,
    (
        "np.copysign(length, v[0])",
        "-np.copysign(length, v[0])",
        "the length is subtracted from an entry of the same sign: where the column already points along the axis, the digits cancel",
    ),
    (
        "R[k:, k:] -= 2 * np.outer",
        "R[k:, k:] -= np.outer",
        "I - v vᵀ projects onto the mirror; the reflection goes twice as far",
    ),
    (
        "np.copysign(length, v[0])",
        "np.sign(v[0]) * length",
        "np.sign(0) is 0: a column whose first entry is zero gets a mirror that does not send it to the axis",
    ),
    (
        "            v /= np.linalg.norm(v)\n",
        "",
        "v is not of length 1: either normalize it or divide by vᵀv",
    ),
    (
        "for k in reversed(range(n)):",
        "for k in range(n):",
        "the reflections are applied in the order in which R was made; Q is H1 H2 ... Hn, so Hn meets the identity first",
    ),
    (
        "if length:",
        "if length > 1e-12:",
        "a short column is taken for a zero one, and is not reflected; only a length of exactly zero needs no mirror",
    ),
    (
        "if length:",
        "if True:",
        "a column that is already zero has no mirror: it is divided by its length of zero",
    ),
    (
        "np.triu(R[:n])",
        "R[:n]",
        "rounding leaves tiny numbers below the diagonal of R, where zeros are promised",
    ),
    (
        "A.shape[0] < A.shape[1]",
        "False",
        "a matrix with more columns than rows is not refused",
    ),
)


def least_squares(A: np.ndarray, b: np.ndarray, ridge: float = 0.0) -> np.ndarray:
    """The ``x`` that minimizes ``‖A @ x - b‖² + ridge * ‖x‖²``, by QR.

    Parameters
    ----------
    A:
        ``(m, n)``, real: one row per observation. ``m >= n`` unless ``ridge`` is
        positive.
    b:
        ``(m,)``, or ``(m, k)`` for ``k`` targets, each fitted on its own. Both are
        left unchanged.
    ridge:
        Weight of the penalty, at least 0, in the units of ``A`` squared. The
        penalty is added as rows below ``A``, so that the normal equations are never
        formed.

    Returns
    -------
    ``x`` of shape ``(n,)`` or ``(n, k)``; float32 if ``A`` and ``b`` both are, else
    computed and returned in float64.

    Raises ValueError that says ``fit`` if ``b`` does not fit ``A``, ``ridge`` if
    ``ridge`` is negative, and ``rows`` if ``A`` has more columns than rows and
    ``ridge`` is 0. Raises ``numpy.linalg.LinAlgError`` that says ``dependent`` if a
    diagonal entry of ``R`` is in absolute value at most ``rows * eps`` times the
    largest: ``rows`` is ``m``, or ``m + n`` with ridge, and ``eps`` is that of the
    dtype.

    Source: Trefethen and Bau 1997, "Numerical Linear Algebra", algorithm 11.2; for
    ridge, Golub and Van Loan 2013, "Matrix Computations", sec. 6.1.
    """
    if b.ndim not in (1, 2) or len(b) != len(A):
        raise ValueError(
            f"b of shape {b.shape} does not fit a matrix of shape {A.shape}"
        )
    if ridge < 0:
        raise ValueError(f"ridge must be at least 0, got {ridge}")
    dtype = np.float32 if A.dtype == b.dtype == np.float32 else np.float64
    A, b = A.astype(dtype), b.astype(dtype)
    if ridge:
        n = A.shape[1]
        A = np.vstack([A, np.sqrt(ridge) * np.eye(n)]).astype(dtype)
        b = np.concatenate([b, np.zeros((n, *b.shape[1:]), dtype)])
    Q, R = qr_householder(A)
    size = np.abs(np.diagonal(R))
    # equivalent `initial=-1.0`: where R has a diagonal, its largest size is at least 0
    if (size <= len(A) * np.finfo(dtype).eps * size.max(initial=0.0)).any():
        raise np.linalg.LinAlgError(
            "the columns are linearly dependent: drop some, or set ridge"
        )
    return back_substitute(R, Q.T @ b)


known_mistakes(
    least_squares,
    (
        "    Q, R = qr_householder(A)\n",
        "    return lu_solve(A.T @ A, A.T @ b)\n    Q, R = qr_householder(A)\n",
        "the normal equations square the condition number; solve R x = Qᵀb",
    ),
    (
        "return back_substitute(R, Q.T @ b)",
        "return np.linalg.inv(R) @ (Q.T @ b)",
        "the inverse of R is formed and multiplied; its residual does not stay at rounding level",
    ),
    (
        "np.sqrt(ridge) * np.eye(n)",
        "ridge * np.eye(n)",
        "a row that contributes ridge * x² to the sum of squares holds the square root of ridge",
    ),
    (
        "        b = np.concatenate([b, np.zeros((n, *b.shape[1:]), dtype)])\n",
        "        b = np.concatenate([b, np.ones((n, *b.shape[1:]), dtype)])\n",
        "the added rows pull x toward a value that is not zero: their targets must be 0",
    ),
    (
        "if (size <= len(A) * np.finfo(dtype).eps * size.max(initial=0.0)).any():",
        "if (size == 0).any():",
        "dependent columns leave rounding noise on the diagonal of R, seldom an exact zero: compare with eps times the largest",
    ),
    (
        "np.abs(np.diagonal(R))",
        "np.diagonal(R)",
        "the diagonal of R has signs; its size is what counts for the rank",
    ),
    (
        "if ridge < 0:",
        "if False:",
        "a negative ridge is not refused",
    ),
    (
        "dtype = np.float32 if A.dtype == b.dtype == np.float32 else np.float64",
        "dtype = A.dtype",
        "the dtype comes from A alone, so integers are cut off or float64 targets are rounded to float32",
    ),
)
