"""Comparisons for checks: each says what was expected, what came, and the likely cause.

A check is plain Python; these functions only make its failures readable::

    expect.close(matmul(a, b), a @ b)
    expect.raises(ValueError, matmul, a, a, match="inner")
    expect.that(len(code) == 3, f"expected 3 code words, got {len(code)}")

Plain ``assert`` and the assertions of numpy and torch work in a check as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["Mismatch", "close", "equal", "raises", "that"]


class Mismatch(AssertionError):
    """What a check found: what it expected, what came instead, and the likely cause if one shows."""

    def __init__(self, expected: str, came: str, cause: str = "", what: str = "") -> None:
        self.expected, self.came, self.cause, self.what = expected, came, cause, what
        super().__init__(self.__str__())

    def __str__(self) -> str:
        subject = f"{self.what}: " if self.what else ""
        text = f"{subject}expected {self.expected}, came {self.came}"
        return text + (f". Likely cause: {self.cause}" if self.cause else "")


def close(got: Any, want: Any, *, rtol: float = 1e-9, atol: float | None = None, what: str = "") -> None:
    """``got`` equals ``want`` up to rounding.

    Both are numbers, arrays, tensors, nested lists, or objects with ``tolist()``.
    Shapes must be equal: nothing is broadcast. Entry by entry,
    ``|got - want| <= atol + rtol * |want|``; ``atol`` defaults to ``rtol`` times the
    largest finite ``|want|``, which is the rounding a sum of such entries suffers.

    Raises :class:`Mismatch`.
    """
    right = _array(want)
    left = _take(got, right, what)
    if left.shape != right.shape:
        cause = ""
        if left.shape == right.shape[::-1] and left.ndim > 1:
            cause = "the axes are in the opposite order"
        elif left.size == right.size:
            cause = "the entries are there, but a reshape or a squeeze is missing or too many"
        elif left.ndim == right.ndim and all(a in (b, 1) for a, b in zip(left.shape, right.shape)):
            cause = "a sum or mean over one axis too many"
        raise Mismatch(f"shape {right.shape}", f"shape {left.shape}", cause, what)
    if right.dtype.kind in "US" or right.dtype == object:
        equal(left.tolist(), right.tolist(), what)
        return
    if left.dtype.kind == "c" and right.dtype.kind != "c":
        raise Mismatch("real numbers", f"complex numbers ({left.dtype})", "", what)
    size = np.abs(right[np.isfinite(right)]).max(initial=0.0) if right.size else 0.0
    limit = (rtol * size if atol is None else atol) + rtol * np.abs(np.where(np.isfinite(right), right, 0))
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.abs(left.astype(complex) - right.astype(complex)) > limit
    off |= np.isnan(left) != np.isnan(right)
    infinite = np.isinf(left) | np.isinf(right)
    off = np.where(infinite, left != right, off)
    if not off.any():
        return
    at = np.unravel_index(int(np.argmax(off)), off.shape)
    place = f" at {_index(at)}" if left.ndim else ""
    count = int(off.sum())
    of = f" ({count} of {off.size} entries differ)" if off.size > 1 else ""
    expected, came = _both(right[at], left[at])
    raise Mismatch(
        f"{expected}{place}",
        f"{came}{of}",
        _cause(left, right),
        what,
    )


def equal(got: Any, want: Any, what: str = "") -> None:
    """``got`` is exactly ``want``: numbers, strings, tuples, lists, sets, dicts, integer arrays.

    Raises :class:`Mismatch`.
    """
    if isinstance(want, np.ndarray) or _is_tensor(want):
        right = _array(want)
        left = _take(got, right, what)
        if left.shape != right.shape:
            raise Mismatch(f"shape {right.shape}", f"shape {left.shape}", "", what)
        if not np.array_equal(left, right):
            at = np.unravel_index(int(np.argmax(left != right)), right.shape)
            count = int((left != right).sum())
            raise Mismatch(
                f"{_number(right[at])} at {_index(at)}",
                f"{_number(left[at])} ({count} of {right.size} entries differ)",
                _cause(left, right),
                what,
            )
        return
    if got is None and want is not None:
        raise Mismatch(_short(want), "None", "a `return` is missing", what)
    same = got == want
    if isinstance(same, np.ndarray) or _is_tensor(same):
        same = bool(np.shape(got) == np.shape(want) and _array(same).all())
    if not same:
        cause = ""
        if isinstance(want, (list, tuple)) and isinstance(got, (list, tuple)):
            if type(got) is not type(want) and list(got) == list(want):
                cause = f"the right entries, but in a {type(got).__name__} and not a {type(want).__name__}"
            elif len(got) == len(want) and list(got) == list(want)[::-1]:
                cause = "the right entries, in reverse order"
            elif len(got) != len(want):
                cause = f"{len(got)} entries where {len(want)} were expected"
        raise Mismatch(_short(want), _short(got), cause, what)


def raises(
    error: type[BaseException], function: Callable[..., Any], *args: Any, match: str = "", what: str = "", **kwargs: Any
) -> None:
    """``function(*args, **kwargs)`` raises ``error``, with a message that contains the regex ``match``.

    Raises :class:`Mismatch`.
    """
    about = " or ".join(repr(re.sub(r"\\b|\?", "", part)) for part in match.split("|"))  # the words, without the regex around them
    wanted = error.__name__ + (f" with a message about {about}" if match else "")
    try:
        result = function(*args, **kwargs)
    except error as raised:
        if match and not re.search(match, str(raised), re.IGNORECASE):
            raise Mismatch(wanted, f"{type(raised).__name__}: {_short(str(raised))}", "", what) from None
        return
    except Exception as raised:
        cause = "the input is not checked before it is used"
        raise Mismatch(wanted, f"{type(raised).__name__}: {_short(str(raised))}", cause, what) from None
    raise Mismatch(wanted, f"no error, and the result {_short(result)}", "the input is not checked", what)


def that(condition: Any, message: str, cause: str = "") -> None:
    """``condition`` holds; else ``message`` says what was expected and what came.

    Raises :class:`Told`.
    """
    if not condition:
        raise Told(message, cause)


class Told(Mismatch):
    """A mismatch told in the check's own words."""

    def __init__(self, message: str, cause: str) -> None:
        self.message = message
        super().__init__(message, "", cause)

    def __str__(self) -> str:
        return self.message + (f". Likely cause: {self.cause}" if self.cause else "")


