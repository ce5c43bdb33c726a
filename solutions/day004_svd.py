"""Day 4: the singular value decomposition, the closest matrix of low rank, and the pseudo-inverse."""

from __future__ import annotations

import numpy as np

from llm180 import known_mistakes
from solutions.day002_linear_systems import qr_householder
from solutions.day003_eigenvalues import fix_signs


def orthonormalize(W: np.ndarray) -> np.ndarray:
    """The columns of ``W``, each made orthogonal to those before and of length 1.

    Parameters
    ----------
    W:
        ``(m, n)`` with ``m >= n``, float64. It is left unchanged.

    Returns
    -------
    ``(m, n)``, with orthonormal columns. A column that depends on those before is
    replaced by one that does not; of any other the direction is kept.
    """
    Q, R = qr_householder(W)
    # equivalent `Q / np.copysign`: a sign is its own inverse
    return Q * np.copysign(1.0, np.diagonal(R))


def svd_via_eigh(A: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The thin singular value decomposition: ``A == (U * s) @ Vt``.

    Parameters
    ----------
    A:
        ``(m, n)``, at least ``(1, 1)``, real, of any rank, any strides. It is left
        unchanged. Below, ``k`` is the smaller of ``m`` and ``n``.

    Returns
    -------
    U:
        ``(m, k)``, float64, with orthonormal columns, also where ``s`` is zero.
    s:
        ``(k,)``, float64: the singular values, never negative, from the largest to
        the smallest, each with an error of the size of ``eps * s[0]``.
    Vt:
        ``(k, n)``, float64, with orthonormal rows. In each, the entry of largest
        absolute value is positive.

    Computed in float64, in memory of order ``m * n + k * k``, from the eigenvalues
    of a symmetric matrix of order ``2 * k``. Neither ``A.T @ A`` nor ``A @ A.T`` is
    formed.

    Raises ValueError that says ``matrix`` if ``A`` is not a matrix or is empty, and
    ``finite`` if an entry is not finite.

    Source: Golub and Van Loan 2013, "Matrix Computations", sec. 8.6.
    """
    if A.ndim != 2 or not A.size:
        raise ValueError(f"expected a matrix with entries, got shape {A.shape}")
    if not np.isfinite(A).all():
        raise ValueError("expected finite numbers only")
    m, n = A.shape
    k = min(m, n)
    Q, R = qr_householder((A if m >= n else A.T).astype(np.float64))
    zeros = np.zeros((k, k))
    values, W = np.linalg.eigh(np.block([[zeros, R], [R.T, zeros]]))
    s, W = np.maximum(values[k:][::-1], 0), W[:, k:][:, ::-1]
    left, right = orthonormalize(W[:k]), orthonormalize(W[k:])
    U, V = (Q @ left, right) if m >= n else (right, Q @ left)
    signs = np.sign((V * fix_signs(V)).sum(axis=0))
    # equivalent `U / signs` `V / signs`: a sign is its own inverse
    return U * signs, s, (V * signs).T


known_mistakes(
    svd_via_eigh,
    (
        "    zeros = np.zeros((k, k))\n"
        "    values, W = np.linalg.eigh(np.block([[zeros, R], [R.T, zeros]]))\n"
        "    s, W = np.maximum(values[k:][::-1], 0), W[:, k:][:, ::-1]\n"
        "    left, right = orthonormalize(W[:k]), orthonormalize(W[k:])\n",
        "    values, W = np.linalg.eigh(R.T @ R)\n"
        "    s, right = np.sqrt(np.maximum(values[::-1], 0)), W[:, ::-1]\n"
        "    left = orthonormalize(R @ right)\n",
        "the eigenvalues of AᵀA are squares: below 1e-8 of the largest, their roots are rounding error",
    ),
    (
        "orthonormalize(W[:k]), orthonormalize(W[k:])",
        "W[:k] * np.sqrt(2), W[k:] * np.sqrt(2)",
        "where a singular value is zero, the halves of an eigenvector need not have equal lengths, and are not orthogonal to one another",
    ),
    (
        "    left, right = orthonormalize(W[:k]), orthonormalize(W[k:])\n",
        "    right = orthonormalize(W[k:])\n    left = R @ right / np.where(s > 0, s, 1)\n",
        "u = A v / s divides rounding error by a small s: such left vectors are not orthogonal; the eigenvector holds u itself",
    ),
    (
        "W[:, k:][:, ::-1]",
        "W[:, :k]",
        "these eigenvectors belong to the negative eigenvalues: they give (u, -v)",
    ),
    (
        "    s, W = np.maximum(values[k:][::-1], 0), W[:, k:][:, ::-1]\n",
        "    s, W = np.maximum(values[k:], 0), W[:, k:]\n",
        "eigh sorts from the smallest to the largest; the largest singular value comes first",
    ),
    (
        "return U * signs, s, (V * signs).T",
        "return U, s, (V * signs).T",
        "u and v change their signs together, or u * s * v changes",
    ),
    (
        "return U * signs, s, (V * signs).T",
        "return U, s, V.T",
        "the signs are left as they came; in each row of Vt the largest entry must be positive",
    ),
    (
        "signs = np.sign((V * fix_signs(V)).sum(axis=0))",
        "signs = np.sign((U * fix_signs(U)).sum(axis=0))",
        "the convention is about the rows of Vt, not about the columns of U",
    ),
    (
        "return U * signs, s, (V * signs).T",
        "return U * signs, s, V * signs",
        "V is returned where its transpose is promised",
    ),
    (
        "if m >= n else (right, Q @ left)",
        "if m >= n else (Q @ left, right)",
        "a wide matrix was transposed and is not transposed back: its left and right vectors change places",
    ),
    (
        "U, V = (Q @ left, right)",
        "U, V = (Q * left[0], right)",
        "the left vectors of R are mixtures of the columns of Q: a matrix product",
    ),
    (
        "    if not np.isfinite(A).all():\n",
        "    if False:\n",
        "an entry that is not a number spreads through every factor and is not refused",
    ),
)


def low_rank(A: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray]:
    """Two thin factors whose product is the closest matrix of rank at most ``r``.

    Parameters
    ----------
    A:
        ``(m, n)``, real. It is left unchanged.
    r:
        The rank, at least 0. Above the smaller of ``m`` and ``n`` it counts as that.

    Returns
    -------
    left, right:
        ``(m, r)`` and ``(r, n)``, float64. ``left @ right`` is as close to ``A`` as
        a matrix of rank ``r`` can be, in the Frobenius and in the spectral norm.
        Column ``i`` of ``left`` and row ``i`` of ``right`` have the same length,
        the square root of singular value ``i``.

    Raises ValueError that says ``rank`` if ``r`` is negative, and ``matrix`` if
    ``A`` is not a matrix.

    Source: Eckart and Young 1936, "The approximation of one matrix by another of
    lower rank".
    """
    if r < 0:
        raise ValueError(f"the rank must be at least 0, got {r}")
    U, s, Vt = svd_via_eigh(A)
    root = np.sqrt(s[:r])
    return U[:, :r] * root, root[:, None] * Vt[:r]


known_mistakes(
    low_rank,
    (
        "root = np.sqrt(s[:r])",
        "root = s[:r]",
        "both factors carry the whole singular value, so the product has its square",
    ),
    (
        "return U[:, :r] * root, root[:, None] * Vt[:r]",
        "return U[:, :r] * root**2, Vt[:r]",
        "one factor carries the singular values alone; their roots go to both sides",
    ),
    (
        "    root = np.sqrt(s[:r])\n    return U[:, :r] * root, root[:, None] * Vt[:r]\n",
        "    root = np.sqrt(s[len(s) - r :])\n"
        "    return U[:, len(s) - r :] * root, root[:, None] * Vt[len(s) - r :]\n",
        "the smallest singular values are kept and the largest dropped",
    ),
    (
        "return U[:, :r] * root, root[:, None] * Vt[:r]",
        "return U[:, :r], Vt[:r]",
        "the singular values are in neither factor: turns without a stretch",
    ),
    (
        "    U, s, Vt = svd_via_eigh(A)\n",
        "    U, s, Vt = svd_via_eigh(A - A.mean(axis=0))\n",
        "the columns are centered, as for PCA; the closest matrix is asked for, not the closest to A without its mean",
    ),
    (
        "    if r < 0:\n",
        "    if False:\n",
        "a negative rank counts from the end of the slice and is not refused",
    ),
)


def pseudo_inverse(A: np.ndarray, tol: float | None = None) -> np.ndarray:
    """The matrix that sends ``b`` to the shortest least-squares solution.

    Parameters
    ----------
    A:
        ``(m, n)``, real, of any rank. It is left unchanged.
    tol:
        A singular value of at most ``tol`` times the largest counts as zero. By
        default ``max(m, n) * eps``, with the ``eps`` of the dtype of ``A`` if that is
        floating, else of float64.

    Returns
    -------
    ``(n, m)``, float64: the inverse where there is one, zeros for a matrix of zeros.

    Raises ValueError that says ``tol`` if ``tol`` is negative or not a number, and
    ValueError if ``A`` is not a matrix.

    Source: Penrose 1955, "A generalized inverse for matrices".
    """
    if tol is None:
        kind = A.dtype if A.dtype.kind == "f" else np.float64
        tol = max(A.shape) * np.finfo(kind).eps
    if not tol >= 0:
        raise ValueError(f"tol must be at least 0, got {tol}")
    U, s, Vt = svd_via_eigh(A)
    kept = s > tol * s[0]
    return (Vt[kept].T / s[kept]) @ U[:, kept].T


known_mistakes(
    pseudo_inverse,
    (
        "kept = s > tol * s[0]",
        "kept = s > 0",
        "singular values that are rounding error are inverted: the largest numbers in the result are noise",
    ),
    (
        "kept = s > tol * s[0]",
        "kept = s > tol",
        "the tolerance is absolute: the same matrix in other units has another rank",
    ),
    (
        "kept = s > tol * s[0]",
        "kept = s >= tol * s[0]",
        "a matrix of zeros has no singular value to invert: at most tol times the largest counts as zero",
    ),
    (
        "Vt[kept].T / s[kept]",
        "Vt[kept].T * s[kept]",
        "this is the transpose; the inverse divides by the singular values",
    ),
    (
        "(Vt[kept].T / s[kept]) @ U[:, kept].T",
        "np.linalg.inv(A.T.astype(float) @ A) @ A.T",
        "the inverse of AᵀA exists only for independent columns, and squares the condition number",
    ),
    (
        "kind = A.dtype if A.dtype.kind == \"f\" else np.float64",
        "kind = np.float64",
        "the entries of a float32 matrix were rounded to 7 digits: its noise is at the eps of float32",
    ),
    (
        "    if tol is None:\n",
        "    if not tol:\n",
        "0 counts as false in Python, so a tol of 0 is taken for no tol at all",
    ),
    (
        "max(A.shape) * np.finfo(kind).eps",
        "1e-6",
        "a fixed tolerance drops directions that float64 knows well",
    ),
    (
        "if not tol >= 0:",
        "if False:",
        "a negative tolerance is not refused",
    ),
)
