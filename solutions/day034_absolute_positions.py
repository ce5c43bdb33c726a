"""Day 34: sinusoidal positions, the matrix that shifts them, and a learned table of
positions that says when it ends."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm180 import known_mistakes


def sinusoidal(n: int, d_model: int, base: float = 10000.0) -> Tensor:
    """The sinusoidal codes of the positions 0 to n - 1.

    Parameters
    ----------
    n:
        Number of positions, may be 0.
    d_model:
        Width of a code: two entries for each of the ``d_model / 2`` hands.
    base:
        The wavelength of hand i, in positions, is ``2 pi * base ** (2 i / d_model)``.

    Returns
    -------
    ``(n, d_model)``. Columns ``2 i`` and ``2 i + 1`` hold the sine and the cosine of
    hand i, which turns by ``base ** (-2 i / d_model)`` radians a position. Computed in
    float64, so that far positions are right, and returned in PyTorch's default dtype.

    Raises ValueError that says ``even`` if ``d_model`` is not a positive even number.

    Source: Vaswani et al. 2017, "Attention Is All You Need", sec. 3.5.
    """
    # equivalent `d_model <= 1`: 1 is odd, and refused as such
    if d_model <= 0 or d_model % 2:
        raise ValueError(f"d_model must be even and positive, got {d_model}")
    hands = torch.arange(0, d_model, 2, dtype=torch.float64)
    angles = torch.arange(n)[:, None] * base ** (-hands / d_model)
    codes = torch.stack([angles.sin(), angles.cos()], dim=-1)  # (n, d_model / 2, 2)
    return codes.flatten(1).to(torch.get_default_dtype())


known_mistakes(
    sinusoidal,
    (
        "[angles.sin(), angles.cos()]",
        "[angles.cos(), angles.sin()]",
        "sine and cosine have changed places: the even columns hold the sine",
    ),
    (
        "return codes.flatten(1)",
        "return codes.transpose(1, 2).flatten(1)",
        "all sines come first and then all cosines; the page interleaves them, hand by hand",
    ),
    (
        "-hands / d_model",
        "-2 * hands / d_model",
        "the exponent is twice too large: if you count columns in twos, the 2 of 2i is in the count already",
    ),
    (
        "-hands / d_model",
        "hands / d_model",
        "the sign of the exponent is lost: later hands must turn more slowly, yours turn faster",
    ),
    (
        "-hands / d_model",
        "-hands / (d_model - 2)",
        "the last hand is made to reach the base exactly; the paper's formula stops one step short of it",
    ),
    (
        "dtype=torch.float64)",
        "dtype=torch.float32)",
        "the angles are computed in float32: at position 100,000 they are off by a thousandth",
    ),
    (
        "codes = torch.stack([angles.sin(), angles.cos()], dim=-1)",
        "codes = torch.stack([angles.sin(), (angles * base ** (-1 / d_model)).cos()], dim=-1)",
        "the cosine has a frequency of its own; sine and cosine of a hand share one angle",
    ),
    (
        "torch.arange(n)[:, None]",
        "torch.arange(1, n + 1)[:, None]",
        "the positions start at 1; the first one is 0, where every hand points up",
    ),
    (
        "    if d_model <= 0 or d_model % 2:\n",
        "    if d_model <= 0:\n",
        "an odd width is not refused; a hand needs two entries",
    ),
)


class LearnedPositions(nn.Module):
    """A table with one learned vector for each position, added to the tokens.

    The only parameter is ``weight``, ``(max_len, d_model)``, as in ``nn.Embedding``,
    so the state of one loads into the other.

    Source: Gehring et al. 2017, "Convolutional Sequence to Sequence Learning",
    sec. 3.1; the table of BERT and GPT-2.
    """

    def __init__(self, max_len: int, d_model: int, *, std: float = 0.02) -> None:
        """Draw the table from a normal distribution of mean 0 and deviation ``std``."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(max_len, d_model) * std)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Add the rows ``start`` to ``start + n - 1`` to the n tokens.

        ``x`` is ``(..., n, d_model)``; so is the result, and ``x`` is left unchanged.

        Raises ValueError that says ``wide`` if ``x`` does not have the table's width,
        and one that says ``position`` if a row below 0 or past the table's end is
        asked for.
        """
        n, width = x.shape[-2:]
        max_len, d_model = self.weight.shape
        if width != d_model:
            raise ValueError(f"x is {width} wide, the table {d_model}")
        if not 0 <= start <= max_len - n:
            raise ValueError(
                f"position {start} to {start + n - 1} asked for, "
                f"the table ends at {max_len - 1}"
            )
        return x + self.weight[start : start + n]

    def stretched(self, max_len: int) -> LearnedPositions:
        """A new table of ``max_len`` rows, at least 1, interpolated between the old.

        The first row stays the first. If ``max_len`` is 2 or more, the last row stays
        the last, and between them the new positions are evenly spaced on the old
        axis. Dtype and device are kept. The new table shares no memory with the old.
        """
        new = LearnedPositions(max_len, self.weight.shape[1]).to(self.weight)
        with torch.no_grad():
            columns = self.weight.T[None]  # (1, d_model, old length)
            rows = F.interpolate(columns, max_len, mode="linear", align_corners=True)
            # equivalent `rows[-1]`: there is one
            new.weight.copy_(rows[0].T)
        return new


known_mistakes(
    LearnedPositions,
    (
        "        if not 0 <= start <= max_len - n:\n",
        "        if start > max_len:\n",
        "a slice past the end comes back short without an error; with one row left it is even broadcast over all tokens",
    ),
    (
        "if not 0 <= start <= max_len - n:",
        "if not 0 <= start < max_len - n:",
        "the last full window is refused: start + n may equal max_len",
    ),
    (
        "if not 0 <= start <= max_len - n:",
        "if start > max_len - n:",
        "a negative start is not refused; Python then counts rows from the end of the table",
    ),
    (
        "self.weight[start : start + n]",
        "self.weight[:n]",
        "start is ignored: token 0 gets row 0 wherever the window begins",
    ),
    (
        "n, width = x.shape[-2:]",
        "n, width = x.shape[0], x.shape[-1]",
        "n is taken from the first axis, which is the batch; the tokens are the last axis but one",
    ),
    (
        "        if width != d_model:\n",
        "        if False:\n",
        "an x of another width is not refused; width 1 is broadcast to the table's width",
    ),
    (
        "return x + self.weight[start : start + n]",
        "return x + self.weight[start : start + n].detach()",
        "the table is detached: it never learns",
    ),
    (
        "return x + self.weight[start : start + n]",
        "return x.add_(self.weight[start : start + n])",
        "x is changed in place, under the feet of the caller",
    ),
    (
        "torch.randn(max_len, d_model) * std",
        "(torch.rand(max_len, d_model) - 0.5) * std * 12**0.5",
        "the table is drawn from a uniform distribution; a normal one is asked for",
    ),
    (
        "self.weight = nn.Parameter(torch.randn(max_len, d_model) * std)",
        "self.weight = torch.randn(max_len, d_model) * std",
        "the table is a plain tensor: no optimizer sees it, and no state holds it",
    ),
    (
        "align_corners=True",
        "align_corners=False",
        "the first and the last row do not stay where they are",
    ),
    (
        'rows = F.interpolate(columns, max_len, mode="linear", align_corners=True)',
        "rows = F.interpolate(columns, max_len)",
        "old rows are repeated; the rows between two old ones are to be mixed from both",
    ),
    (
        "(max_len, self.weight.shape[1]).to(self.weight)",
        "(max_len, self.weight.shape[1])",
        "the new table has the default dtype, not that of the old one",
    ),
)


def shift_matrix(k: float, d_model: int, base: float = 10000.0) -> Tensor:
    """The linear map that moves every sinusoidal code by k positions.

    With ``codes = sinusoidal(n, d_model, base)`` and ``S`` the result,
    ``codes[p + k] = S @ codes[p]`` for every position p; for all rows at once,
    ``codes[k:] = codes[:-k] @ S.T`` if k is positive.

    Parameters
    ----------
    k:
        How far; may be negative, zero, or not whole.
    d_model, base:
        Those of the codes.

    Returns
    -------
    ``(d_model, d_model)``, a rotation in each pair of columns ``2 i`` and ``2 i + 1``
    and zero elsewhere. Computed in float64, returned in PyTorch's default dtype.

    Raises ValueError that says ``even`` if ``d_model`` is not a positive even number.

    Source: Vaswani et al. 2017, sec. 3.5; derived on the page.
    """
    # equivalent `d_model <= 1`: 1 is odd, and refused as such
    if d_model <= 0 or d_model % 2:
        raise ValueError(f"d_model must be even and positive, got {d_model}")
    even = torch.arange(0, d_model, 2)
    angles = k * base ** (-even.double() / d_model)
    shift = torch.zeros(d_model, d_model, dtype=torch.float64)
    shift[even, even] = shift[even + 1, even + 1] = angles.cos()
    shift[even, even + 1] = angles.sin()
    shift[even + 1, even] = -angles.sin()
    return shift.to(torch.get_default_dtype())


known_mistakes(
    shift_matrix,
    (
        "    shift[even, even + 1] = angles.sin()\n    shift[even + 1, even] = -angles.sin()\n",
        "    shift[even, even + 1] = -angles.sin()\n    shift[even + 1, even] = angles.sin()\n",
        "the matrix is transposed: it moves by -k. It stands left of the column, S @ code",
    ),
    (
        "shift[even + 1, even] = -angles.sin()",
        "shift[even + 1, even] = angles.sin()",
        "one sign is lost: a block with two equal sines is no rotation, and lengths change",
    ),
    (
        "shift[even, even] = shift[even + 1, even + 1] = angles.cos()",
        "shift[even, even] = shift[even + 1, even + 1] = k * angles.cos()",
        "k belongs inside the angle; outside it stretches the code",
    ),
    (
        "angles = k * base ** (-even.double() / d_model)",
        "angles = k * torch.ones(len(even), dtype=torch.float64)",
        "every pair turns by k radians; each hand has its own speed",
    ),
    (
        "    even = torch.arange(0, d_model, 2)\n    angles = k * base ** (-even.double() / d_model)\n",
        "    even = torch.arange(0, d_model // 2)\n    angles = k * base ** (-2 * even.double() / d_model)\n",
        "pairs overlap: the pair of hand i is in the columns 2i and 2i + 1",
    ),
    (
        "-even.double() / d_model",
        "-even.float() / d_model",
        "the angles are computed in float32; convert the finished matrix, not what it is made of",
    ),
    (
        "angles = k * base",
        "angles = int(k) * base",
        "k is rounded down; a rotation takes any number",
    ),
    (
        "angles = k * base",
        "angles = abs(k) * base",
        "the sign of k is lost: back and forth are not the same",
    ),
    (
        "    if d_model <= 0 or d_model % 2:\n",
        "    if d_model <= 0:\n",
        "an odd width is not refused with a ValueError",
    ),
)
