"""Day 32: scaled dot-product attention with masks and dropout, the causal mask, and the
backward pass by hand."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from llm180 import known_mistakes


def causal_mask(
    n: int, m: int | None = None, *, device: torch.device | str | None = None
) -> Tensor:
    """Which keys each of n queries may attend to when the future is hidden.

    Parameters
    ----------
    n:
        Number of queries.
    m:
        Number of keys, ``n`` if not given. The queries are the *last* n positions of
        the m: both sequences end at the same token.
    device:
        Where the mask is made.

    Returns
    -------
    ``(n, m)`` of bool, True where query i may see key j: where
    ``j <= i + m - n``. With fewer keys than queries, the first ``n - m`` queries see
    nothing. Either number may be 0.

    Source: Vaswani et al. 2017, sec. 3.2.3; the alignment is that of
    ``torch.nn.attention.bias.causal_lower_right``.
    """
    m = n if m is None else m
    return torch.ones(n, m, dtype=torch.bool, device=device).tril(m - n)


known_mistakes(
    causal_mask,
    (
        ".tril(m - n)",
        ".tril()",
        "the first query is aligned with the first key; the last query belongs to the last key",
    ),
    (
        ".tril(m - n)",
        ".tril(m - n - 1)",
        "the diagonal is hidden: a token may see itself",
    ),
    (
        ".tril(m - n)",
        ".tril(m - n + 1)",
        "each query sees one key too many, the next token: the answer that it is to predict",
    ),
    (
        ".tril(m - n)",
        ".triu(m - n)",
        "the past is hidden and the future shown",
    ),
    (
        "return torch.ones(n, m, dtype=torch.bool, device=device).tril(m - n)",
        "return ~torch.ones(n, m, dtype=torch.bool, device=device).tril(m - n)",
        "True marks what is hidden, as in nn.MultiheadAttention; here True is what may be seen",
    ),
    (
        "dtype=torch.bool, ",
        "",
        "the mask is of floats 0 and 1: added to the scores it hides nothing",
    ),
)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    dropout: float = 0.0,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of n queries over m keys: ``softmax(scale * Q Kᵀ + mask) V``.

    Parameters
    ----------
    query, key, value:
        ``(..., n, d_k)``, ``(..., m, d_k)`` and ``(..., m, d_v)``; the axes in front
        broadcast. m may be 0.
    mask:
        Broadcasts to ``(..., n, m)``. A bool mask is True where a query *may* attend;
        a float mask is added to the scaled scores, -inf where it may not.
    causal:
        Hide the future as well, by ``causal_mask(n, m)``. With a mask, a query sees
        what both allow.
    dropout:
        Probability with which each weight is set to 0; the others are divided by
        ``1 - dropout``. It is applied whenever it is positive: pass 0 in evaluation.
    scale:
        Factor on the scores; ``1 / sqrt(d_k)`` if not given.

    Returns
    -------
    The output, ``(..., n, d_v)``, and the weights, ``(..., n, m)``, after the softmax
    and before dropout. Rows of the weights sum to 1. A row with nothing to attend to
    has weights 0 and output 0. Outputs and gradients have no NaN. Gradients reach all
    inputs from both results, also a float mask: it may hold learned biases.

    Raises TypeError that says ``bool or float`` for a mask of another dtype, and
    ValueError that says, for example, ``queries of width 4, keys of 3`` or
    ``3 keys for 2 values``.

    Source: Vaswani et al. 2017, "Attention Is All You Need", sec. 3.2.1 and 3.2.3; the
    conventions are those of torch.nn.functional.scaled_dot_product_attention.
    """
    (n, d_k), (m, width) = query.shape[-2:], key.shape[-2:]
    if d_k != width:
        raise ValueError(f"queries of width {d_k}, keys of {width}")
    if m != value.shape[-2]:
        raise ValueError(f"{m} keys for {value.shape[-2]} values")
    scale = 1 / math.sqrt(d_k) if scale is None else scale
    scores = (query * scale) @ key.mT
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -math.inf)
        elif mask.is_floating_point():
            scores = scores + mask
        else:
            raise TypeError(f"a mask is bool or float, this one is {mask.dtype}")
    if causal:
        future = ~causal_mask(n, m, device=query.device)
        scores = scores.masked_fill(future, -math.inf)
    # equivalent `scores <= -math.inf`: nothing is smaller
    empty = (scores == -math.inf).all(dim=-1, keepdim=True)
    # equivalent `empty, 1).softmax` `empty, -1).softmax`: any finite number does
    weights = scores.masked_fill(empty, 0).softmax(dim=-1).masked_fill(empty, 0)
    return F.dropout(weights, dropout) @ value, weights


