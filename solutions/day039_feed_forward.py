"""Day 39: the feed-forward network of a Transformer, the encoder block around it, and its
cells read as memories."""

from __future__ import annotations

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
        if kind == "swiglu":
            self.gate = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def hidden(self, x: Tensor) -> Tensor:
        """What the cells hold, before dropout: ``(..., d_model)`` to ``(..., d_ff)``."""
        if self.kind == "swiglu":
            return F.silu(self.gate(x)) * self.up(x)
        return (F.relu if self.kind == "relu" else F.gelu)(self.up(x))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., d_model)`` to ``(..., d_model)``."""
        return self.down(self.dropout(self.hidden(x)))


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
