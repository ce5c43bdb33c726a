"""Lab 2.4: parts of an attention merged, FlashAttention in PyTorch and in Triton, and its traffic."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llm180 import known_mistakes
from llm180.tiles import cdiv, tl


def merge_attention(
    out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention over two sets of keys together, from the attention over each alone.

    Parameters
    ----------
    out_a, out_b:
        ``(..., n, d)`` each: for every query the weighted mean of the values of one
        set of keys; the weights are a softmax over that set.
    lse_a, lse_b:
        ``(..., n)`` each: for every query the logarithm of the sum of the exponentials
        of its scores in that set, of any size. It is -inf where a query sees no key
        of a set, and then that set counts nothing; a query sees a key of one set at
        least.

    Returns
    -------
    ``out`` and ``lse`` of the union of the two sets, with the shapes of the inputs.

    Source: Rabe and Staats (2021), "Self-attention Does Not Need O(n^2) Memory".
    """
    high = torch.maximum(lse_a, lse_b)
    part_a, part_b = torch.exp(lse_a - high), torch.exp(lse_b - high)
    total = part_a + part_b
    out = (part_a[..., None] * out_a + part_b[..., None] * out_b) / total[..., None]
    return out, high + torch.log(total)


known_mistakes(
    merge_attention,
    (
        "(part_a[..., None] * out_a + part_b[..., None] * out_b) / total[..., None]",
        "(out_a + out_b) / 2",
        "both sets count the same, however large their sums of exponentials are",
    ),
    (
        "    high = torch.maximum(lse_a, lse_b)\n",
        "    high = torch.zeros_like(lse_a)\n",
        "the exponentials are taken without subtracting the larger exponent: they overflow or vanish",
    ),
    (
        " / total[..., None]",
        "",
        "the sum is not divided by the sum of the weights",
    ),
    (
        "high + torch.log(total)",
        "high",
        "the new logarithm is that of the larger part alone",
    ),
    (
        "high + torch.log(total)",
        "torch.log(total)",
        "the exponent that was subtracted is not added back",
    ),
    (
        "part_a, part_b = torch.exp(lse_a - high), torch.exp(lse_b - high)",
        "part_a, part_b = lse_a - high + 1, lse_b - high + 1",
        "the sets are weighted by logarithms, not by sums of exponentials",
    ),
)


def flash_forward_tiled(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    # equivalent `block_q: int = 63` `block_q: int = 65`: any tile, the same result
    block_q: int = 64,
    # equivalent `block_k: int = 63` `block_k: int = 65`: any tile, the same result
    block_k: int = 64,
) -> tuple[Tensor, Tensor]:
    """Softmax attention in tiles: no tensor with a score for every pair of positions.

    Parameters
    ----------
    q, k, v:
        ``(h, n, d)``, ``(h, m, d)`` and ``(h, m, e)``: h heads, n queries, m >= 1 keys.
        float32 or float64, the type in which everything is computed.
    causal:
        If true, query i sees keys 0 to i. Tiles in which no query sees a key are not
        computed.
    block_q, block_k:
        Rows and columns of a tile; they need not divide n and m.

    Returns
    -------
    out, lse:
        ``(h, n, e)``, the weighted means of the values, the scores being scaled by
        ``1 / sqrt(d)``; and ``(h, n)``, the logarithm of the sum of the exponentials
        of each query's scores.

    No tensor that is made on the way, views included, has more entries than the
    largest of q, k, v, out, and ``h * block_q * block_k``.

    Source: Dao et al. (2022), "FlashAttention", algorithm 1, with the loops in the
    order of Dao (2024), "FlashAttention-2".
    """
    (h, n, d), m = q.shape, k.shape[1]
    out, lse = q.new_empty(h, n, v.shape[2]), q.new_empty(h, n)
    for top in range(0, n, block_q):
        bottom = min(top + block_q, n)
        rows = torch.arange(top, bottom, device=q.device)[:, None]
        queries = q[:, top:bottom] / math.sqrt(d)
        high = q.new_full((h, len(rows)), -math.inf)  # largest score so far
        total = q.new_zeros(h, len(rows))  # sum of exponentials, relative to it
        acc = q.new_zeros(h, len(rows), v.shape[2])  # weighted sum of values, likewise
        end = min(m, bottom) if causal else m
        for left in range(0, end, block_k):
            right = min(left + block_k, end)
            scores = queries @ k[:, left:right].mT  # (h, rows, columns)
            if causal:
                cols = torch.arange(left, right, device=q.device)
                scores = scores.masked_fill(cols > rows, -math.inf)
            new = torch.maximum(high, scores.amax(-1))
            weights = torch.exp(scores - new[..., None])
            fade = torch.exp(high - new)
            total = total * fade + weights.sum(-1)
            acc = acc * fade[..., None] + weights @ v[:, left:right]
            high = new
        out[:, top:bottom] = acc / total[..., None]
        lse[:, top:bottom] = high + torch.log(total)
    return out, lse


