"""Day 35: relative positions. The skew that turns columns of distances into columns of
keys, T5's buckets, and ALiBi's slopes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from llm180 import known_mistakes


def relative_shift(scores: Tensor) -> Tensor:
    """From a column for each distance to a column for each key.

    Parameters
    ----------
    scores:
        ``(..., n, 2n - 1)``, n at least 1. Row i belongs to query i, column c to the
        distance ``c - (n - 1)`` of a key: ``key - query``, from ``-(n - 1)`` to
        ``n - 1``. Of any dtype, also strided; it is left unchanged.

    Returns
    -------
    ``(..., n, n)``, of the dtype of ``scores``: entry (i, j) is
    ``scores[..., i, j - i + n - 1]``, what stood in row i under the distance of key j.
    Differentiable. No intermediate result has more than ``2n`` numbers a row, and there
    is no loop over rows.

    Raises ValueError that says, for example, ``3 rows need 5 columns, got 4``.

    Source: Dai et al. 2019, "Transformer-XL", appendix B; Huang et al. 2019, "Music
    Transformer", sec. 3.4.
    """
    *batch, n, columns = scores.shape
    if columns != 2 * n - 1:
        raise ValueError(f"{n} rows need {2 * n - 1} columns, got {columns}")
    padded = F.pad(scores, (0, 1))  # (..., n, 2n)
    tape = padded.reshape(*batch, 2 * n * n)[..., n - 1 :]
    return tape[..., : n * columns].reshape(*batch, n, columns)[..., :n]


known_mistakes(
    relative_shift,
    (
        "[..., n - 1 :]\n",
        "[..., n:]\n",
        "one entry too many is dropped: row 0 begins with distance 0, in column n - 1",
    ),
    (
        "[..., n - 1 :]\n",
        "[..., :]\n",
        "nothing is dropped in front: row 0 begins with the most distant key",
    ),
    (
        "pad(scores, (0, 1))",
        "pad(scores, (1, 0))",
        "the column of zeros is put in front: everything comes out one distance off",
    ),
    (
        "pad(scores, (0, 1))",
        "pad(scores.flip(-1), (0, 1))",
        "the distance is turned around: it is key minus query, so column 0 is the key farthest back",
    ),
    (
        "[..., :n]\n",
        "[..., -n:]\n",
        "the last n columns are taken; after the skew, the first n are the keys",
    ),
    (
        "    tape = padded.reshape(*batch, 2 * n * n)[..., n - 1 :]\n"
        "    return tape[..., : n * columns].reshape(*batch, n, columns)[..., :n]\n",
        "    return padded[..., n - 1 : 2 * n - 1]\n",
        "every row takes the same columns; row i has to start i columns earlier than row 0",
    ),
    (
        "    tape = padded.reshape(*batch, 2 * n * n)[..., n - 1 :]\n"
        "    return tape[..., : n * columns].reshape(*batch, n, columns)[..., :n]\n",
        "    rows = [padded[..., i, n - 1 - i : 2 * n - 1 - i] for i in range(n)]\n"
        "    return torch.stack(rows, dim=-2)\n",
        "right, but by a loop over the rows: n small copies where one reshape does",
    ),
    (
        "    padded = F.pad(scores, (0, 1))  # (..., n, 2n)\n",
        "    padded = F.pad(scores, (0, 1)) * 1.0\n",
        "the dtype has changed: whole numbers come out as floats",
    ),
    (
        "    if columns != 2 * n - 1:\n",
        "    if columns < 2 * n - 1:\n",
        "a table with too many columns is not refused, and comes out scrambled",
    ),
    (
        "    padded = F.pad(scores, (0, 1))  # (..., n, 2n)\n",
        "    padded = F.pad(scores.detach(), (0, 1))\n",
        "the scores are detached: no gradient reaches the vectors of the distances",
    ),
)


def t5_bucket(
    distance: Tensor,
    *,
    bidirectional: bool,
    buckets: int = 32,
    max_distance: int = 128,
) -> Tensor:
    """The number of the bucket that a distance falls into.

    Parameters
    ----------
    distance:
        Integers of any shape: position of the key minus position of the query.
    bidirectional:
        If True, the first half of the buckets is for keys at the query and before it
        (distances 0 and below), the second half for keys after it. If False, all
        buckets look back, and keys after the query fall into bucket 0.
    buckets:
        Number of buckets, both halves together. With L buckets for a direction, the
        lengths 0 to ``L // 2 - 1`` have one each, and the others share the rest on a
        logarithmic scale. A length at which a bucket begins belongs to that bucket.
    max_distance:
        From this length on, everything falls into the last bucket of its direction.

    Returns
    -------
    int64 of the shape of ``distance``, from 0 to ``buckets - 1``.

    Raises ValueError that says ``buckets`` if a direction has less than 2 of them, or
    the number is odd and bidirectional; and one that says ``max_distance`` if that is
    not larger than ``L // 2``.

    Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a
    Unified Text-to-Text Transformer", sec. 2.1, and the code published with it.
    """
    if buckets < 2 * (1 + bidirectional) or (bidirectional and buckets % 2):
        raise ValueError(f"cannot share out {buckets} buckets, need 2 per direction")
    ways = buckets // 2 if bidirectional else buckets
    exact = ways // 2
    if max_distance <= exact:
        raise ValueError(f"max_distance must exceed {exact}, got {max_distance}")
    length = distance.abs() if bidirectional else (-distance).clamp(min=0)
    # equivalent `clamp(min=0)` `clamp(min=2)`: short lengths are not used
    ratio = length.clamp(min=1) / exact
    # from 0 at exact to 1 at max_distance
    share = ratio.log() / math.log(max_distance / exact)
    far = exact + (share * (ways - exact)).long()
    # equivalent `length <= exact`: the first far bucket has the number exact
    bucket = torch.where(length < exact, length, far.clamp(max=ways - 1))
    return bucket + ways * (distance > 0) if bidirectional else bucket


known_mistakes(
    t5_bucket,
    (
        "(-distance).clamp(min=0)",
        "distance.clamp(min=0)",
        "the sign is turned around: distance is key minus query, so the past is negative",
    ),
    (
        "(-distance).clamp(min=0)",
        "distance.abs()",
        "with one direction, keys after the query all fall into bucket 0",
    ),
    (
        "ways * (distance > 0)",
        "ways * (distance < 0)",
        "the halves are exchanged: the second half is for keys after the query",
    ),
    (
        "ways * (distance > 0)",
        "ways * (distance >= 0)",
        "distance 0 belongs to the first half",
    ),
    (
        "return bucket + ways * (distance > 0) if bidirectional else bucket",
        "return bucket",
        "keys before and after the query share buckets: the model cannot tell left from right",
    ),
    (
        "ways = buckets // 2 if bidirectional else buckets",
        "ways = buckets",
        "with two directions each has half of the buckets; the numbers run past the last",
    ),
    (
        "far.clamp(max=ways - 1)",
        "far",
        "beyond max_distance the numbers run on; they must stay in the last bucket",
    ),
    (
        "(share * (ways - exact)).long()",
        "(share * (ways - exact)).round().long()",
        "a length falls into the bucket whose beginning it has reached: round down",
    ),
    (
        "(share * (ways - exact)).long()",
        "(share * ways).long()",
        "the logarithmic part has only the buckets that the exact part leaves over",
    ),
    (
        "math.log(max_distance / exact)",
        "math.log(max_distance)",
        "the scale has to go from exact to max_distance; yours starts at 1",
    ),
    (
        "    share = ratio.log() / math.log(max_distance / exact)\n    far = exact + (share * (ways - exact)).long()\n",
        "    factor = (max_distance / exact) ** (1 / (ways - exact))\n    far = exact + (ratio.double().log() / math.log(factor)).long()\n",
        "the logarithm to a rounded base: a length at which a bucket begins may come out just short of it; take the fraction of two logarithms",
    ),
    (
        "length.clamp(min=1) / exact",
        "(length - exact + 1.0).clamp(min=1)",
        "the logarithm is taken of the excess over exact; equal factors of the length itself share the buckets",
    ),
    (
        "torch.where(length < exact, length, far.clamp(max=ways - 1))",
        "far.clamp(0, ways - 1)",
        "the short lengths lost their own buckets",
    ),
    (
        "(bidirectional and buckets % 2)",
        "False",
        "an odd number of buckets has no two halves; with two directions, refuse it",
    ),
    (
        "    if max_distance <= exact:\n",
        "    if False:\n",
        "a max_distance inside the exact part is not refused with a ValueError",
    ),
)


def alibi_slopes(heads: int) -> Tensor:
    """The slope of each head's linear penalty.

    Parameters
    ----------
    heads:
        Number of heads, at least 1.

    Returns
    -------
    ``(heads,)`` of float32, in the order of the paper's code. If ``heads`` is a power
    of two, head k of 1, 2, ... has the slope ``2 ** (-8 * k / heads)``. If not, and p
    is the largest power of two below, these are the p slopes for p heads, and then the
    first, third, fifth, ... of those for 2p heads, as many as are missing.

    Raises ValueError that says ``head`` if ``heads`` is less than 1.

    Source: Press et al. 2022, "Train Short, Test Long", sec. 3, and the code published
    with it.
    """
    if heads < 1:
        raise ValueError(f"need at least one head, got {heads}")
    power = 2 ** (heads.bit_length() - 1)  # the largest power of two that fits
    exponents = [-8 * k / power for k in range(1, power + 1)]
    # equivalent `2 * power - 1`: fewer than power are ever missing
    exponents += [-8 * k / (2 * power) for k in range(1, 2 * power, 2)]
    return 2.0 ** torch.tensor(exponents[:heads])


known_mistakes(
    alibi_slopes,
    (
        "for k in range(1, power + 1)]",
        "for k in range(power)]",
        "the count begins at 0: the first head would have slope 1, and none 1/256",
    ),
    (
        "    power = 2 ** (heads.bit_length() - 1)  # the largest power of two that fits\n",
        "    power = heads\n",
        "the formula is used for any number; if it is no power of two, the paper's code interleaves two series",
    ),
    (
        "    power = 2 ** (heads.bit_length() - 1)  # the largest power of two that fits\n",
        "    power = 2 ** heads.bit_length()\n",
        "the next larger power of two is taken, and the gentlest heads are cut off",
    ),
    (
        "for k in range(1, 2 * power, 2)]",
        "for k in range(2, 2 * power, 2)]",
        "the second series takes every second slope from the second on: these are there already",
    ),
    (
        "for k in range(1, 2 * power, 2)]",
        "for k in range(1, 2 * power)]",
        "the second series takes every slope; only every second one is new",
    ),
    (
        "    return 2.0 ** torch.tensor(exponents[:heads])\n",
        "    return 2.0 ** torch.tensor(sorted(exponents[:heads])[::-1])\n",
        "the slopes are sorted; the paper's code appends the second series at the end",
    ),
    (
        "[-8 * k / power for k in range(1, power + 1)]",
        "[-8 / power * 2**k for k in range(power)]",
        "the exponents double; it is the slopes that have a constant ratio",
    ),
    (
        "2.0 ** torch.tensor(",
        "-(2.0) ** torch.tensor(",
        "the slopes are positive; the minus stands in front of the distance",
    ),
    (
        "    if heads < 1:\n",
        "    if heads < 0:\n",
        "no head at all is not refused with a ValueError",
    ),
)