known_mistakes(
    scaled_dot_product_attention,
    (
        "1 / math.sqrt(d_k)",
        "1.0",
        "the scores are not divided by the square root of d_k",
    ),
    (
        "1 / math.sqrt(d_k)",
        "1 / d_k",
        "the scores are divided by d_k; its square root is asked for",
    ),
    (
        "1 / math.sqrt(d_k)",
        "1 / math.sqrt(value.shape[-1])",
        "the scale takes the width of the values; it is that of the keys",
    ),
    (
        "1 / math.sqrt(d_k) if scale is None else scale",
        "1 / math.sqrt(d_k) * (1 if scale is None else scale)",
        "a scale that is given takes the place of 1/√d_k; it does not multiply it",
    ),
    (
        "scores.masked_fill(~mask, -math.inf)",
        "scores.masked_fill(mask, -math.inf)",
        "the mask is turned around: True is where a query may attend",
    ),
    (
        "scores.masked_fill(~mask, -math.inf)",
        "scores * mask",
        "a score of 0 is a score like any other: it takes its share of the softmax",
    ),
    (
        "            scores = scores + mask\n",
        "            scores = scores.masked_fill(mask == -math.inf, -math.inf)\n",
        "a float mask is a bias as well: its finite entries are added to the scores",
    ),
    (
        "            scores = scores + mask\n",
        "            scores = scores + mask * scale\n",
        "the mask is added to the scaled scores; it is not scaled itself",
    ),
    (
        "scores.masked_fill(empty, 0).softmax(dim=-1).masked_fill(empty, 0)",
        "scores.softmax(dim=-1)",
        "a row with nothing to attend to is 0/0: NaN, in the output and in every gradient",
    ),
    (
        "scores.masked_fill(empty, 0).softmax(dim=-1).masked_fill(empty, 0)",
        "scores.softmax(dim=-1).masked_fill(empty, 0)",
        "the NaN is covered after the softmax; its backward pass multiplies 0 by NaN, which is NaN",
    ),
    (
        "scores.masked_fill(empty, 0).softmax(dim=-1).masked_fill(empty, 0)",
        "scores.masked_fill(empty, 0).softmax(dim=-1)",
        "a row with nothing to attend to looks everywhere, also at what is hidden",
    ),
    (
        "scores.masked_fill(empty, 0).softmax(dim=-1)",
        "scores.masked_fill(empty, 0).softmax(dim=-2)",
        "the softmax runs over the queries; over the keys each row must sum to 1",
    ),
    (
        "    return F.dropout(weights, dropout) @ value, weights\n",
        "    weights = F.dropout(weights, dropout)\n    return weights @ value, weights\n",
        "the weights are returned after dropout; they are asked for before it",
    ),
    (
        "F.dropout(weights, dropout) @ value",
        "F.dropout(weights @ value, dropout)",
        "dropout falls on the output; it belongs on the weights, before they meet the values",
    ),
    (
        "F.dropout(weights, dropout) @ value",
        "(weights * (torch.rand_like(weights) >= dropout)) @ value",
        "the weights that stay are not divided by 1 - dropout: the output shrinks in the mean",
    ),
    (
        "future = ~causal_mask(n, m, device=query.device)",
        "future = ~torch.ones(n, m, dtype=torch.bool).tril()",
        "the causal mask is aligned with the first key; the last query belongs to the last key",
    ),
    (
        "            scores = scores + mask\n",
        "            scores = scores + mask.detach()\n",
        "a float mask gets no gradient, so a learned bias would stay as it is",
    ),
    (
        "@ value, weights\n",
        "@ value, weights.detach()\n",
        "the weights are cut off from the graph: a loss on them reaches neither query nor key",
    ),
    (
        "1 / math.sqrt(d_k) if scale is None else scale",
        "scale or 1 / math.sqrt(d_k)",
        "a scale of 0 was given and is not used: 0 counts as False, so ask whether it is None",
    ),
    (
        "            scores = scores.masked_fill(~mask, -math.inf)\n",
        "            scores = scores.masked_fill(mask.logical_not_(), -math.inf)\n",
        "the caller's mask is changed in place",
    ),
    (
        "    if causal:\n",
        "    if causal and mask is None:\n",
        "with a mask the future is no longer hidden: a query sees what both allow",
    ),
    (
        "        elif mask.is_floating_point():\n            scores = scores + mask\n        else:\n"
        '            raise TypeError(f"a mask is bool or float, this one is {mask.dtype}")\n',
        "        else:\n            scores = scores + mask\n",
        "a mask of integers 0 and 1 is added to the scores, and hides nothing: refuse it",
    ),
)