# --- reading values ------------------------------------------------------------


def _is_tensor(value: Any) -> bool:
    return type(value).__module__.split(".")[0] == "torch" and hasattr(value, "detach")


def _array(value: Any) -> np.ndarray:
    """A value as a NumPy array. Raises TypeError or ValueError where it is none."""
    if _is_tensor(value):
        value = value.detach().cpu()
        if value.is_sparse:
            value = value.to_dense()
        if str(value.dtype) in ("torch.bfloat16", "torch.float16"):
            value = value.float()
        return value.numpy()
    if not isinstance(value, (np.ndarray, np.generic)) and hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)) and any(_is_tensor(v) for v in value):
        value = [_array(v) for v in value]
    return np.asarray(value)


def _take(got: Any, want: np.ndarray, what: str) -> np.ndarray:
    """The answer's value as an array of the kind that ``want`` has."""
    if got is None:
        raise Mismatch(f"an array of shape {want.shape}" if want.ndim else "a number", "None", "a `return` is missing", what)
    try:
        left = _array(got)
    except (TypeError, ValueError) as error:
        raise Mismatch(
            f"an array of shape {want.shape}", f"{type(got).__name__} that is no array: {error}", "", what
        ) from None
    if want.dtype.kind in "biufc" and left.dtype.kind not in "biufc":
        raise Mismatch(f"numbers of shape {want.shape}", f"{type(got).__name__}: {_short(got)}", "", what)
    return left


