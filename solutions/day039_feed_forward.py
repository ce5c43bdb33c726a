"""Day 39: the feed-forward network of a Transformer, the encoder block around it, and its
cells read as memories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm180 import known_mistakes
from solutions.day033_multi_head import MultiHeadAttention


class FeedForward(nn.Module):
    """Two linear layers with an activation between, applied to each token alone.

    ``kind`` is ``"relu"``, ``"gelu"`` (the exact one, with erf) or ``"swiglu"``. The
    first two are ``down(activation(up(x)))``. The third has one layer more and is
    ``down(silu(gate(x)) * up(x))``, with ``silu(z) = z * sigmoid(z)``.

    The layers are ``up`` and, for ``"swiglu"`` only, ``gate``, from ``d_model`` to
    ``d_ff``, and ``down``, from ``d_ff`` to ``d_model``; all ``nn.Linear``, and
    ``bias`` holds for all.

    Source: Vaswani et al. 2017, sec. 3.3; Shazeer 2020, "GLU Variants Improve
    Transformer".
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        *,
        kind: str = "relu",
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        """Make the layers.

        ``dropout`` is the probability with which an entry of the hidden layer, what
        ``down`` reads, is dropped while the module trains; in evaluation nothing is
        dropped.

        Raises ValueError that says ``kind`` if ``kind`` is not one of the three.
        """
        super().__init__()
        if kind not in ("relu", "gelu", "swiglu"):
            raise ValueError(f"kind must be relu, gelu or swiglu, got {kind!r}")
        self.kind = kind
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        # equivalent `kind >= "swiglu"`: the last of the three in the order of letters
        if kind == "swiglu":
            self.gate = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def hidden(self, x: Tensor) -> Tensor:
        """The cells before dropout: ``(..., d_model)`` to ``(..., d_ff)``."""
        # equivalent `self.kind >= "swiglu"`: the last in the order of letters
        if self.kind == "swiglu":
            return F.silu(self.gate(x)) * self.up(x)
        # equivalent `self.kind >= "relu"`: gelu comes before it, and swiglu is done
        return (F.relu if self.kind == "relu" else F.gelu)(self.up(x))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., d_model)`` to ``(..., d_model)``."""
        return self.down(self.dropout(self.hidden(x)))


known_mistakes(
    FeedForward,
    (
        "F.silu(self.gate(x)) * self.up(x)",
        "F.silu(self.up(x)) * self.gate(x)",
        "gate and up have changed places: the activation belongs on the gate",
    ),
    (
        "F.silu(self.gate(x)) * self.up(x)",
        "torch.sigmoid(self.gate(x)) * self.up(x)",
        "that is the GLU, with a sigmoid; SwiGLU has silu(z) = z * sigmoid(z)",
    ),
    (
        "F.silu(self.gate(x)) * self.up(x)",
        "F.silu(self.gate(x)) * F.silu(self.up(x))",
        "only the gate has an activation; the other factor stays linear",
    ),
    (
        "F.silu(self.gate(x)) * self.up(x)",
        "F.gelu(self.gate(x)) * self.up(x)",
        "that is GEGLU; SwiGLU has silu on the gate",
    ),
    (
        'F.relu if self.kind == "relu" else F.gelu',
        'F.relu if self.kind == "relu" else lambda z: F.gelu(z, approximate="tanh")',
        "the exact GELU, with erf, is asked for; this is the approximation with tanh",
    ),
    (
        'F.relu if self.kind == "relu" else F.gelu',
        "F.relu",
        "gelu is computed as relu",
    ),
    (
        "self.down(self.dropout(self.hidden(x)))",
        "self.dropout(self.down(self.hidden(x)))",
        "dropout acts on the output; here it acts on the hidden layer, before down",
    ),
    (
        "self.down(self.dropout(self.hidden(x)))",
        "self.down(self.hidden(x))",
        "dropout is never applied",
    ),
    (
        "self.down(self.dropout(self.hidden(x)))",
        "self.down(F.dropout(self.hidden(x), self.dropout.p))",
        "F.dropout drops in evaluation too unless it is told not to",
    ),
    (
        "self.down = nn.Linear(d_ff, d_model, bias=bias)",
        "self.down = nn.Linear(d_ff, d_model)",
        "bias=False must hold for all layers; down still has one",
    ),
    (
        '        if kind == "swiglu":\n            self.gate',
        "        if True:\n            self.gate",
        "only swiglu has a gate: the others would carry parameters that are never used",
    ),
    (
        '        if kind not in ("relu", "gelu", "swiglu"):\n',
        "        if False:\n",
        "an unknown kind is not refused with a ValueError",
    ),
)


class EncoderBlock(nn.Module):
    """Attention, then a feed-forward network, each with a residual step and a norm.

    The parts are ``attention``, Day 33's ``MultiHeadAttention``; ``feed_forward``, a
    ``FeedForward`` of this ``kind``; and ``norm1`` and ``norm2``, two
    ``nn.LayerNorm(d_model)``, which belong to attention and to the network.

    Source: Vaswani et al. 2017, sec. 3.1; equal to ``nn.TransformerEncoderLayer`` with
    ``batch_first=True``.
    """

    def __init__(
        self,
        d_model: int,
        heads: int,
        d_ff: int,
        *,
        kind: str = "relu",
        dropout: float = 0.0,
        norm_first: bool = False,
    ) -> None:
        """Make the parts.

        With ``norm_first`` False a part ``f`` and its norm make
        ``norm(x + f(x))``; with True, ``x + f(norm(x))``.

        ``dropout`` is the probability with which, while the module trains, a weight of
        attention, an entry of the hidden layer, or an entry of what a part adds to
        ``x`` is dropped; in evaluation nothing is dropped.

        Raises ValueError that says ``heads`` if ``heads`` is below 1 or does not
        divide ``d_model``, and one that says ``kind`` for an unknown ``kind``.
        """
        super().__init__()
        self.norm_first = norm_first
        self.attention = MultiHeadAttention(d_model, heads, dropout=dropout)
        self.feed_forward = FeedForward(d_model, d_ff, kind=kind, dropout=dropout)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """``(B, n, d_model)`` to ``(B, n, d_model)``; ``x`` is left unchanged.

        ``mask`` and ``causal`` are attention's: a bool mask is True where a query may
        look, a float mask is added to the scores; with ``causal`` no query sees a key
        after its own position.
        """

        def attend(x: Tensor) -> Tensor:
            return self.attention(x, mask=mask, causal=causal)[0]

        for part, norm in ((attend, self.norm1), (self.feed_forward, self.norm2)):
            if self.norm_first:
                x = x + self.dropout(part(norm(x)))
            else:
                x = norm(x + self.dropout(part(x)))
        return x


known_mistakes(
    EncoderBlock,
    (
        "x = norm(x + self.dropout(part(x)))",
        "x = norm(self.dropout(part(x)))",
        "the residual step is missing: x must be added to what the part gives",
    ),
    (
        "x = norm(x + self.dropout(part(x)))",
        "x = x + norm(self.dropout(part(x)))",
        "the norm is taken of the part's output alone; it belongs on the sum",
    ),
    (
        "x = x + self.dropout(part(norm(x)))",
        "x = norm(x)\n                x = x + self.dropout(part(x))",
        "with norm_first only the part reads the norm; what is added to must be x itself",
    ),
    (
        "            if self.norm_first:\n",
        "            if not self.norm_first:\n",
        "norm_first is the wrong way round",
    ),
    (
        "            if self.norm_first:\n",
        "            if False:\n",
        "the argument norm_first is ignored: the norm always comes after the sum",
    ),
    (
        "(self.feed_forward, self.norm2)):",
        "(self.feed_forward, self.norm1)):",
        "the same norm is used twice; norm2 belongs to the feed-forward network",
    ),
    (
        "((attend, self.norm1), (self.feed_forward, self.norm2))",
        "((self.feed_forward, self.norm2), (attend, self.norm1))",
        "attention comes first, then the feed-forward network",
    ),
    (
        "mask=mask, causal=causal",
        "mask=mask",
        "the argument causal is not handed on: queries see keys after them",
    ),
    (
        "mask=mask, causal=causal",
        "causal=causal",
        "the mask is not handed on to attention",
    ),
    (
        "x = x + self.dropout(part(norm(x)))",
        "x = x + part(norm(x))",
        "with norm_first nothing that a part adds is dropped",
    ),
    (
        "x = norm(x + self.dropout(part(x)))",
        "x = norm(self.dropout(x + part(x)))",
        "dropout acts on the sum: x itself must always pass",
    ),
    (
        "MultiHeadAttention(d_model, heads, dropout=dropout)",
        "MultiHeadAttention(d_model, heads)",
        "the weights of attention are never dropped",
    ),
    (
        "FeedForward(d_model, d_ff, kind=kind, dropout=dropout)",
        "FeedForward(d_model, d_ff, dropout=dropout)",
        "kind is not handed on: the network is always relu",
    ),
    (
        "FeedForward(d_model, d_ff, kind=kind, dropout=dropout)",
        "FeedForward(d_model, d_ff, kind=kind)",
        "the hidden layer is never dropped",
    ),
)


class Memories(NamedTuple):
    """Memory cells, one a row, read from both sides."""

    prefixes: Tensor
    coefficients: Tensor
    tokens: Tensor
    scores: Tensor


def key_value_memories(
    feed_forward: FeedForward,
    inputs: Tensor,
    unembedding: Tensor,
    cells: Sequence[int],
    *,
    top: int = 5,
) -> Memories:
    """What makes a cell of a feed-forward network fire, and which tokens it favors.

    Parameters
    ----------
    feed_forward:
        Of any kind. Dropout is left out, whether it trains or not.
    inputs:
        ``(N, d_model)``, what the network reads, one row for each prefix.
    unembedding:
        ``(V, d_model)``, one row for each token.
    cells:
        c numbers of cells, from 0 to ``d_ff - 1``; they may repeat.
    top:
        How many prefixes and tokens to give.

    Returns
    -------
    ``Memories``, four detached tensors ``(c, top)``, each row from the largest down:
    ``prefixes``, the rows of ``inputs`` at which the cell's coefficient is largest, and
    these ``coefficients``, what the cell's value is multiplied by; ``tokens``, those
    that the cell's value favors most, and their ``scores``, the products of the value
    with rows of ``unembedding``. Equal entries may come in any order.

    Raises ValueError that says ``cell`` if a number is below 0 or not below ``d_ff``,
    and one that says ``top`` if ``top`` is below 1 or above N or V.

    Source: Geva et al. 2021, "Transformer Feed-Forward Layers Are Key-Value Memories".
    """
    d_ff = feed_forward.down.in_features
    if not all(0 <= cell < d_ff for cell in cells):
        raise ValueError(f"a cell of {list(cells)} is not in 0 to {d_ff - 1}")
    if not 1 <= top <= min(len(inputs), len(unembedding)):
        raise ValueError(
            f"top {top} of {len(inputs)} prefixes and {len(unembedding)} tokens"
        )
    chosen = torch.as_tensor(cells, dtype=torch.long, device=inputs.device)
    with torch.no_grad():
        fired = feed_forward.hidden(inputs)[:, chosen].T  # (c, N)
        favored = feed_forward.down.weight[:, chosen].T @ unembedding.T  # (c, V)
    coefficients, prefixes = fired.topk(top)
    scores, tokens = favored.topk(top)
    return Memories(prefixes, coefficients, tokens, scores)


known_mistakes(
    key_value_memories,
    (
        "feed_forward.hidden(inputs)[:, chosen].T",
        "feed_forward.up(inputs)[:, chosen].T",
        "the coefficient is what multiplies the value: after the activation and the gate",
    ),
    (
        "feed_forward.hidden(inputs)[:, chosen].T",
        "feed_forward.hidden(inputs)[:, chosen].abs().T",
        "the largest coefficient is asked for, with its sign, not the largest size",
    ),
    (
        "feed_forward.down.weight[:, chosen].T @ unembedding.T",
        "feed_forward.up.weight[chosen] @ unembedding.T",
        "a row of up is the key; the value is a column of down",
    ),
    (
        "feed_forward.down.weight[:, chosen].T @ unembedding.T",
        "(feed_forward.down.weight[:, chosen].T + feed_forward.down.bias) @ unembedding.T",
        "the bias of down is added once, whatever fires: it belongs to no cell",
    ),
    (
        "fired.topk(top)",
        "fired.topk(top, largest=False)",
        "the smallest coefficients came; the largest are asked for",
    ),
    (
        "favored.topk(top)",
        "favored.softmax(-1).topk(top)",
        "the scores are products, not probabilities",
    ),
    (
        "fired.topk(top)",
        "feed_forward.dropout(fired).topk(top)",
        "cells are dropped at random while the module trains",
    ),
    (
        "0 <= cell < d_ff",
        "cell < d_ff",
        "a negative number counts from the end, and is not refused",
    ),
    (
        "0 <= cell < d_ff",
        "0 <= cell <= d_ff",
        "the last cell is d_ff - 1",
    ),
    (
        "    if not 1 <= top <= min(len(inputs), len(unembedding)):\n",
        "    if not 1 <= top <= len(inputs):\n",
        "more tokens than the vocabulary holds are not refused with a ValueError",
    ),
    (
        "    return Memories(prefixes, coefficients, tokens, scores)\n",
        "    return Memories(coefficients, prefixes, tokens, scores)\n",
        "topk gives the values first and the places second",
    ),
    (
        "    with torch.no_grad():\n",
        "    if True:\n",
        "the results are not detached: they keep the whole computation in memory",
    ),
    (
        "    with torch.no_grad():\n        fired = feed_forward.hidden(inputs)[:, chosen].T  # (c, N)\n        favored = feed_forward.down.weight[:, chosen].T @ unembedding.T  # (c, V)\n",
        "    fired = feed_forward.hidden(inputs)[:, chosen].T.detach()  # (c, N)\n    favored = feed_forward.down.weight.detach()[:, chosen].T @ unembedding.T\n",
        "the unembedding may be learned too: its products must be detached as well",
    ),
)