known_mistakes(
    flash_forward_tiled,
    (
        "total = total * fade + weights.sum(-1)",
        "total = total + weights.sum(-1)",
        "the sum so far is not rescaled when the largest score grows",
    ),
    (
        "acc = acc * fade[..., None] + weights @ v",
        "acc = acc + weights @ v",
        "the weighted values so far are not rescaled when the largest score grows",
    ),
    (
        "new = torch.maximum(high, scores.amax(-1))",
        "new = scores.amax(-1)",
        "the largest score of the last tile is taken, not the largest so far: a later tile with small scores makes the factor overflow",
    ),
    (
        " / math.sqrt(d)",
        "",
        "the scores are not divided by the square root of d",
    ),
    (
        "cols > rows,",
        "cols >= rows,",
        "a query does not see its own position",
    ),
    (
        "end = min(m, bottom) if causal else m",
        "end = m",
        "tiles above the diagonal are computed, only to be masked",
    ),
    (
        "bottom = min(top + block_q, n)",
        "bottom = n",
        "the tile is not cut off at its last row: it reaches to the end of the sequence",
    ),
    (
        "lse[:, top:bottom] = high + torch.log(total)",
        "lse[:, top:bottom] = torch.log(total)",
        "the largest score is missing in the logarithm of the sum",
    ),
)


def flash_kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    n: int,
    m: int,
    scale: float,
    q_head: int,
    q_row: int,
    k_head: int,
    k_row: int,
    v_head: int,
    v_row: int,
    CAUSAL: tl.constexpr,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """One program of attention: a block of queries of one head, against all their keys.

    A kernel, in Triton's language. Program ``(i, j)`` computes rows ``i * BLOCK_Q``
    onward of head ``j`` of ``out``, ``(h, n, D)``, and of ``lse``, ``(h, n)`` in
    float32; both are row-major. It walks along the m >= 1 keys in blocks of ``BLOCK_K``
    and keeps the running maximum, sum and weighted values in float32.

    Entry ``(j, r, c)`` of ``q``, ``(h, n, D)``, lies at
    ``q + j * q_head + r * q_row + c``; ``k`` and ``v``, ``(h, m, D)``, likewise. Scores
    are multiplied by ``scale``. With ``CAUSAL``, query r sees keys 0 to r, and blocks
    of keys that no query of the program sees are not loaded.

    ``BLOCK_Q`` and ``BLOCK_K`` need not divide n and m; D is a power of two. Nothing
    outside the tensors is read or written, and each entry that is needed is read once.

    Source: Dao (2024), "FlashAttention-2", algorithm 1.
    """
    first = tl.program_id(0) * BLOCK_Q
    head = tl.program_id(1)
    rows = first + tl.arange(0, BLOCK_Q)[:, None]
    dims = tl.arange(0, D)
    q_at = head * q_head + rows * q_row + dims[None, :]
    # equivalent `other=1.0` `other=-1.0` `mask=rows < n)`: not stored, rows beyond n
    queries = tl.load(q + q_at, mask=rows < n, other=0.0)
    high = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    acc = tl.zeros((BLOCK_Q, D), tl.float32)
    end = m
    if CAUSAL:
        end = min(m, first + BLOCK_Q)
    for start in range(0, end, BLOCK_K):
        across = start + tl.arange(0, BLOCK_K)[None, :]
        down = start + tl.arange(0, BLOCK_K)[:, None]
        k_at = head * k_head + across * k_row + dims[:, None]
        # equivalent `other=1.0` `other=-1.0` `mask=across < m)`: these become -inf
        keys = tl.load(k + k_at, mask=across < m, other=0.0)
        v_at = head * v_head + down * v_row + dims[None, :]
        # equivalent `other=1.0` `other=-1.0`: their weights are 0
        values = tl.load(v + v_at, mask=down < m, other=0.0)
        seen = across < m
        if CAUSAL:
            seen = seen & (across <= rows)
        scores = tl.where(seen, scale * tl.dot(queries, keys), float("-inf"))
        new = tl.maximum(high, tl.max(scores, 1))
        weights = tl.exp(scores - new[:, None])
        fade = tl.exp(high - new)
        total = total * fade + tl.sum(weights, 1)
        acc = acc * fade[:, None] + tl.dot(weights.to(values.dtype), values)
        high = new
    place = head * n + rows
    tl.store(out + place * D + dims[None, :], acc / total[:, None], mask=rows < n)
    tl.store(lse + place, (high + tl.log(total))[:, None], mask=rows < n)


