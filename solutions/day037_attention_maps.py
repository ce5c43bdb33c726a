"""Day 37: three numbers from attention weights: entropy, rollout, and the induction score."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from llm180 import known_mistakes


def head_entropy(weights: Tensor, *, causal: bool = False) -> Tensor:
    """How widely each head looks: the mean entropy of its rows, in nats.

    Parameters
    ----------
    weights:
        ``(B, h, n, n)``, the weights of a layer. A row has sum 1, or is all zeros: a
        query that had nothing to attend to.
    causal:
        If True, query i, counted from 0, could see ``i + 1`` keys. Its entropy is then
        divided by ``log(i + 1)``, the largest that it can have, and query 0, which had
        no choice, is left out.

    Returns
    -------
    ``(h,)``, of the dtype of ``weights``: the mean over the queries of all sequences.
    Rows of zeros are left out as well. 0 where each query looks at one key; without
    ``causal`` at most ``log n``, with it at most 1. A weight of 0 adds nothing.

    Raises ValueError that says ``shape`` if ``weights`` is not ``(B, h, n, n)``, and
    one that says ``no row`` if a head has no row left to average.

    Source: Day 9; for heads, Clark et al. 2019, "What Does BERT Look At?", sec. 3.3.
    """
    # equivalent `weights.shape[2]`: there are four axes here
    if weights.ndim != 4 or weights.shape[-1] != weights.shape[-2]:
        raise ValueError(f"need shape (B, h, n, n), got {tuple(weights.shape)}")
    rows = torch.special.entr(weights).sum(dim=-1)  # (B, h, n)
    counts = weights.sum(dim=-1) > 0  # equivalent `!= 0`: no sum is negative
    if causal:
        # equivalent `weights.shape[-2]`: the maps are square
        choices = torch.arange(1, weights.shape[-1] + 1, device=weights.device)
        rows = rows[..., 1:] / choices[1:].to(rows.dtype).log()
        counts = counts[..., 1:]
    seen = counts.sum(dim=(0, 2))  # (h,)
    if (seen == 0).any():  # equivalent `seen <= 0`: it is a count
        raise ValueError("no row to average: every one is left out")
    return rows.sum(dim=(0, 2)) / seen  # a row of zeros has entropy 0


known_mistakes(
    head_entropy,
    (
        "torch.special.entr(weights).sum(dim=-1)",
        "-(weights * weights.log()).sum(dim=-1)",
        "0 · log 0 is NaN in floating point; a weight of 0 adds nothing",
    ),
    (
        "torch.special.entr(weights).sum(dim=-1)",
        "-(weights * (weights + 1e-3).log()).sum(dim=-1)",
        "a small number inside the logarithm shifts every entropy; treat the zeros on their own",
    ),
    (
        "torch.special.entr(weights).sum(dim=-1)",
        "torch.special.entr(weights).sum(dim=-2)",
        "the sum runs over the queries; the entropy is that of a row, over the keys",
    ),
    (
        "torch.special.entr(weights).sum(dim=-1)",
        "torch.special.entr(weights.mean(dim=0, keepdim=True)).sum(dim=-1).expand(len(weights), -1, -1)",
        "the maps are averaged before the entropy: a sharp head that looks elsewhere each time seems to look everywhere",
    ),
    (
        "torch.special.entr(weights).sum(dim=-1)",
        "torch.special.entr(weights).sum(dim=-1) / 0.6931471805599453",
        "these are bits; nats are asked for, the natural logarithm",
    ),
    (
        "choices[1:].to(rows.dtype).log()",
        "torch.tensor(weights.shape[-1]).log()",
        "log n is the maximum of the last row only; query i could see i + 1 keys",
    ),
    (
        "        counts = counts[..., 1:]\n",
        "        rows = torch.nn.functional.pad(rows, (1, 0))\n",
        "query 0 had no choice: its 0 is left out of the mean, not averaged in",
    ),
    (
        "return rows.sum(dim=(0, 2)) / seen",
        "return rows.mean(dim=(0, 2))",
        "rows of zeros are counted: a query that had nothing to attend to is not a sharp one",
    ),
    (
        "return rows.sum(dim=(0, 2)) / seen",
        "return (rows.sum(dim=2) / counts.sum(dim=2)).mean(dim=0)",
        "a mean of the sequences' means gives the rows of a padded sequence more weight",
    ),
    (
        "    if (seen == 0).any():\n",
        "    if False:\n",
        "a head without a row to average must be a ValueError, not 0 / 0",
    ),
)


def attention_rollout(weights: Iterable[Tensor], residual: float = 0.5) -> Tensor:
    """How much of each input token is in each output, if attention only mixed tokens.

    Each layer is taken as a mixture ``residual * I + (1 - residual) * A``, where A is
    the mean over the layer's heads and I the residual connection. Each row is divided
    by its sum, where that is not 0. The result is the product over the layers.

    Parameters
    ----------
    weights:
        The layers in the order in which they are run, each ``(B, h, n, n)``. A layer
        may have a number of heads of its own. A generator will do, or a tensor
        ``(layers, B, h, n, n)``.
    residual:
        The share of the residual connection, from 0 to 1.

    Returns
    -------
    ``(B, n, n)``: row i says from which input tokens output i is mixed. The inputs are
    left unchanged.

    Raises ValueError that says ``layer`` if there is none, ``shape`` if a layer is not
    ``(B, h, n, n)`` with the B and n of the first, and ``residual`` if ``residual`` is
    not between 0 and 1.

    Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers".
    """
    layers = list(weights)
    if not layers:
        raise ValueError("need at least one layer")
    if not 0 <= residual <= 1:
        raise ValueError(f"residual is a share from 0 to 1, got {residual}")
    first = layers[0]  # equivalent `layers[-1]`: all must agree
    # equivalent `first.shape[-2]`: the maps are square
    batch, n = len(first), first.shape[-1]
    for layer in layers:
        if (len(layer), *layer.shape[2:]) != (batch, n, n):
            raise ValueError(f"need shape (B, h, n, n), got {tuple(layer.shape)}")
    stay = residual * torch.eye(n).to(first)  # of the same dtype, on the same device
    rollout = None
    for layer in layers:
        mixed = stay + (1 - residual) * layer.mean(dim=1)  # (B, n, n)
        total = mixed.sum(dim=-1, keepdim=True)
        # equivalent `total <= 0` `total == 0, 2`: no sum is negative; 0 / 2 is 0 too
        mixed = mixed / total.masked_fill(total == 0, 1)
        rollout = mixed if rollout is None else mixed @ rollout
    return rollout


known_mistakes(
    attention_rollout,
    (
        "mixed @ rollout",
        "rollout @ mixed",
        "the layers are multiplied in the wrong order: the last layer reads the mixtures of the first, so it stands on the left",
    ),
    (
        "mixed @ rollout",
        "mixed * rollout",
        "an entry-by-entry product; the paths through all tokens in between are summed by a matrix product",
    ),
    (
        "mixed @ rollout",
        "(mixed + rollout) / 2",
        "the layers are averaged; they run one after the other",
    ),
    (
        "mixed @ rollout",
        "mixed @ rollout.mT",
        "the rollout so far is transposed: its rows are outputs, and a row of the next layer mixes them",
    ),
    (
        "stay + (1 - residual) * layer.mean(dim=1)",
        "layer.mean(dim=1)",
        "the residual connection is left out: a token keeps a share of itself in each layer",
    ),
    (
        "stay + (1 - residual) * layer.mean(dim=1)",
        "stay + layer.mean(dim=1)",
        "the residual is added to the whole of A: its share is then not the one asked for",
    ),
    (
        "residual * torch.eye(n)",
        "(1 - residual) * torch.eye(n)",
        "the shares have changed places, or do not add up to 1",
    ),
    (
        "layer.mean(dim=1)  # (B, n, n)",
        "layer.sum(dim=1)",
        "the heads are summed, not averaged: with many heads the residual connection hardly counts",
    ),
    (
        "        mixed = mixed / total.masked_fill(total == 0, 1)\n",
        "",
        "the rows are not divided by their sums: a row of zeros loses a share in each layer",
    ),
    (
        "        total = mixed.sum(dim=-1, keepdim=True)\n",
        "        total = stay.sum(dim=-1, keepdim=True) + (1 - residual) * layer.any(dim=1).any(dim=-1, keepdim=True)\n",
        "a row that is zero in some heads only has a smaller sum too: divide by the sum that it has",
    ),
    (
        "mixed / total.masked_fill(total == 0, 1)",
        "mixed / total",
        "a row of sum 0 is divided by 0; it stays zero",
    ),
    (
        "        mixed = mixed / total.masked_fill(total == 0, 1)\n",
        "        mixed = mixed / mixed.sum(dim=-2, keepdim=True)\n",
        "the columns are divided by their sums; each row is a mixture",
    ),
    (
        "    if not layers:\n",
        "    if False:\n",
        "no layer at all must be a ValueError that says layer",
    ),
)


def induction_score(weights: Tensor, period: int) -> Tensor:
    """How much each head looks at what followed the earlier copies of its token.

    Parameters
    ----------
    weights:
        ``(B, h, n, n)``, causal, on sequences of random tokens that repeat themselves:
        token i is token ``i - period``. Within a period no token comes twice.
    period:
        After how many tokens the sequence repeats, at least 2 and below n.

    Returns
    -------
    ``(h,)``, from 0 to 1. Query i, counted from 0, has its earlier copies at
    ``i - period``, ``i - 2 * period``, and so on, down to 0. What followed a copy
    stands one further. The weights on these keys are added up, then averaged over all
    sequences and over the queries from ``period`` on, which have a copy.

    Raises ValueError that says ``shape`` if ``weights`` is not ``(B, h, n, n)``, and
    one that says ``period`` if ``period`` is below 2, or n or more.

    Source: the prefix matching score of Olsson et al. 2022, "In-context Learning and
    Induction Heads".
    """
    # equivalent `weights.shape[2]`: there are four axes here
    if weights.ndim != 4 or weights.shape[-1] != weights.shape[-2]:
        raise ValueError(f"need shape (B, h, n, n), got {tuple(weights.shape)}")
    n = weights.shape[-1]  # equivalent `weights.shape[-2]`: the maps are square
    if not 2 <= period < n:
        raise ValueError(f"period is at least 2 and below {n}, got {period}")
    place = torch.arange(n, device=weights.device)
    back = place[:, None] + 1 - place  # (n, n): from the key's predecessor to the query
    # equivalent `back % period <= 0` `place != 0`: neither is negative
    follows = (back % period == 0) & (place > 0)  # what is ahead has weight 0
    return (weights * follows)[..., period:, :].sum(dim=-1).mean(dim=(0, 2))


known_mistakes(
    induction_score,
    (
        "place[:, None] + 1 - place",
        "place[:, None] - place",
        "that is the weight on the earlier copy itself; the token after it is asked for",
    ),
    (
        "place[:, None] + 1 - place",
        "place[:, None] - 1 - place",
        "that is the weight on the token before the earlier copy, one to the wrong side",
    ),
    (
        "[..., period:, :]",
        "[..., period - 1 :, :]",
        "the average begins one query early: the first token with an earlier copy is number period, counted from 0",
    ),
    (
        "[..., period:, :]",
        "",
        "queries of the first period are averaged in, though they have no earlier copy",
    ),
    (
        "(back % period == 0)",
        "(back == period)",
        "only the nearest copy counts; with three or more copies all that came before belong to the score",
    ),
    (
        " & (place > 0)",
        "",
        "key 0 follows no token, so it belongs to no copy",
    ),
    (
        ".sum(dim=-1).mean(dim=(0, 2))",
        ".mean(dim=-1).mean(dim=(0, 2))",
        "the weights on the keys that count are summed over a row, not averaged over all n keys",
    ),
    (
        ".sum(dim=-1).mean(dim=(0, 2))",
        ".sum(dim=-2).mean(dim=(0, 2)) * weights.shape[-1] / (weights.shape[-1] - period + 1)",
        "the sum runs over the queries; it is the row of a query that is summed",
    ),
    (
        "[..., period:, :]",
        "[..., -period:, :]",
        "only the last period is averaged; all queries that have an earlier copy count",
    ),
    (
        "    if not 2 <= period < n:\n",
        "    if not 2 <= period:\n",
        "a period of n or more leaves no query with an earlier copy: a ValueError that says period, not NaN",
    ),
)