# --- saying values ---------------------------------------------------------------


def _number(value: Any, digits: int = 6) -> str:
    value = value.item() if isinstance(value, (np.generic, np.ndarray)) else value
    if isinstance(value, (float, complex)):
        return f"{value:.{digits}g}"
    return repr(value)


def _both(want: Any, got: Any) -> tuple[str, str]:
    """Two numbers that differ, with as many digits as show it."""
    for digits in (6, 9, 12, 17):
        pair = _number(want, digits), _number(got, digits)
        if pair[0] != pair[1]:
            break
    return pair


def _index(at: tuple[Any, ...]) -> str:
    return "[" + ", ".join(str(int(i)) for i in at) + "]"


def _short(value: Any, limit: int = 120) -> str:
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception as error:
        text = f"an object whose repr raises {type(error).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


# --- likely causes -----------------------------------------------------------------


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    return left.shape == right.shape and bool(np.allclose(left, right, rtol=1e-6, atol=1e-9 * (1 + np.abs(right).max())))


def _cause(left: np.ndarray, right: np.ndarray) -> str:
    """A general cause that explains every entry, or nothing."""
    if left.dtype.kind not in "iufb" or right.dtype.kind not in "iufb" or not right.size:
        return ""
    left, right = left.astype(float), right.astype(float)
    if np.isnan(left).any() and not np.isnan(right).any():
        return "NaN came up: a division by zero, the logarithm of zero, or infinity minus infinity"
    if np.isinf(left).any() and not np.isinf(right).any():
        return "infinity came up: an overflow or a division by zero"
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return ""
    if _same(left, right):  # different by little in each entry: no order of the entries explains that
        return ""
    if right.size > 1 and not left.any():
        return "every entry is zero: was the result written into the array that is returned?"
    if right.ndim == 2 and right.shape[0] == right.shape[1] and _same(left.T, right) and right.size > 1:
        return "the result is transposed"
    nonzero = np.abs(right) > 1e-12 * (np.abs(right).max() or 1.0)
    if nonzero.any() and (right.size > 1 or left.size == 1):
        ratios = left[nonzero] / right[nonzero]
        factor = float(np.median(ratios))
        if factor and math.isfinite(factor) and abs(factor - 1) > 1e-6 and _same(left, factor * right):
            if right.size == 1 and not _telling(factor):
                return ""
            return "the sign is flipped" if abs(factor + 1) < 1e-9 else f"off by a constant factor of {_factor(factor)}"
    if right.size > 1:
        shift = float(np.median(left - right))
        if abs(shift) > 1e-9 and _same(left - shift, right):
            return f"off by a constant {shift:+.6g}"
        for axis in range(right.ndim):
            if right.shape[axis] > 1 and _same(np.flip(left, axis), right):
                return f"the order along axis {axis} is reversed"
        if _same(np.sort(left, axis=None), np.sort(right, axis=None)):
            return "the right numbers, in other places"
    return ""


def _telling(factor: float) -> bool:
    """A factor that a single number can betray: -1, 2, 1/2, a small whole number or its inverse."""
    return any(abs(factor - c) < 1e-9 or abs(factor - 1 / c) < 1e-9 for c in (-1, 2, -2, 4, math.log(2)))


def _factor(factor: float) -> str:
    text = f"{factor:.6g}"
    for base, name in ((factor, ""), (1 / factor, "1/")):
        if not 1 < base < 10_000:  # beyond that, the digits of a fraction say nothing
            continue
        whole = round(base)
        if abs(base - whole) < 1e-9 * whole:
            return f"{text} = {name}{whole}" if name else str(whole)
        square = round(base * base)
        if abs(base * base - square) < 1e-9 * square:
            return f"{text} = {name}√{square}"
    return text
