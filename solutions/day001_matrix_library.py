"""Day 1: a matrix as a view on a flat buffer, a blocked product, and an einsum."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from math import prod

import numpy as np

from llm180 import known_mistakes


class Matrix:
    """An ``(m, n)`` matrix of float64: a view on a flat buffer.

    Entry ``(i, j)`` is ``buffer[offset + i * strides[0] + j * strides[1]]``.
    Strides count entries, not bytes, and may be zero. Two matrices may share a
    buffer; no method writes into it.

    Source: the strided array of NumPy (Harris et al. 2020, "Array programming with
    NumPy", fig. 1).
    """

    def __init__(
        self,
        buffer: array,
        shape: tuple[int, int],
        strides: tuple[int, int] | None = None,
        offset: int = 0,
    ) -> None:
        """A view on ``buffer``; without ``strides``, row-major: ``(n, 1)``."""
        self.buffer = buffer
        self.shape = shape
        self.strides = (shape[1], 1) if strides is None else strides
        self.offset = offset

    @classmethod
    def from_rows(cls, rows: Iterable[Iterable[float]]) -> Matrix:
        """Copy nested rows into a new row-major matrix.

        Raises ValueError if rows differ in length.
        """
        rows = [list(row) for row in rows]
        # equivalent `rows[-1]`: rows of unequal length are refused either way
        width = len(rows[0]) if rows else 0
        if any(len(row) != width for row in rows):
            raise ValueError(f"rows differ in length: {[len(row) for row in rows]}")
        return cls(array("d", [x for row in rows for x in row]), (len(rows), width))

    def tolist(self) -> list[list[float]]:
        """The entries as nested lists, row by row."""
        m, n = self.shape
        return [[self[i, j] for j in range(n)] for i in range(m)]

    def __getitem__(self, index: tuple[int, int]) -> float:
        """Entry ``(i, j)``, counted from 0.

        Raises IndexError outside ``0 <= i < m``, ``0 <= j < n``.
        """
        i, j = index
        if not (0 <= i < self.shape[0] and 0 <= j < self.shape[1]):
            raise IndexError(
                f"index {index} is outside a matrix of shape {self.shape}"
            )
        return self.buffer[self.offset + i * self.strides[0] + j * self.strides[1]]

    @property
    def T(self) -> Matrix:
        """The transpose, ``(n, m)``: a view on the same buffer, in constant time."""
        shape, strides = self.shape[::-1], self.strides[::-1]
        return Matrix(self.buffer, shape, strides, self.offset)

    def broadcast_to(self, shape: tuple[int, int]) -> Matrix:
        """A view of this matrix stretched to ``shape``, in constant time.

        An axis of length 1 is repeated by a stride of 0; any other axis must have
        the length asked for, else ValueError.
        """
        strides = list(self.strides)
        for axis in (0, 1):
            if self.shape[axis] == shape[axis]:
                continue
            if self.shape[axis] != 1:
                raise ValueError(f"shape {self.shape} does not stretch to {shape}")
            strides[axis] = 0
        return Matrix(self.buffer, shape, (strides[0], strides[1]), self.offset)

    def __add__(self, other: Matrix) -> Matrix:
        """The sum, entry by entry, in a new row-major matrix.

        Axes of length 1 are broadcast. Raises ValueError if the shapes do not fit.
        """
        # equivalent `zip(other.shape, self.shape)`: a sum does not care which side
        # is stretched
        m, n = (b if a == 1 else a for a, b in zip(self.shape, other.shape))
        left, right = self.broadcast_to((m, n)), other.broadcast_to((m, n))
        entries = (left[i, j] + right[i, j] for i in range(m) for j in range(n))
        return Matrix(array("d", entries), (m, n))

    def __matmul__(self, other: Matrix) -> Matrix:
        """The product of ``(m, k)`` and ``(k, n)``, in a new row-major ``(m, n)``.

        Raises ValueError if the inner lengths differ.
        """
        (m, k), (k2, n) = self.shape, other.shape
        if k != k2:
            raise ValueError(f"inner lengths differ: {self.shape} @ {other.shape}")
        entries = (
            sum(self[i, p] * other[p, j] for p in range(k))
            for i in range(m)
            for j in range(n)
        )
        return Matrix(array("d", entries), (m, n))


known_mistakes(
    Matrix,
    (
        "self.shape[::-1], self.strides[::-1]",
        "self.shape[::-1], None",
        "the transpose swaps the shape but not the strides, so it reads the same buffer in the same order",
    ),
    (
        "shape, strides, self.offset)\n",
        "shape, strides)\n",
        "the view starts at the beginning of the buffer: the offset is lost",
    ),
    (
        "        return Matrix(self.buffer, shape, strides, self.offset)",
        "        return Matrix.from_rows(zip(*self.tolist()))",
        "the transpose copies every entry into a new buffer; a view shares it",
    ),
    (
        "i * self.strides[0] + j * self.strides[1]",
        "i * self.shape[1] + j",
        "the position is computed from the shape, which holds for a row-major matrix only, not for a view",
    ),
    (
        "            strides[axis] = 0\n",
        "",
        "a stretched axis keeps its stride, so it walks on into other entries; a stride of 0 repeats one",
    ),
    (
        "(b if a == 1 else a for a, b in zip(self.shape, other.shape))",
        "self.shape",
        "the result has the shape of the left matrix, so only the right one is stretched",
    ),
    (
        "other[p, j] for p in range(k))",
        "other[p, j] for p in range(min(m, k)))",
        "the sum runs over the wrong length: it is the shared inner length k",
    ),
    (
        "if not (0 <= i < self.shape[0] and 0 <= j < self.shape[1]):",
        "if False:",
        "an index outside the matrix is not refused: it reads some other entry of the buffer",
    ),
)


# equivalent `block: int = 63` `block: int = 65`: any default gives the same product
def matmul_blocked(a: np.ndarray, b: np.ndarray, block: int = 64) -> np.ndarray:
    """The product of two matrices, block by block.

    Parameters
    ----------
    a, b:
        ``(m, k)`` and ``(k, n)``, any numeric dtype, any strides; no length needs
        to be a multiple of ``block``. They are left unchanged.
    block:
        Side of a block, in entries, at least 1.

    Returns
    -------
    ``(m, n)``, of the dtype that NumPy gives ``a @ b``; zeros where ``k`` is 0.

    Raises ValueError if the inner lengths differ or ``block`` is below 1.

    Source: Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix
    Multiplication", sec. 3.
    """
    (m, k), (k2, n) = a.shape, b.shape
    if k != k2:
        raise ValueError(f"inner lengths differ: {a.shape} @ {b.shape}")
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    # equivalent `result_type(b, a)`: the common dtype does not depend on the order
    out = np.zeros((m, n), dtype=np.result_type(a, b))
    for i in range(0, m, block):
        for j in range(0, n, block):
            for p in range(0, k, block):
                out[i : i + block, j : j + block] += (
                    a[i : i + block, p : p + block]
                    @ b[p : p + block, j : j + block]
                )
    return out


known_mistakes(
    matmul_blocked,
    (
        "] += (",
        "] = (",
        "each block of the inner dimension overwrites the one before; the products add up",
    ),
    (
        "range(0, k, block)",
        "range(0, k - k % block, block)",
        "the last, incomplete block of the inner dimension is never added",
    ),
    (
        "range(0, m, block)",
        "range(0, m - m % block, block)",
        "the last, incomplete block of rows stays zero",
    ),
    (
        "dtype=np.result_type(a, b)",
        "dtype=float",
        "the result is always float64, whatever the inputs are",
    ),
    (
        "dtype=np.result_type(a, b)",
        "dtype=a.dtype",
        "the result takes the left matrix's dtype alone",
    ),
    (
        "if k != k2:",
        "if False:",
        "inner lengths that differ are not refused; a slice past the end is silently short",
    ),
    ("if block < 1:", "if False:", "a block below 1 is not refused"),
)


def einsum2(spec: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Einstein summation of two operands by one batched matrix product.

    Parameters
    ----------
    spec:
        As ``"ij,jk->ik"``: one letter an axis, each at most once in an operand and
        in the output; the output is written out. Letters that the output lacks are
        summed over.
    a, b:
        One axis per letter of their part of ``spec``.

    Returns
    -------
    An array with one axis per letter of the output, in that order.

    Raises ValueError for a spec that is not of this form, a number of axes that
    differs from the number of letters, a letter with two lengths, or an output
    letter that no operand has.

    Source: NumPy's ``einsum``; the reduction to one batched product as in
    ``opt_einsum`` (Smith and Gray 2018).
    """
    try:
        inputs, out = spec.replace(" ", "").split("->")
        left, right = inputs.split(",")
    except ValueError:
        raise ValueError(f"a spec reads like 'ij,jk->ik', not {spec!r}") from None
    size: dict[str, int] = {}
    for letters, operand in ((left, a), (right, b)):
        # equivalent `> operand.ndim` `< operand.ndim`: NumPy's transpose refuses
        # the rest with a ValueError of its own
        if len(letters) != operand.ndim:
            given = f"{len(letters)} letters for {operand.ndim} axes"
            raise ValueError(f"{letters!r} does not fit the operand: {given}")
        for letter, length in zip(letters, operand.shape):
            if size.setdefault(letter, length) != length:
                raise ValueError(
                    f"axis {letter!r} has two lengths: {size[letter]} and {length}"
                )
    for letters in (left, right, out):
        # equivalent `< len(letters)`: a set is never longer than its list
        if len(set(letters)) != len(letters):
            raise ValueError(f"a letter is repeated in {letters!r}")
    if not set(out) <= set(size):
        raise ValueError(f"the output names an axis that no operand has: {out!r}")

    # A letter that one operand alone has, and the output has not, is summed at once.
    def drop_private(letters: str, operand: np.ndarray, others: str) -> tuple:
        private = [i for i, letter in enumerate(letters) if letter not in others]
        kept = "".join(letter for letter in letters if letter in others)
        return kept, operand.sum(axis=tuple(private))

    left, a = drop_private(left, a, right + out)
    right, b = drop_private(right, b, left + out)
    batch = [c for c in left if c in right and c in out]
    # equivalent `c for c in left if c not in out`: a letter that is left is in the
    # right operand or in the output
    inner = [c for c in left if c in right and c not in out]
    rows = [c for c in left if c not in right]
    columns = [c for c in right if c not in left]

    def arrange(
        letters: str, operand: np.ndarray, *groups: list[str]
    ) -> np.ndarray:
        order = [letters.index(c) for group in groups for c in group]
        lengths = [prod(size[c] for c in group) for group in groups]
        return operand.transpose(order).reshape(lengths)

    a = arrange(left, a, batch, rows, inner)
    b = arrange(right, b, batch, inner, columns)
    letters = [*batch, *rows, *columns]
    product = (a @ b).reshape([size[c] for c in letters])
    return product.transpose([letters.index(c) for c in out])


known_mistakes(
    einsum2,
    (
        "batch = [c for c in left if c in right and c in out]",
        "batch = []",
        "a letter that both operands and the output have is a batch axis, not one to sum over",
    ),
    (
        ".transpose([letters.index(c) for c in out])",
        "",
        "the axes come in the order of the computation, not in the order that the output names",
    ),
    (
        "operand.sum(axis=tuple(private))",
        "operand.mean(axis=tuple(private))",
        "an axis that only one operand has is averaged, not summed",
    ),
    (
        "if size.setdefault(letter, length) != length:",
        "if False:",
        "a letter with two lengths is not refused",
    ),
    (
        "b, batch, inner, columns)",
        "b, batch, columns, inner)",
        "the right operand is arranged as (batch, columns, inner): the inner axis must come second",
    ),
    (
        "if not set(out) <= set(size):",
        "if False:",
        "an output letter that no operand has is not refused with a message of its own",
    ),
    (
        "if len(set(letters)) != len(letters):",
        "if False:",
        "a letter repeated within one operand is not refused",
    ),
)