known_mistakes(
    flash_kernel,
    (
        "total = total * fade + tl.sum(weights, 1)",
        "total = total + tl.sum(weights, 1)",
        "the sum so far is not rescaled when the largest score grows",
    ),
    (
        "acc = acc * fade[:, None] + tl.dot",
        "acc = acc + tl.dot",
        "the weighted values so far are not rescaled when the largest score grows",
    ),
    (
        "new = tl.maximum(high, tl.max(scores, 1))",
        "new = tl.max(scores, 1)",
        "the largest score of the last block is taken, not the largest so far",
    ),
    (
        "seen = across < m\n",
        "seen = across < m + BLOCK_K\n",
        "keys beyond the last one get a score of 0 and a weight, because the scores are not masked there",
    ),
    (
        "mask=across < m, other=0.0)",
        "mask=across < m + BLOCK_K, other=0.0)",
        "the last block of keys is not masked: it reads past the end",
    ),
    (
        "mask=down < m, other=0.0)",
        "mask=down < m)",
        "values beyond the last key are undefined without other=0.0, and 0 times undefined is undefined",
    ),
    (
        "end = min(m, first + BLOCK_Q)",
        "end = m",
        "blocks of keys above the diagonal are loaded, only to be masked",
    ),
    (
        "scale * tl.dot(queries, keys)",
        "tl.dot(queries, keys)",
        "the scores are not multiplied by the scale",
    ),
    (
        "(across <= rows)",
        "(across < rows)",
        "a query does not see its own position",
    ),
    (
        "k_at = head * k_head + across * k_row",
        "k_at = across * k_row",
        "every head reads the keys of head 0",
    ),
    (
        "down * v_row + dims[None, :]",
        "down * D + dims[None, :]",
        "v is taken to be row-major; a view of a (n, h, d) tensor has other strides",
    ),
    (
        "(high + tl.log(total))[:, None]",
        "tl.log(total)[:, None]",
        "the largest score is missing in the logarithm of the sum",
    ),
)


def io_bytes(
    n: int,
    m: int,
    d: int,
    *,
    causal: bool = False,
    block_q: int = 64,
    block_k: int = 64,
    itemsize: int = 4,
) -> int:
    """Bytes that ``flash_kernel`` loads and stores for one head.

    Parameters
    ----------
    n, m, d:
        Number of queries, of keys, and the width of a head.
    causal, block_q, block_k:
        As for the kernel. A block of keys is loaded as a whole, cut off at m.
    itemsize:
        Bytes of an entry of q, k, v and out. An entry of lse has 4.

    Raises ValueError if one of the sizes is below 1.

    Source: Dao et al. (2022), "FlashAttention", theorem 2 and its proof.
    """
    if min(n, m, d, block_q, block_k, itemsize) < 1:
        raise ValueError(
            f"sizes are at least 1, got {(n, m, d, block_q, block_k, itemsize)}"
        )
    keys = 0  # loaded by all programs together
    for i in range(cdiv(n, block_q)):
        end = min(m, (i + 1) * block_q) if causal else m
        keys += min(m, cdiv(end, block_k) * block_k)
    return itemsize * d * (2 * n + 2 * keys) + 4 * n


known_mistakes(
    io_bytes,
    (
        "min(m, cdiv(end, block_k) * block_k)",
        "end",
        "a block of keys at the diagonal is loaded as a whole, not up to the diagonal",
    ),
    (
        "min(m, cdiv(end, block_k) * block_k)",
        "cdiv(end, block_k) * block_k",
        "the last block of keys is cut off at m: what the mask leaves out is not loaded",
    ),
    (
        "2 * n + 2 * keys",
        "2 * n + keys",
        "keys and values are both loaded",
    ),
    (
        "2 * n + 2 * keys",
        "n + 2 * keys",
        "the queries are loaded and the result is stored: both have n rows",
    ),
    (
        " + 4 * n",
        "",
        "the logarithms of the sums are stored as well",
    ),
    (
        "        keys += min",
        "        keys = min",
        "keys and values are loaded once per block of queries, not once",
    ),
    (
        "if min(n, m, d, block_q, block_k, itemsize) < 1:",
        "if False:",
        "a size below 1 is not refused",
    ),
)