def attention_backward(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weights: Tensor,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of attention in its three inputs, without autograd.

    Parameters
    ----------
    grad_output:
        ``(..., n, d_v)``, the gradient of the loss in the output.
    query, key, value:
        ``(..., n, d_k)``, ``(..., m, d_k)`` and ``(..., m, d_v)``, as they were given
        to ``scaled_dot_product_attention``.
    weights:
        ``(..., n, m)``, as they came out of it, without dropout. They are 0 where a
        query was not allowed to attend, and nothing else is known of the mask.
    scale:
        Factor on the scores; ``1 / sqrt(d_k)`` if not given.

    Returns
    -------
    The gradients in query, key and value, each of the shape of what it belongs to:
    what was stretched over an axis in front is summed over it.

    Source: derived on the page; Dao et al. 2022, "FlashAttention", appendix B.2.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    dv = weights.mT @ grad_output
    dweights = grad_output @ value.mT
    mean = (weights * dweights).sum(dim=-1, keepdim=True)
    dscores = weights * (dweights - mean)
    dq = scale * dscores @ key
    dk = scale * dscores.mT @ query
    return (
        dq.sum_to_size(query.shape),
        dk.sum_to_size(key.shape),
        dv.sum_to_size(value.shape),
    )


known_mistakes(
    attention_backward,
    (
        "weights * (dweights - mean)",
        "weights * dweights",
        "the mean of the row is missing: a softmax passes on differences only",
    ),
    (
        "weights * (dweights - mean)",
        "weights * (1 - weights) * dweights",
        "that is the diagonal of the Jacobian; raising one score also lowers all other weights of the row",
    ),
    (
        "(weights * dweights).sum(dim=-1, keepdim=True)",
        "(weights * dweights).sum(dim=-2, keepdim=True)",
        "the mean runs over the queries; each query has a softmax, and a mean, of its own",
    ),
    (
        "(weights * dweights).sum(dim=-1, keepdim=True)",
        "dweights.mean(dim=-1, keepdim=True)",
        "the mean of the row is weighted by the weights",
    ),
    (
        "dq = scale * dscores @ key",
        "dq = dscores @ key",
        "the scale is a factor of the scores, so it is one of dq as well",
    ),
    (
        "dk = scale * dscores.mT @ query",
        "dk = dscores.mT @ query",
        "the scale is a factor of the scores, so it is one of dk as well",
    ),
    (
        "1 / math.sqrt(query.shape[-1]) if scale is None else scale",
        "scale or 1 / math.sqrt(query.shape[-1])",
        "a scale of 0 was given and is not used: 0 counts as False, so ask whether it is None",
    ),
    (
        "dv = weights.mT @ grad_output",
        "dv = weights.softmax(dim=-1).mT @ grad_output",
        "the weights come out of the softmax; do not put them through it again",
    ),
    (
        "        dk.sum_to_size(key.shape),\n        dv.sum_to_size(value.shape),\n",
        "        dk,\n        dv,\n",
        "keys and values that serve a whole batch collect their gradient from all of it: sum over the stretched axes",
    ),
)
